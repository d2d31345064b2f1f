"""The model card of a tuned network: what it is for, what it learnt from, how good it is and where it is weak.

Markdown with the metadata header that model hubs read. Every word follows from the manifest, the settings and the
counts of rows; what they do not say (a licence, a language, intentions) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tldeploy.artifacts import Choice, Manifest
from tldeploy.recipe import Tune
from tldeploy.tasks.calibration import NOT_FITTED, WHY_NOT

CARD = "README.md"
Counts = Mapping[str, Mapping[str, int]]
SPLITS = {"train": "learnt from", "validation": "chosen by", "test": "held out"}
# What a method's entry in the manifest has beside the details of the method itself.
IMPOSSIBLE = "not possible"  # of a method: no finding about the rows
MEASURED = ("validation", "test", "seconds")
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~!$&"} | {"\n": " ", "\r": " "})


def model_card(manifest: Manifest, settings: Tune, counts: Counts) -> str:
    """The text of a README.md beside the network.

    manifest: of a tuned artifact. Where `details` has `classes`, the precision, recall and F1 of each label on held-out
    rows as in a report, the weakest is named. counts: split to label to rows.
    """
    sections = [
        _header(manifest),
        f"# {_plain(manifest.name)}\n\n{_use(manifest)}",
        f"## Data\n\n{_data(manifest, counts)}",
        f"## Tuning\n\n{_tuning(manifest, settings)}",
        f"## Results\n\n{_results(manifest)}",
        f"## Limits\n\n{_limits(manifest, counts)}",
        f"## Environment\n\n{_environment(manifest)}",
        f"## Lineage\n\n{_lineage(manifest)}",
    ]
    return "\n\n".join(sections) + "\n"


def is_about_rows(choice: Choice) -> bool:
    """Whether it is a finding about the rows, and no choice between methods."""
    return choice.about not in {"method", "source-only", "temperature", "device"} and choice.value != IMPOSSIBLE


def _header(manifest: Manifest) -> str:
    backbone = str(manifest.details.get("backbone", ""))
    held_out = _kept(manifest).get("test", {})
    fields: dict[str, Any] = {
        "pipeline_tag": manifest.task,
        "library_name": "transformers",
        "tags": ["tldeploy", "transfer-learning", *([kept] if (kept := manifest.details.get("kept")) else [])],
    }
    if manifest.details.get("is_on_hub"):
        fields["base_model"] = backbone
    if held_out:
        fields["metrics"] = [held_out["name"]]
        result = {"type": held_out["name"], "value": held_out["value"]}
        task, dataset = {"type": manifest.task}, {"type": "own", "name": "held-out rows", "split": "test"}
        results = [{"task": task, "dataset": dataset, "metrics": [result]}]
        fields["model-index"] = [{"name": manifest.name, "results": results}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _use(manifest: Manifest) -> str:
    row = {"text-classification": "a text", "image-classification": "an image"}.get(manifest.task, "a row")
    labels = ", ".join(_plain(label) for label in manifest.labels)
    return (
        f"This network gives {row} the probability of each of {len(manifest.labels)} classes: {labels}. "
        "It is meant for input like the rows it learnt from, described below, and was measured on such rows only. "
        f"It was tuned from {_plain(manifest.details.get('backbone', 'a pretrained backbone'))}."
    )


def _data(manifest: Manifest, counts: Counts) -> str:
    heads = ["class", *(f"{split}, {SPLITS[split]}" if split in SPLITS else split for split in counts)]
    rows = [[label, *(split.get(label, 0) for split in counts.values())] for label in manifest.labels]
    rows.append(["all", *(sum(split.values()) for split in counts.values())])
    findings = [choice for choice in manifest.decisions if is_about_rows(choice)]
    lines = [f"- {_plain(found.about)}: {_value(found.value)}. {_plain(found.reason)}" for found in findings]
    return "\n\n".join([_table(heads, rows), *(["Found in the rows:\n\n" + "\n".join(lines)] if lines else [])])


def _tuning(manifest: Manifest, settings: Tune) -> str:
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    lines = "\n".join(f"- `{name}`: {_value(value)}" for name, value in changed.items()) or "- none"
    choice = next((found for found in manifest.decisions if found.about == "method"), None)
    why = f"Kept: {_plain(choice.value)}. {_plain(choice.reason)}" if choice else ""
    methods = [
        [method, _metric(found.get("validation")), _metric(found.get("test")), _value(found.get("seconds", "")), rest]
        for method, found in manifest.metrics.items()
        for rest in ["; ".join(f"{name} {_number(found[name])}" for name in found if name not in MEASURED)]
    ]
    heads = ["method", "validation rows", "held-out rows", "seconds", "details"]
    parts = [f"Settings that differ from the defaults:\n\n{lines}", _table(heads, methods), why]
    return "\n\n".join(part for part in parts if part)


def _results(manifest: Manifest) -> str:
    parts = []
    for split, words in (("test", "held-out rows"), ("validation", "validation rows, by which it was chosen")):
        if found := _kept(manifest).get(split):
            share = f"{found['confidence']:.0%}"
            parts.append(
                f"{_plain(found['name'])} on {found['rows']} {words}: {_number(found['value'])}, {share} interval "
                f"{_number(found['low'])} … {_number(found['high'])}."
            )
    if calibration := manifest.details.get("calibration"):
        rows = [
            [split, name, figures[f"{key}_before"], figures[f"{key}_after"]]
            for split in ("validation", "test")
            for key, name in (("ece", "expected calibration error"), ("nll", "negative log-likelihood"))
            if (figures := calibration.get(split))
        ]
        temperature = calibration["temperature"]
        fitted = f"Logits are divided by the temperature {_number(temperature)} before the softmax."
        parts.append(f"Not calibrated: {WHY_NOT}." if temperature == NOT_FITTED else fitted)
        parts.append(_table(["rows", "calibration", "before", "after"], rows))
    return "\n\n".join(parts)


def _limits(manifest: Manifest, counts: Counts) -> str:
    lines = []
    weakest = min(manifest.details.get("classes", []), key=lambda entry: entry["f1"], default=None)
    if weakest and weakest["f1"] < 1:
        figures = ", ".join(f"{name} {_number(weakest[name])}" for name in ("f1", "precision", "recall"))
        lines.append(f"- Answered worst on held-out rows: {_plain(weakest['label'])} ({figures}).")
    if train := counts.get("train"):
        rarest = min(train, key=lambda label: train[label])
        lines.append(f"- Fewest rows to learn from: {_plain(rarest)} ({train[rarest]} of {sum(train.values())}).")
    lines.append("- It answers every input with one of its classes, also input that belongs to none of them.")
    return "\n".join(lines)


def _environment(manifest: Manifest) -> str:
    flat = {name: value for name, value in manifest.environment.items() if name != "packages"}
    return _table(["what", "found"], [*flat.items(), *manifest.environment.get("packages", {}).items()])


def _lineage(manifest: Manifest) -> str:
    rows = [["inputs", manifest.inputs], *manifest.parents.items(), *manifest.files.items()]
    return _table(["what", "sha256"], [[name, sha256] for name, sha256 in rows if Path(name).name != CARD])


def _kept(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest.metrics.get(str(manifest.details.get("kept")), {})
    return found


def _metric(found: Mapping[str, Any] | None) -> str:
    return f"{_number(found['value'])} ({_number(found['low'])} … {_number(found['high'])})" if found else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *([_value(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    return _plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _number(value: Any) -> str:
    """Four digits after the point are more than a metric is known to; small settings keep their own."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.4g}"
    return _value(value)


def _plain(text: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    return str(text).translate(_SPECIAL)
