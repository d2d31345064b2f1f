"""The verbs up to a tuned network: fetch, rank, find a rate, search, tune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.data.own_files import own_files
from tldeploy.devices import Device
from tldeploy.pipeline.places import to_train
from tldeploy.pipeline.stage import Outcome, RecipeLike, alone, loaded, unless_current
from tldeploy.recipe import Recipe
from tldeploy.recipe.tuning import TrainedOn
from tldeploy.tuning.device import computing

if TYPE_CHECKING:
    from tldeploy.tuning.candidates import Candidate
    from tldeploy.tuning.finder import Suggestion
    from tldeploy.tuning.search import Searched

TUNED_FORMAT = 2  # with calibration.jsonl


def fetch(recipe: RecipeLike, force: bool = False) -> Outcome | None:
    """Get the files that the recipe's `fetch` section declares, by hash. None when it declares none."""
    from tldeploy.data.fetch import fetch_files

    recipe = loaded(recipe)
    if not recipe.fetch:
        return None
    folder, inputs = recipe.path("data"), fingerprint(recipe.section("name", "fetch"))

    def run_stage() -> Manifest:
        return fetch_files(recipe.fetch, folder, recipe.name, inputs, force)

    return unless_current("fetch", folder, inputs, force, run_stage, otherwise="the recipe's `name` or `fetch`")


def tune(recipe: RecipeLike, force: bool = False, *, device: Device | None = None) -> Outcome:
    """Adapt the backbone to the labelled rows by every method of the recipe; keep one.

    device: instead of the recipe's `tune.device`, here and in the other verbs of this room. An artifact that was tuned
    elsewhere is as good. Raises MachineError where a GPU is asked for that this machine, or its PyTorch, has not.
    """
    from tldeploy.tuning import ranks

    recipe = loaded(recipe)
    place = to_train(recipe, device)
    with computing(place), ranks.together():
        with ranks.first_then_others():
            fetched = fetch(recipe)
        return tune_stage(recipe, fetched, force, place)


def find_rate(recipe: RecipeLike, *, device: Device | None = None) -> tuple[Suggestion, Path]:
    """A learning rate for fine-tuning by a range test on the training rows; and the plot of it, `find-rate.html`."""
    from tldeploy.tuning.rates import find_rate_of

    alone("find a learning rate")
    recipe = loaded(recipe)
    place = to_train(recipe, device, "find a rate for")
    fetch(recipe)
    with computing(place):
        return find_rate_of(recipe)


def tune_stage(recipe: Recipe, fetched: Outcome | None, force: bool, place: TrainedOn) -> Outcome:
    """`tune`, once the files are fetched."""
    parents = {"fetch": fetched.manifest.sha256} if fetched else {}
    folder = recipe.path("tuned")
    sections = recipe.section("name", "task", "data", "backbone", "tune", "adapt")
    inputs = fingerprint([TUNED_FORMAT, sections, parents, own_files(recipe), *_teacher(recipe)])

    def run_stage() -> Manifest:
        from tldeploy.tuning.tune import tune as run_tune

        with computing(place):
            return run_tune(recipe, folder, inputs, parents)

    otherwise = f"the recipe's {', '.join(f'`{name}`' for name in sections)}, a file that it names, or tldeploy"
    return unless_current("tune", folder, inputs, force, run_stage, parents, otherwise=otherwise)


def _teacher(recipe: Recipe) -> list[str]:
    """The hash of the artifact that a student is to learn from. Raises ArtifactError if it is not there."""
    distillation = recipe.tune.distillation
    if distillation is None or "distillation" not in recipe.tune.methods:
        return []
    return [artifacts.read(recipe.path(distillation.teacher) / "tuned", "tune").sha256]


def search(recipe: RecipeLike, trials: int | None = None, *, device: Device | None = None) -> Searched:
    """Search for better settings of `tune`, as its `search` section says. trials: in all, instead of the recipe's."""
    from tldeploy.tuning.search import search as run_search

    alone("search for settings")
    recipe = loaded(recipe)
    place = to_train(recipe, device, "search settings for")
    fetched = fetch(recipe)
    with computing(place):
        return run_search(recipe, search_key(recipe, fetched), trials)


def search_key(recipe: Recipe, fetched: Outcome | None) -> str:
    """Fingerprint of what a trial's result depends on, besides the settings that it is given."""
    sections = recipe.section("task", "data", "backbone", "tune")
    tune = sections["tune"]
    space = tune["search"]["space"] if tune["search"] else {}
    for name in ("methods", "keep", "trackers", "few_shot", "distillation", *space):
        del tune[name]
    if tune["search"]:
        del tune["search"]["trials"]
    parents = {"fetch": fetched.manifest.sha256} if fetched else {}
    return fingerprint([sections, parents, own_files(recipe)])


def rank(recipe: RecipeLike, backbones: Sequence[str], *, device: Device | None = None) -> list[Candidate]:
    """Backbones by how well their features would serve the recipe's rows, without training; the best first."""
    from tldeploy.tuning.candidates import rank_backbones

    alone("rank backbones")
    recipe = loaded(recipe)
    place = to_train(recipe, device, "rank backbones for")
    fetch(recipe)
    with computing(place):
        return rank_backbones(recipe, backbones)
