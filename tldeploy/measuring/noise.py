"""The noise floor: an engine against itself, and what it says of differences between engines.

The same engine is measured twice in one interleaved run, as any two are. What seems to be a difference there is the
machine's, and one of that size between two engines may be too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.scenarios.single import single_stream
from tldeploy.measuring.statistics import Estimate, speedup
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

MOST_ROWS = 640
# So many times the rounds of the run, and nobody waits for them.
MOST_TIMES_LONGER = 100


@dataclass(frozen=True)
class Noise:
    """One run of an engine against itself. ratio: its speed-up over itself. rounds: blocks in which both had a turn.

    latency_ms: float64 [2, rows]. block: int64 [rows].
    """

    engine: str
    ratio: Estimate
    rounds: int
    latency_ms: NDArray[np.float64]
    block: NDArray[np.int64]

    @property
    def floor(self) -> float:
        """The largest difference that the interval leaves possible, as a share: 0.02 is 2 %."""
        return max(self.ratio.high, 1 / self.ratio.low) - 1

    def as_json(self) -> dict[str, Any]:
        return {"engine": self.engine, "ratio": self.ratio.as_json(), "rounds": self.rounds, "floor": self.floor}


@dataclass(frozen=True)
class Verdict:
    """Whether two engines differ in speed. more_rounds: about how many would show a difference of the size that was
    seen, beside those of this run; None where it is found, or where it is too near to none."""

    differ: bool
    more_rounds: int | None


def measure_noise(runner: Runner, rows: Sequence[Row], classes: int, what: str) -> Noise:
    """Send some of the rows, from everywhere among them, to the runner twice, as two engines."""
    some = [rows[row] for row in np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int).tolist()]
    run = single_stream([runner, runner], some, classes, what)
    ratio = speedup(run.latency_ms[0], run.latency_ms[1], run.block)
    return Noise(runner.name, ratio, int(run.block[-1]) + 1, run.latency_ms, run.block)


def judge(ratio: Estimate, rounds: int, noise: Noise) -> Verdict:
    """Whether a ratio of this run, from so many rounds, is beyond its own interval and beyond the noise floor.

    Both shrink with the square root of the rounds, which says how many would be enough.
    """
    size = abs(math.log(ratio.value))
    towards_none = math.log(ratio.value / ratio.low) if ratio.value > 1 else math.log(ratio.high / ratio.value)
    if size > towards_none and size > math.log1p(noise.floor):
        return Verdict(True, None)
    if size == 0:
        return Verdict(False, None)
    enough = max(rounds * (towards_none / size) ** 2, noise.rounds * (math.log1p(noise.floor) / size) ** 2)
    more = math.ceil(enough) - rounds
    return Verdict(False, max(more, 1) if more <= MOST_TIMES_LONGER * rounds else None)
