"""Backbones ranked for a task before any of them is trained, by LogME on the features of the training rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tldeploy.backbones.load import load_pretrained
from tldeploy.data.rows import Rows, split_rows
from tldeploy.errors import ArtifactError, TldeployError
from tldeploy.progress import say
from tldeploy.recipe import Recipe
from tldeploy.tuning.device import memory_errors
from tldeploy.tuning.features import FeatureCache, weights_fingerprint
from tldeploy.tuning.ranking import log_maximum_evidence


@dataclass(frozen=True)
class Candidate:
    """A backbone as it was named. score: LogME in nats a row, None when it could not be had, for the `reason`.

    seconds: loading and features, or the look-up of features computed before. features: the width of a row's vector.
    """

    backbone: str
    score: float | None = None
    seconds: float | None = None
    features: int | None = None
    parameters: int | None = None
    reason: str | None = None


def rank_backbones(recipe: Recipe, backbones: Sequence[str]) -> list[Candidate]:
    """Best first; behind them those that could not be loaded, or need too much memory, each with its reason.

    backbones: hub ids, folders or files, from the current folder or else from the recipe's.
    Raises ArtifactError when none could be ranked. Validation and test rows are not looked at.
    """
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    labels, rows = splits.labels, splits.train
    del splits
    say(f"rank: {len(backbones)} backbones on {len(rows)} training rows")
    found = []
    for backbone in dict.fromkeys(backbones):
        try:
            with memory_errors():
                found.append(_candidate(recipe, backbone, labels, rows))
        except TldeployError as error:
            say(f"rank: {backbone}: {error.found}")
            found.append(Candidate(backbone, reason=error.found))
    if all(candidate.score is None for candidate in found):
        reasons = "; ".join(f"{candidate.backbone}: {candidate.reason}" for candidate in found)
        raise ArtifactError("rank backbones", f"none could be ranked ({reasons})", "give backbones that load")
    return sorted(found, key=lambda candidate: -(candidate.score if candidate.score is not None else float("-inf")))


def _candidate(recipe: Recipe, backbone: str, labels: list[str], rows: Rows) -> Candidate:
    start = time.monotonic()
    source = str(Path(backbone).resolve()) if Path(backbone).exists() else backbone
    own = recipe.backbone
    is_own = backbone == own.source
    settings = own.model_copy(update={"source": source, "revision": own.revision if is_own else None})
    with tempfile.TemporaryDirectory() as scratch:
        network, task = load_pretrained(recipe.model_copy(update={"backbone": settings}), labels, Path(scratch))
        cache = recipe.folder / ".cache"
        examples = task.examples(rows.inputs, cache)
        features = FeatureCache(cache, weights_fingerprint(network.backbone)).features(network, examples, "training")
        score = log_maximum_evidence(features, rows.classes)
    parameters = sum(weight.numel() for weight in network.backbone.parameters())
    return Candidate(backbone, score, round(time.monotonic() - start, 1), features.shape[1], parameters)
