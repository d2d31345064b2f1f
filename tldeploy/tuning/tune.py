"""The tune stage: labelled rows and a pretrained backbone in, a tuned network out.

1. Rows are read and split; the splits are written into the artifact, so that later stages measure on the same rows.
2. Every method of the recipe is run from the same pretrained weights and measured on validation and on test rows.
3. One is kept: the one that the recipe names, or the best on the *validation* rows. Test rows decide nothing.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tldeploy import artifacts, environment
from tldeploy.artifacts import Choice, Manifest
from tldeploy.backbones.network import TextNetwork
from tldeploy.backbones.text import TextBackbone, load_text_backbone
from tldeploy.data.profile import repeats
from tldeploy.data.rows import Rows, Splits, split_rows
from tldeploy.progress import say
from tldeploy.recipe import Method, Recipe, Tune
from tldeploy.tasks.metrics import Classes
from tldeploy.tasks.text_classification import TOKENIZER, TextClassification
from tldeploy.tuning.features import FeatureCache, classes_from_features, extract_features, fit_head
from tldeploy.tuning.fine_tuning import fine_tune

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Tuned:
    network: TextNetwork
    validation: Classes
    test: Classes
    details: dict[str, float]


def tune(recipe: Recipe, folder: Path, inputs: str, parents: dict[str, str]) -> Manifest:
    """Run the recipe's methods and write the kept network into `folder`, an artifact of kind "tune".

    Besides the network it holds tokenizer.json, encoder.json and {train,validation,test}.jsonl.
    """
    splits = split_rows(recipe.data, recipe.folder)
    counts = (len(splits.train), len(splits.validation), len(splits.test))
    say("tune: {} rows to learn from, {} to choose by, {} held out".format(*counts))
    backbone = load_text_backbone(recipe.backbone, recipe.folder)
    with artifacts.writing(folder) as beside:
        (beside / TOKENIZER).write_text(backbone.tokenizer_json, encoding="utf-8")
        task = TextClassification(splits.labels, backbone.encoder, beside / TOKENIZER)
        tuned: dict[str, _Tuned] = {}
        measured: dict[str, dict[str, Any]] = {}
        for method in recipe.tune.methods:
            start = time.monotonic()
            tuned[method] = _METHODS[method](recipe, backbone, splits)
            measured[method] = {
                "validation": task.measure(splits.validation.classes, tuned[method].validation).as_json(),
                "test": task.measure(splits.test.classes, tuned[method].test).as_json(),
                "seconds": round(time.monotonic() - start, 1),
                **tuned[method].details,
            }
        choice = _choose(recipe.tune, measured, task.metric_name)
        tuned[choice.value].network.save(beside)
        task.save(beside)
        for name in SPLITS:
            rows: Rows = getattr(splits, name)
            rows.save(beside / f"{name}.jsonl")
        manifest = Manifest(
            kind="tune",
            name=recipe.name,
            inputs=inputs,
            task=task.name,
            labels=splits.labels,
            preprocessing=task.preprocessing,
            metrics=measured,
            decisions=[choice, *_about_rows(splits)],
            environment=environment.describe(),
            parents=parents,
            details={"backbone": recipe.backbone.source, "kept": choice.value},
        )
        return artifacts.seal(beside, manifest)


def _feature_extraction(recipe: Recipe, backbone: TextBackbone, splits: Splits) -> _Tuned:
    network = _fresh_network(recipe, backbone, splits)
    cache = FeatureCache(recipe.folder / ".cache", _weights_fingerprint(backbone))
    features = {name: cache.features(network, backbone.encoder, getattr(splits, name).texts, name) for name in SPLITS}
    inverse_regularisation = fit_head(network, features["train"], splits.train.classes, recipe.tune.seed)
    validation, test = (classes_from_features(network, features[name]) for name in ("validation", "test"))
    return _Tuned(network, validation, test, {"inverse_regularisation": inverse_regularisation})


def _fine_tuning(recipe: Recipe, backbone: TextBackbone, splits: Splits) -> _Tuned:
    network = _fresh_network(recipe, backbone, splits)
    details = fine_tune(network, backbone.encoder, splits.train, recipe.tune)
    validation, test = (
        classes_from_features(network, extract_features(network, backbone.encoder, rows.texts, f"predict {name} rows"))
        for name, rows in (("validation", splits.validation), ("test", splits.test))
    )
    return _Tuned(network, validation, test, details)


_METHODS: dict[Method, Callable[[Recipe, TextBackbone, Splits], _Tuned]] = {
    "feature-extraction": _feature_extraction,
    "fine-tuning": _fine_tuning,
}


def _fresh_network(recipe: Recipe, backbone: TextBackbone, splits: Splits) -> TextNetwork:
    """Every method starts from the pretrained weights, and from the same head."""
    torch.manual_seed(recipe.tune.seed)
    model = copy.deepcopy(backbone.model)
    return TextNetwork(model, recipe.backbone.pooling, len(splits.labels), recipe.tune.dropout)


def _weights_fingerprint(backbone: TextBackbone) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
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
    if splits.without_text:
        reason = "their text is empty, so there is nothing to learn from them"
        found.append(Choice(about="rows left out", value=splits.without_text, reason=reason))
    if leaked := repeats(splits).leaked:
        reason = "their text occurs in the rows that are learnt from too, which flatters the held-out figures"
        found.append(Choice(about="held-out rows that are not new", value=leaked, reason=reason))
    return found
