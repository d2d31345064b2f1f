"""Hyper-parameter search: trials of one method, each from the same pretrained weights, measured on validation rows.

1. The space is checked, the rows are read and split; test rows are dropped there and then, so no trial can see them.
2. Trials are drawn, pruned and counted by study.py, which several processes may share.
3. The best trial becomes a recipe of its own (best_recipe.py), all of them a page (search_page.py).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tldeploy import artifacts
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import Network
from tldeploy.data.rows import Rows, split_rows
from tldeploy.errors import QualityError, RecipeError
from tldeploy.progress import say
from tldeploy.recipe import Recipe, Search, Tune
from tldeploy.tasks.classification import Classification
from tldeploy.tuning.best_recipe import write_best
from tldeploy.tuning.device import memory_errors
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.fine_tuning import train
from tldeploy.tuning.job import Part
from tldeploy.tuning.lora import add_adapters, merge
from tldeploy.tuning.search_page import render_page
from tldeploy.tuning.space import Space
from tldeploy.tuning.study import LOST, REASON, Study

FOLDER, PAGE = "search", "report.html"
SECONDS = "seconds"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
OnEpoch = Callable[[int, float], None]


@dataclass(frozen=True)
class TrialResult:
    """state: complete, pruned or failed. value: of the validation metric; of a pruned trial, the last that it reached.

    epochs: how many were measured. reason: why it failed.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    seconds: float | None
    settings: dict[str, Any]
    reason: str | None


@dataclass(frozen=True)
class Searched:
    """What a search left. trials: best first. total: how many were asked for. rows: validation rows."""

    metric: str
    rows: int
    total: int
    trials: list[TrialResult]
    best: Path
    page: Path


@dataclass(frozen=True)
class _Start:
    """What every trial starts from. There is nothing of the test rows in it."""

    network: Network
    task: Classification
    train: Part
    validation: Part


def search(recipe: Recipe, key: str, trials: int | None = None) -> Searched:
    """Do what is left of the recipe's search, alone or beside other processes that do the same.

    key: identifies all that a trial's result depends on besides the searched settings. trials: in all, instead of the
    recipe's. Raises RecipeError for a recipe without a search and for values that cannot be, QualityError when no
    trial came to its end.
    """
    if recipe.tune.search is None:
        found, fix = "the recipe has no section tune.search", "add one with a space, such as learning_rate: {low, high}"
        raise RecipeError(f"search {recipe.folder}", found, fix)
    settings = recipe.tune.search
    space = Space.of(recipe.tune, settings)
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    learnt, chosen_by, labels = splits.train, splits.validation, splits.labels
    del splits  # and with it the test rows
    folder = recipe.path(FOLDER)
    study = Study(
        folder=folder,
        key=f"{recipe.name}-{key[:16]}",
        settings=settings,
        space=space,
        total=_total(settings, space, trials),
        epochs=_most_epochs(recipe.tune, space),
        seed=recipe.tune.seed,
    )
    say(
        f"search: {study.total} trials in all, {len(study.trials)} begun; {len(learnt)} rows to learn from, "
        f"{len(chosen_by)} to choose by; start the same command once more to share the work"
    )
    with tempfile.TemporaryDirectory() as scratch:
        network, task = load_pretrained(recipe, labels, Path(scratch))
        cache = recipe.folder / ".cache"

        def part(rows: Rows) -> Part:
            return Part(task.examples(rows.inputs, cache), rows.classes)

        start = _Start(network, task, part(learnt), part(chosen_by))
        try:
            study.run(lambda trial: _try(start, settings, space, trial))
        except KeyboardInterrupt:
            say(f"search: the study is kept in {folder}; the trial that was cut off will be done again")
            raise
    results = sorted((_result(space, trial) for trial in study.trials), key=_rank)
    if not results or results[0].state != "complete":
        failed = next((result.reason for result in results if result.reason), "all were pruned")
        raise QualityError(f"search {recipe.folder}", f"no trial came to its end: {failed}", "mend tune.search.space")
    best = write_best(recipe, results[0].settings, _about(results, task.metric_name, len(chosen_by)), folder)
    artifacts.write_file(folder / PAGE, render_page(study, recipe.name, task.metric_name, len(chosen_by)))
    return Searched(task.metric_name, len(chosen_by), study.total, results, best, folder / PAGE)


