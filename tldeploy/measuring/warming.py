"""Warm-up: requests that are not kept, until they get no faster.

The same rows are asked block after block, so that a block differs from the one before by warmth and noise alone. When
the median row is not faster than in the block before by more than noise, two times in a row, the engine is settled. A
fixed number would be a guess: a graph that is compiled at its first request is warm after it, a JIT or a processor that
wakes from its sleep after hundreds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 20
FEWEST_BLOCKS, MOST_BLOCKS = 3, 15
MOST_SECONDS = 10.0
# Standard errors of the median row's ratio that a block may be faster by than the one before.
NOISE = 2.0
# And this share at least: less is no warm-up that anybody would notice.
LEAST = 0.01


@dataclass(frozen=True)
class WarmUp:
    """settled: whether the engine stopped getting faster; if not, the cap of blocks or of seconds came first."""

    requests: int
    seconds: float
    settled: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def warm_up(ask: Callable[[Sequence[int]], NDArray[np.float64]], rows: int) -> WarmUp:
    """Call `ask` with indices of rows from everywhere among `rows`, so that many lengths are met, until it settles.

    ask: sends these rows one by one, and says what each took, in any unit.
    """
    spread = np.linspace(0, rows - 1, BLOCK).astype(int).tolist()
    start = time.perf_counter()
    took: list[NDArray[np.float64]] = []
    calm = 0
    while calm < FEWEST_BLOCKS - 1 and len(took) < MOST_BLOCKS and time.perf_counter() - start < MOST_SECONDS:
        took.append(np.maximum(ask(spread), 1e-9))
        calm = calm + 1 if len(took) > 1 and _is_settled(took) else 0
    return WarmUp(BLOCK * len(took), time.perf_counter() - start, calm >= FEWEST_BLOCKS - 1)


def _is_settled(took: Sequence[NDArray[np.float64]]) -> bool:
    """Whether the last block is not faster than the one before by more than noise."""
    change = np.log(took[-1] / took[-2])
    spread = 1.4826 * np.median(np.abs(change - np.median(change)))  # as a standard deviation, were it normal
    error = 1.2533 * spread / np.sqrt(len(change))  # of a median
    return bool(np.median(change) > -max(NOISE * error, LEAST))
