"""A stage of the pipeline: what it left, and whether it has to be done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.progress import say
from tldeploy.recipe import Recipe
from tldeploy.staleness import tell_why

RecipeLike = Recipe | str | Path


@dataclass(frozen=True)
class Outcome:
    """What a stage left: its artifact's folder and manifest, and whether it was there already."""

    stage: str
    folder: Path
    skipped: bool
    manifest: Manifest


def alone(asked: str) -> None:
    """Raise UsageError in one of several processes that torchrun or accelerate started: only `tune` shares its work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = "several processes were started together, which only the tune stage can share"
        raise UsageError(asked, found, "start them for `tldeploy tune`, and this as one process")


def loaded(recipe: RecipeLike) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)


def unless_current(
    stage: str,
    folder: Path,
    inputs: str,
    force: bool,
    work: Callable[[], Manifest],
    parents: Mapping[str, str] | None = None,
    *,
    measures: bool = False,
    otherwise: str = "",
) -> Outcome:
    """Skip the work where its artifact is current; where one is there and is not, say why."""
    skipped = not force and artifacts.is_current(folder, stage, inputs)
    if not skipped and not force:
        tell_why(stage, folder, parents or {}, measures, otherwise or f"the recipe's `{stage}`, or tldeploy")
    outcome = Outcome(stage, folder, skipped, artifacts.load(folder, stage) if skipped else work())
    tell(outcome)
    return outcome


def tell(outcome: Outcome) -> None:
    say(f"{outcome.stage}: {'unchanged, kept' if outcome.skipped else 'done'} ({outcome.folder})")


def check_lineage(recipe: Recipe, behind: dict[str, Manifest], verb: str = "bench") -> None:
    """Raise ArtifactError if a stage was run again and the stages after it were not: figures would be of two models."""
    for kind, parent in (("export", "tune"), ("deploy", "export")):
        if kind in behind and behind[kind].parents[parent] != behind[parent].sha256:
            found = f"the {kind} artifact was made from another {parent} artifact than the one that is there now"
            raise ArtifactError(f"{verb} {recipe.name}", found, f"run `tldeploy {kind} {recipe.folder}` first")