def _try(start: _Start, settings: Search, space: Space, trial: optuna.trial.Trial) -> float:
    """One trial: its metric on the validation rows. Raises QualityError where it diverges, or needs too much memory."""
    began = time.monotonic()
    tune = space.settings(trial.params)
    network = start.network.fresh_copy(tune.seed)
    network.dropout.p = tune.dropout

    def on_epoch(epoch: int, metric: float) -> None:
        trial.report(metric, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        with memory_errors(QualityError):
            LEARNERS[settings.method](network, start, tune, f"trial {trial.number}", on_epoch)
            logits = predict_logits(network, start.validation.examples, "predict validation rows")
        return start.task.measure(start.validation.classes, start.task.decode(logits)).value
    finally:
        trial.set_user_attr(SECONDS, round(time.monotonic() - began, 1))


def _fine_tune(network: Network, start: _Start, settings: Tune, what: str, on_epoch: OnEpoch) -> None:
    train(network, start.train, settings, what, validation=start.validation, on_epoch=on_epoch)


def _train_adapters(network: Network, start: _Start, settings: Tune, what: str, on_epoch: OnEpoch) -> None:
    adapters = add_adapters(network, settings.lora, settings.seed)
    train(network, start.train, settings, what, validation=start.validation, on_epoch=on_epoch)
    merge(network, adapters)


LEARNERS: dict[str, Callable[[Network, _Start, Tune, str, OnEpoch], None]] = {
    "fine-tuning": _fine_tune,
    "lora": _train_adapters,
}


def _total(settings: Search, space: Space, trials: int | None) -> int:
    """A grid is done whole, unless a number of trials is given."""
    if settings.sampler != "grid":
        return trials or settings.trials
    points = len(space.grid())
    asked = trials or (settings.trials if "trials" in settings.model_fields_set else points)
    if asked < points:
        say(f"search: {asked} of the grid's {points} points are tried")
    return min(asked, points)


def _most_epochs(tune: Tune, space: Space) -> int:
    epochs = space.distributions.get("epochs")
    if isinstance(epochs, IntDistribution):
        return epochs.high
    if isinstance(epochs, CategoricalDistribution):
        return max(choice for choice in epochs.choices if isinstance(choice, int))
    return tune.epochs


def _result(space: Space, trial: FrozenTrial) -> TrialResult:
    reached = trial.intermediate_values
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.PRUNED and reached:
        value = reached[max(reached)]
    return TrialResult(
        number=trial.number,
        state=STATES[trial.state],
        value=value,
        epochs=len(reached),
        seconds=trial.user_attrs.get(SECONDS),
        settings=space.values(trial.params),
        reason=trial.user_attrs.get(REASON) or trial.user_attrs.get(LOST),
    )


def _rank(result: TrialResult) -> tuple[int, float, int]:
    """Complete trials first, the best of them first; of equals, the earlier."""
    order = list(STATES.values()).index(result.state)
    return order, -(result.value or 0.0), result.number


def _about(results: list[TrialResult], metric: str, rows: int) -> str:
    best = results[0]
    complete = sum(result.state == "complete" for result in results)
    words = metric.replace("_", " ").replace("f1", "F1")
    return (
        f"trial {best.number}, the best of {len(results)} ({complete} of them complete): {words} {best.value:.4f} "
        f"on {rows} validation rows. Chosen among so many on those rows, it flatters itself a little; the held-out "
        f"rows, which no trial has seen, will tell."
    )
