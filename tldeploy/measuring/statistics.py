"""Statistics of latency samples: percentiles and speed-ups, with intervals.

Percentiles are nearest-rank ones: a latency that really occurred, as MLPerf reports them.

Intervals come from a block bootstrap (Künsch, Annals of Statistics 17, 1989; here with fixed blocks): whole blocks of
neighbouring requests are drawn, because requests sent within a moment of each other share the state of the machine and
are not independent. Drawing single rows would give intervals that are too narrow on a machine with neighbours.

The speed-up is the median of the rows' own ratios: how many times as fast the typical request is answered. Rows differ
in length by far more than engines drift, and a ratio within one row is free of that. The other candidate, the quotient
of the two medians, was simulated beside it (rows of log-normal length, blocks that drift by none and by 10 %): it gives
intervals 1.3 to 2.8 times as wide for the same samples. Either is unmoved by a stalled request, as a ratio of means
would not be, and swapping the engines gives the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
_MOST_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A value, and the interval that holds it at 95 % confidence."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def quantiles(samples: NDArray[np.float64], block: NDArray[np.int64], shares: Sequence[float]) -> list[Estimate]:
    """The nearest-rank quantile at each share in (0, 1), with its interval.

    samples: float64 [rows]. block: int64 [rows], counted from 0 and rising, the block each sample was taken in.
    """
    order = np.argsort(samples)
    ranked = samples[order]
    exact = ranked[[_rank(np.arange(1, len(ranked) + 1)[None], share)[0] for share in shares]]
    ranks = _resampled_ranks(block[order], int(block[-1]) + 1, shares)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ranked[ranks], [tail, 1 - tail], axis=0)
    return [Estimate(*map(float, found)) for found in zip(exact, low, high, strict=True)]


def speedup(latency_ms: NDArray[np.float64], reference_ms: NDArray[np.float64], block: NDArray[np.int64]) -> Estimate:
    """How many times as fast as the reference the typical row is answered; 2 is twice as fast. All float64 [rows]."""
    return quantiles(reference_ms / latency_ms, block, [0.5])[0]


def _resampled_ranks(block: NDArray[np.int64], blocks: int, shares: Sequence[float]) -> NDArray[np.int64]:
    """Which sample is the quantile in each resample, int64 [resamples, shares], as an index into the sorted samples.

    block: of the sorted samples. Each resample draws as many blocks as there are, with replacement; how often a block
    was drawn is a weight on its samples, so that sorting once is enough and blocks may differ in size.
    """
    times_drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    parts = -(-RESAMPLES * len(block) // _MOST_DRAWN_AT_ONCE)
    found = []
    for part in np.array_split(times_drawn, parts):
        reached = np.cumsum(part[:, block], axis=1)
        found.append(np.stack([_rank(reached, share) for share in shares], axis=1))
    return np.concatenate(found)


def _rank(reached: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The first sample at which the running weight [resamples, samples] reaches the share of the whole."""
    return np.asarray((reached < share * reached[:, -1:]).sum(axis=1), dtype=np.int64)
