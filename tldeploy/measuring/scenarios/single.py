"""SingleStream: one request at a time, one row each, every row through every engine.

The answers are kept with the latencies, so that the answers that are scored are the very answers that were timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import QualityError
from tldeploy.measuring.asking import timed
from tldeploy.measuring.scenarios.turns import SEED, blocks, garbage_frozen, turns
from tldeploy.measuring.warming import WarmUp, warm_up
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row


@dataclass(frozen=True)
class SingleStream:
    """Samples of one run.

    latency_ms: float64 [engines, rows]. probabilities: float32 [engines, rows, classes]. block: int64 [rows], which
    block of neighbouring requests each row was sent in, the same for all engines. warm_up: one an engine.
    """

    engines: tuple[str, ...]
    latency_ms: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    block: NDArray[np.int64]
    warm_up: tuple[WarmUp, ...]

    @property
    def not_finite(self) -> list[int]:
        """How many rows each engine answered with something that is no number."""
        counts: list[int] = (~np.isfinite(self.probabilities).all(axis=2)).sum(axis=1).tolist()
        return counts


def single_stream(
    runners: Sequence[Runner], rows: Sequence[Row], classes: int, what: str, *, refuse: bool = True
) -> SingleStream:
    """Send every row alone to every runner, in interleaved blocks. what: how progress calls the run.

    Each turn begins with one request that is not kept: the caches are still the other engine's, which no single stream
    would meet, and with one such request in sixteen they would be all that p99 shows.

    Raises QualityError when a runner answers with another number of classes, or, unless `refuse` is off, with numbers
    that are not finite.
    """
    block = blocks(len(rows))
    latency_ms = np.empty((len(runners), len(rows)))
    probabilities = np.empty((len(runners), len(rows), classes), dtype=np.float32)
    order = np.random.default_rng(SEED)
    warmed = tuple(_warmed(runner, rows, classes) for runner in runners)
    with garbage_frozen(), progress(what, len(rows) * len(runners)) as advance:
        for engine, indices in turns(block, len(runners), order):
            took_ms, answers = timed(runners[engine], [[rows[row]] for row in (indices[0] - 1, *indices)])
            latency_ms[engine, indices] = took_ms[1:]
            probabilities[engine, indices] = np.concatenate(answers[1:])
            advance(len(indices))
    run = SingleStream(tuple(runner.name for runner in runners), latency_ms, probabilities, block, warmed)
    for name, wrong in zip(run.engines, run.not_finite, strict=True):
        if refuse and wrong:
            found = f"it answered {wrong} of {len(rows)} rows with numbers that are not finite"
            raise QualityError(f"score {name}", found, "export again with another precision or variant")
    return run


def _warmed(runner: Runner, rows: Sequence[Row], classes: int) -> WarmUp:
    """Warm one runner up, with a look at the shape of every answer."""

    def ask(some: Sequence[int]) -> NDArray[np.float64]:
        took_ms, answers = timed(runner, [[rows[row]] for row in some])
        for answer in answers:
            if answer.shape != (1, classes):
                found = f"it answers one row with shape {list(answer.shape)}, the model has {classes} classes"
                raise QualityError(f"measure {runner.name}", found, "deploy this model again, then run the bench again")
        return took_ms

    return warm_up(ask, len(rows))
