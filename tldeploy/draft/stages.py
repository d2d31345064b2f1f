"""The settings that texts and images share: which methods are run, what an epoch costs, where the model is served."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tldeploy.artifacts import Choice
from tldeploy.data.rows import Splits
from tldeploy.draft.rows import FEW_SHOT_BELOW, Classes
from tldeploy.draft.writing import quoted
from tldeploy.recipe import Deploy, Export

BENCH_ROWS = 1_000


def methods(classes: Classes) -> list[Choice]:
    """Which are run; learning from pairs among them where a class has only a handful of rows."""
    names = ["feature-extraction", "fine-tuning"]
    reason = "both are run and reported: the first trains only the last layer, in a fraction of the time."
    # A file for each method; looked up, because importing it would load torch to write a line.
    if classes.fewest < FEW_SHOT_BELOW and find_spec("tldeploy.tuning.few_shot"):
        names.insert(1, "few-shot")
        reason = f"all are run and reported. The class {quoted(classes.smallest[:40])} has {classes.fewest} training "
        reason += "rows: few-shot makes pairs of them, of which there are many more."
    return [
        Choice(about="tune.methods", value=names, reason=reason),
        Choice(about="tune.keep", value="best", reason="the one that is better on the validation rows is exported."),
    ]


def rhythm(rows: int, epochs: int, batch: int) -> list[Choice]:
    """How often the training rows are seen, and how many at a time."""
    few_or_many = "few rows must be seen more often" if epochs > 3 else "so many rows need no more"
    steps = -(-rows // batch) * epochs
    return [
        Choice(about="tune.epochs", value=epochs, reason=f"{rows:,} rows to learn from: {few_or_many}."),
        Choice(about="tune.batch_size", value=batch, reason=f"it makes {steps:,} steps in all."),
    ]


def weights(classes: Classes) -> list[Choice]:
    """Weights in the loss where classes are uneven."""
    if not classes.are_uneven:
        return []
    reason = f"{quoted(classes.largest[:40])} has {classes.most:,} training rows and {quoted(classes.smallest[:40])} "
    reason += f"{classes.fewest:,}: weighted, every class counts the same, and rare ones are not ignored."
    return [Choice(about="tune.class_weights", value=True, reason=reason)]


def budget() -> Choice:
    reason = "points of weighted F1 that a faster graph may lose on the validation rows before it is refused."
    return Choice(about="export.max_drop", value=Export().max_drop, reason=reason)


def serve(folder: Path, splits: Splits) -> Iterator[Choice]:
    """Where the model is published, and how many rows are measured if not all."""
    if folder.resolve().parent.name == "models":
        shared = Deploy().repository
        reason = "the repository that the server reads; all models of this project share it."
        yield Choice(about="deploy.repository", value=shared, reason=reason)
    else:
        reason = "the repository that the server reads, beside this file."
        yield Choice(about="deploy.repository", value="triton_repo", reason=reason)
    if len(splits.test) > BENCH_ROWS:
        reason = (
            f"of the {len(splits.test):,} held-out rows, every engine is measured on these; take it out to use all."
        )
        yield Choice(about="bench.rows", value=BENCH_ROWS, reason=reason)
