"""The tune stage: labelled rows and a pretrained backbone in, a tuned network out.

1. Rows are read and split; the splits are written into the artifact, so that later stages measure on the same rows.
   What the recipe asks for and the network cannot take is refused (misfits.py).
2. Every method of the recipe is run from the same pretrained weights and measured on validation and on test rows.
3. One is kept: the one that the recipe names, or the best on the *validation* rows. Test rows decide nothing.
4. With `adapt`, that one is where adaptation to the target domain starts (adaptation/adapt.py), and test rows are the
   target's where they have labels.

Of several processes that train together (ranks.py) the first one does all of this; the others train along, no more.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy import artifacts, environment
from tldeploy.artifacts import Choice, Manifest
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import Network
from tldeploy.data import health
from tldeploy.data.coverage import covering
from tldeploy.data.rows import Rows, Splits, split_rows
from tldeploy.data.target import Target, read_target
from tldeploy.errors import RecipeError
from tldeploy.progress import say
from tldeploy.recipe import Method, Recipe, Tune
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import confusion, per_class
from tldeploy.tuning import ranks
from tldeploy.tuning.adaptation.adapt import about_target, adapt, distance
from tldeploy.tuning.calibrate import calibrate, words
from tldeploy.tuning.card import CARD, model_card
from tldeploy.tuning.device import chosen
from tldeploy.tuning.distillation import distillation
from tldeploy.tuning.features import feature_extraction, weights_fingerprint
from tldeploy.tuning.few_shot import few_shot
from tldeploy.tuning.fine_tuning import CHECKPOINTS, fine_tuning
from tldeploy.tuning.from_scratch import from_scratch
from tldeploy.tuning.job import Job, Logits, Part, Tuned
from tldeploy.tuning.lora import lora
from tldeploy.tuning.misfits import refuse_misfits

SPLITS = ("train", "validation", "test")
CALIBRATION_ROWS, MOST_TYPICAL = "calibration.jsonl", 512
FINDINGS = "findings.json"  # what was found in the rows, to every row that it was found in

# Methods in which nothing is trained together: the first process is enough for them.
ALONE: tuple[Method, ...] = ("feature-extraction", "few-shot")
METHODS: dict[Method, Callable[[Job], Tuned]] = {
    "feature-extraction": feature_extraction,
    "fine-tuning": fine_tuning,
    "lora": lora,
    "few-shot": few_shot,
    "distillation": distillation,
    "from-scratch": from_scratch,
}


def tune(recipe: Recipe, folder: Path, inputs: str, parents: dict[str, str]) -> Manifest:
    """Run the recipe's methods and write the kept network into `folder`, an artifact of kind "tune".

    Besides the network it holds the task's preprocessing, {train,validation,test,calibration}.jsonl, and findings.json:
    every row that is named in the decisions about rows.
    """
    if recipe.adapt is not None and ranks.world() > 1:
        found = "the recipe adapts to another domain, which several processes cannot share"
        raise RecipeError("tune in several processes", found, "run `tldeploy tune` as one process")
    with ranks.together():
        if ranks.rank() > 0:
            _train_along(recipe)
            ranks.meet()
            return artifacts.load(folder, "tune")
        manifest = _lead(recipe, folder, inputs, parents)
        ranks.meet()
    shutil.rmtree(_cache(recipe) / CHECKPOINTS, ignore_errors=True)  # the result is sealed
    return manifest


def _train_along(recipe: Recipe) -> None:
    """What a process does that is not the first: it shares the training, and writes nothing that stays."""
    splits, _ = _read_rows(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        network, task = load_pretrained(recipe, splits.labels, Path(scratch))
        ranks.meet()  # the first process has encoded the rows
        job = _job(recipe, network, task, splits)
        refuse_misfits(job)
        for method in recipe.tune.methods:
            if method not in ALONE:
                METHODS[method](job)


def _lead(recipe: Recipe, folder: Path, inputs: str, parents: dict[str, str]) -> Manifest:
    splits, target = _read_rows(recipe)
    counts = (len(splits.train), len(splits.validation), len(splits.test))
    say("tune: {} rows to learn from, {} to choose by, {} held out".format(*counts))
    findings = _about_rows(splits, target)
    about_rows = [found.choice for found in findings]
    with artifacts.writing(folder) as beside:
        network, task = load_pretrained(recipe, splits.labels, beside)
        job = _job(recipe, network, task, splits)
        ranks.meet()
        refuse_misfits(job)
        if target is not None:
            about_rows += [distance(job, target), about_target(target)]
        for line in about_rows:
            say(f"tune: {line.about}: {line.value} ({line.reason})")
        tuned: dict[str, Tuned] = {}
        measured: dict[str, dict[str, Any]] = {}
        for method in recipe.tune.methods:
            start = time.monotonic()
            result = tuned[method] = METHODS[method](job)
            measured[method] = {
                "validation": _measured(task, splits.validation, result.validation),
                "test": _measured(task, splits.test, result.test),
                "seconds": round(time.monotonic() - start, 1),
                **result.details,
            }
        choice = _choose(recipe.tune, measured, task.metric_name)
        name, kept, decisions = choice.value, tuned[choice.value], [choice]
        if target is not None and recipe.adapt is not None:
            adapted = adapt(recipe.adapt, job, target, name, kept)
            name, kept = adapted.name, adapted.kept
            tuned[name] = kept
            for candidate, figures in adapted.figures.items():
                measured[candidate] = {**measured.get(candidate, {}), **figures}
            decisions = [choice.model_copy(update={"about": "source-only"}), *adapted.decisions]
        source = recipe.backbone.source
        details: dict[str, Any] = {"backbone": source, "is_on_hub": not recipe.path(source).exists(), "kept": name}
        if recipe.tune.calibration:
            details["calibration"] = calibration = calibrate(kept, job)
            value, reason = round(calibration["temperature"], 3), words(calibration)
            decisions.append(Choice(about="temperature", value=value, reason=reason))
        details["curves"] = {method: found.curves for method, found in tuned.items() if found.curves}
        counted = confusion(splits.test.classes, task.decode(kept.test), len(task.labels))
        details["classes"] = per_class(counted, task.labels)
        manifest = Manifest(
            kind="tune",
            name=recipe.name,
            inputs=inputs,
            task=task.name,
            labels=splits.labels,
            preprocessing=task.preprocessing,
            metrics=measured,
            decisions=[*decisions, chosen(), *about_rows],
            environment=environment.describe(),
            parents=parents,
            details=details,
        )
        _write(beside, recipe, manifest, kept, task, splits)
        rows_found = {found.about: list(found.rows) for found in findings if found.rows}
        (beside / FINDINGS).write_text(json.dumps(rows_found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _typical(job, splits, target).save(beside / CALIBRATION_ROWS)
        return artifacts.seal(beside, manifest)


def _read_rows(recipe: Recipe) -> tuple[Splits, Target | None]:
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    if recipe.adapt is None:
        return splits, None
    target = read_target(recipe.adapt, recipe.data, splits.labels, recipe.folder, recipe.task)
    return replace(splits, test=target.test or splits.test), target


def _write(folder: Path, recipe: Recipe, manifest: Manifest, kept: Tuned, task: Classification, splits: Splits) -> None:
    """Everything in the artifact but its manifest."""
    kept.network.save(folder)
    task.save(folder)
    counts = {}
    for split in SPLITS:
        rows: Rows = getattr(splits, split)
        rows.save(folder / f"{split}.jsonl", with_images=split != "train")
        numbers = np.bincount(rows.classes, minlength=len(splits.labels)).tolist()
        counts[split] = dict(zip(splits.labels, numbers, strict=True))
    (folder / CARD).write_text(model_card(manifest, recipe.tune, counts), encoding="utf-8")


def _typical(job: Job, splits: Splits, target: Target | None) -> Rows:
    """Rows as the model will meet them, none of them held out: what the quantizer takes the ranges of activations from.

    Those of another domain have no label that counts.
    """
    if target is None:
        rows, lengths = splits.train, job.train.examples.lengths
    else:
        rows = target.rows
        lengths = job.task.examples(rows.inputs, job.cache).lengths
    return rows.take(covering(rows.classes, lengths, MOST_TYPICAL))


def _cache(recipe: Recipe) -> Path:
    return recipe.folder / ".cache"


def _job(recipe: Recipe, network: Network, task: Classification, splits: Splits) -> Job:
    cache = _cache(recipe)

    def part(rows: Rows) -> Part:
        return Part(task.examples(rows.inputs, cache), rows.classes)

    return Job(
        settings=recipe.tune,
        task=task,
        network=network,
        weights=weights_fingerprint(network.backbone),
        train=part(splits.train),
        validation=part(splits.validation),
        test=part(splits.test),
        cache=cache,
        folder=recipe.folder,
        rows=splits.train.inputs,
    )


def _measured(task: Classification, rows: Rows, logits: Logits) -> dict[str, Any]:
    return task.measure(rows.classes, task.decode(logits)).as_json()


def _choose(settings: Tune, measured: dict[str, dict[str, Any]], metric: str) -> Choice:
    scores = {method: found["validation"]["value"] for method, found in measured.items()}
    table = ", ".join(f"{method} {score:.4f}" for method, score in scores.items())
    if settings.keep != "best":
        reason = f"the recipe keeps it; {metric} on validation rows: {table}"
        return Choice(about="method", value=settings.keep, reason=reason)
    best = max(scores, key=lambda method: scores[method])
    tied = [method for method in scores if scores[method] == scores[best]]
    settled = f"; {' and '.join(tied)} tie, and the recipe has {best} first" if len(tied) > 1 else ""
    return Choice(about="method", value=best, reason=f"best {metric} on validation rows: {table}{settled}")


def _about_rows(splits: Splits, target: Target | None) -> list[health.Finding]:
    """What the data has in it, and lacks, that the figures must be read with."""
    found = [health.left_out(splits.left_out)] if splits.left_out else []
    found += health.findings(splits)
    return found if target is None else [*found, *health.target_findings(target, splits)]
