"""The tune stage: labelled rows and a pretrained backbone in, a tuned network out.

1. Rows are read and split; the splits are written into the artifact, so that later stages measure on the same rows.
2. Every method of the recipe is run from the same pretrained weights and measured on validation and on test rows.
3. One is kept: the one that the recipe names, or the best on the *validation* rows. Test rows decide nothing.
4. With `adapt`, that one is where adaptation to the target domain starts (adaptation/adapt.py), and test rows are the
   target's where they have labels.
"""

from __future__ import annotations

import hashlib
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
from tldeploy.data.profile import repeats
from tldeploy.data.rows import Rows, Splits, split_rows
from tldeploy.data.target import read_target
from tldeploy.progress import say
from tldeploy.recipe import Method, Recipe, Tune
from tldeploy.tasks.classification import Classification
from tldeploy.tuning.adaptation.adapt import about_target, adapt, distance
from tldeploy.tuning.features import feature_extraction
from tldeploy.tuning.fine_tuning import fine_tuning
from tldeploy.tuning.job import Job, Logits, Part, Tuned

SPLITS = ("train", "validation", "test")

METHODS: dict[Method, Callable[[Job], Tuned]] = {
    "feature-extraction": feature_extraction,
    "fine-tuning": fine_tuning,
}


def tune(recipe: Recipe, folder: Path, inputs: str, parents: dict[str, str]) -> Manifest:
    """Run the recipe's methods and write the kept network into `folder`, an artifact of kind "tune".

    Besides the network it holds the task's preprocessing and {train,validation,test}.jsonl.
    """
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    target = None
    if recipe.adapt is not None:
        target = read_target(recipe.adapt, recipe.data, splits.labels, recipe.folder, recipe.task)
        splits = replace(splits, test=target.test or splits.test)
    counts = (len(splits.train), len(splits.validation), len(splits.test))
    say("tune: {} rows to learn from, {} to choose by, {} held out".format(*counts))
    with artifacts.writing(folder) as beside:
        network, task = load_pretrained(recipe, splits.labels, beside)
        job = _job(recipe, network, task, splits)
        decisions = [distance(job, target), *about_target(target)] if target else []
        tuned: dict[str, Tuned] = {}
        measured: dict[str, dict[str, Any]] = {}
        for method in recipe.tune.methods:
            start = time.monotonic()
            found = tuned[method] = METHODS[method](job)
            measured[method] = {
                "validation": _measured(task, splits.validation, found.validation),
                "test": _measured(task, splits.test, found.test),
                "seconds": round(time.monotonic() - start, 1),
                **found.details,
            }
        choice = _choose(recipe.tune, measured, task.metric_name)
        kept = choice.value
        if target is not None and recipe.adapt is not None:
            decisions.append(choice.model_copy(update={"about": "source-only"}))
            adapted = adapt(recipe.adapt, job, target, kept, tuned[kept])
            kept, tuned[adapted.name] = adapted.name, adapted.kept
            for name, figures in adapted.figures.items():
                measured[name] = {**measured.get(name, {}), **figures}
            decisions += adapted.decisions
        else:
            decisions.append(choice)
        tuned[kept].network.save(beside)
        task.save(beside)
        for name in SPLITS:
            rows: Rows = getattr(splits, name)
            rows.save(beside / f"{name}.jsonl", with_images=name != "train")
        manifest = Manifest(
            kind="tune",
            name=recipe.name,
            inputs=inputs,
            task=task.name,
            labels=splits.labels,
            preprocessing=task.preprocessing,
            metrics=measured,
            decisions=[*decisions, *_about_rows(splits)],
            environment=environment.describe(),
            parents=parents,
            details={"backbone": recipe.backbone.source, "kept": kept},
        )
        return artifacts.seal(beside, manifest)


def _job(recipe: Recipe, network: Network, task: Classification, splits: Splits) -> Job:
    cache = recipe.folder / ".cache"

    def part(rows: Rows) -> Part:
        return Part(task.examples(rows.inputs, cache), rows.classes)

    return Job(
        settings=recipe.tune,
        task=task,
        network=network,
        weights=_weights_fingerprint(network),
        train=part(splits.train),
        validation=part(splits.validation),
        test=part(splits.test),
        cache=cache,
        folder=recipe.folder,
    )


def _measured(task: Classification, rows: Rows, logits: Logits) -> dict[str, Any]:
    return task.measure(rows.classes, task.decode(logits)).as_json()


def _weights_fingerprint(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def _choose(settings: Tune, measured: dict[str, dict[str, Any]], metric: str) -> Choice:
    scores = {method: found["validation"]["value"] for method, found in measured.items()}
    table = ", ".join(f"{method} {score:.4f}" for method, score in scores.items())
    if settings.keep != "best":
        reason = f"the recipe keeps it; {metric} on validation rows: {table}"
        return Choice(about="method", value=settings.keep, reason=reason)
    best = max(scores, key=lambda method: scores[method])
    return Choice(about="method", value=best, reason=f"best {metric} on validation rows: {table}")


def _about_rows(splits: Splits) -> list[Choice]:
    """What the data has in it that the figures must be read with."""
    found = []
    if splits.left_out:
        place, why = splits.left_out[0]
        reason = f"there is nothing to learn from them; the first: {place}, {why}"
        found.append(Choice(about="rows left out", value=len(splits.left_out), reason=reason))
    if leaked := repeats(splits).leaked:
        reason = "they occur in the rows that are learnt from too, which flatters the held-out figures"
        found.append(Choice(about="held-out rows that are not new", value=leaked, reason=reason))
    return found
