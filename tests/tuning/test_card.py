from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tldeploy.artifacts import Choice, Manifest
from tldeploy.recipe import Lora, Tune
from tldeploy.tuning.card import model_card

LABELS = ["bad|worse", "*so* so", "good"]
COUNTS = {
    "train": {"bad|worse": 607, "*so* so": 98, "good": 871},
    "validation": {"bad|worse": 108, "*so* so": 17, "good": 154},
    "test": {"bad|worse": 716, "*so* so": 114, "good": 1024},
}


def metric(value: float, rows: int) -> dict[str, Any]:
    low, high = value - 0.0217, value + 0.0193
    return {"name": "weighted_f1", "value": value, "low": low, "high": high, "rows": rows, "confidence": 0.95}


def calibration(start: float) -> dict[str, float]:
    names = ("ece_before", "nll_before", "ece_after", "nll_after")
    return {name: start + number / 100 for number, name in enumerate(names)}


MANIFEST = Manifest(
    kind="tune",
    name="reviews",
    inputs="a" * 64,
    task="text-classification",
    labels=LABELS,
    metrics={
        "feature-extraction": {
            "validation": metric(0.7123, 279),
            "test": metric(0.7031, 1854),
            "seconds": 12.3,
            "inverse_regularisation": 0.1,
        },
        "lora": {
            "validation": metric(0.8012, 279),
            "test": metric(0.7934, 1854),
            "seconds": 45.6,
            "trainable_parameters": 123456,
            "trainable_share": 0.0213,
        },
    },
    decisions=[
        Choice(about="method", value="lora", reason="best weighted_f1 on validation rows"),
        Choice(about="rows left out", value=37, reason="there is nothing to learn from them"),
        Choice(about="temperature", value=1.234, reason="fitted"),
    ],
    environment={"python": "3.11.9", "cores": 2, "gpus": [], "packages": {"torch": "2.13.0"}},
    parents={"fetch": "b" * 64},
    details={
        "backbone": "org/small_net",
        "is_on_hub": True,
        "kept": "lora",
        "calibration": {"temperature": 1.2345, "validation": calibration(0.3111), "test": calibration(0.5222)},
        "classes": [
            {"label": label, "f1": f1, "precision": f1 + 0.0101, "recall": f1 - 0.0103, "rows": 3}
            for label, f1 in zip(LABELS, (0.6543, 0.4321, 0.8765), strict=True)
        ],
    },
    files={"head.safetensors": "c" * 64, "README.md": "d" * 64},
)
SETTINGS = Tune(epochs=7, learning_rate=0.003, lora=Lora(rank=4))


@pytest.fixture
def card() -> str:
    return model_card(MANIFEST, SETTINGS, COUNTS)


def header(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def figures(value: Any) -> list[str]:
    """Every number below a part of the manifest, as the card writes it."""
    if isinstance(value, dict):
        return [found for part in value.values() for found in figures(part)]
    if isinstance(value, float):
        return [f"{value:.4f}"]
    return [str(value)] if isinstance(value, int) else []


def test_every_figure_of_the_manifest_is_there(card: str) -> None:
    wanted = figures({name: {**found, "confidence": None} for name, found in MANIFEST.metrics.items()})
    for split in ("validation", "test"):
        for found in MANIFEST.metrics.values():
            wanted.remove(f"{found[split]['confidence']:.4f}")  # as a percentage
    wanted += figures(MANIFEST.details["calibration"])
    wanted += ["95%", "37", "3.11.9", "2.13.0", "607", "98", "871", "1576", "279", "1854", "0.4321", "0.4422", "0.4218"]
    assert [figure for figure in wanted if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", card)] == []
    assert all(sha256 in card for sha256 in ("a" * 64, "b" * 64, "c" * 64))


def test_the_header_is_what_model_hubs_read_and_claims_nothing_unknown(card: str) -> None:
    found = header(card)
    assert found["pipeline_tag"] == "text-classification"
    assert found["base_model"] == "org/small_net"
    assert found["metrics"] == ["weighted_f1"]
    assert {"tldeploy", "lora"} <= set(found["tags"])
    assert found["model-index"][0]["results"][0]["metrics"] == [{"type": "weighted_f1", "value": 0.7934}]
    assert not {"license", "language"} & set(found)


def test_a_folder_is_no_base_model_that_others_could_find() -> None:
    details = {**MANIFEST.details, "backbone": "weights/minilm", "is_on_hub": False}
    assert "base_model" not in header(model_card(MANIFEST.model_copy(update={"details": details}), SETTINGS, COUNTS))


def test_settings_are_named_where_they_differ_from_the_defaults(card: str) -> None:
    assert "- `epochs`: 7\n" in card
    assert "- `learning_rate`: 0.003\n" in card
    assert '"rank": 4' in card
    assert "`batch_size`" not in card
    assert "defaults:\n\n- none\n" in model_card(MANIFEST, Tune(), COUNTS)


def test_the_weakest_and_the_rarest_class_are_named(card: str) -> None:
    assert r"Answered worst on held-out rows: \*so\* so (f1 0.4321, precision 0.4422, recall 0.4218)" in card
    assert r"Fewest rows to learn from: \*so\* so (98 of 1576)" in card


@pytest.mark.parametrize("label", ["a|b", "`code`", "*bold*", "[link](x)", "<b>", "_it_ \\ | ~x~", "# head", "日本"])
def test_no_label_breaks_a_table(label: str) -> None:
    labels = [label, "plain"]
    counts = {split: dict.fromkeys(labels, 5) for split in COUNTS}
    text = model_card(MANIFEST.model_copy(update={"labels": labels}), SETTINGS, counts)
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in table} == {table[0].count("|")}
            table = []
    shown = re.sub(r"\\([\\`*_{}\[\]<>#|~!$&])", r"\1", text)
    assert f"| {label} | 5 | 5 | 5 |" in shown


def test_no_temperature_is_claimed_where_none_was_fitted() -> None:
    calibrated = {**MANIFEST.details["calibration"], "temperature": 1.0}
    details = {**MANIFEST.details, "calibration": calibrated}
    text = model_card(MANIFEST.model_copy(update={"details": details}), SETTINGS, COUNTS)
    assert "Not calibrated: no validation row is answered wrong" in text
    assert "divided by the temperature" not in text


def test_a_manifest_without_calibration_or_classes_says_nothing_of_them() -> None:
    details = {"backbone": "org/small_net", "kept": "lora"}
    text = model_card(MANIFEST.model_copy(update={"details": details}), SETTINGS, COUNTS)
    assert "calibration" not in text
    assert "Answered worst" not in text
