"""Offline: all rows are there from the start, and are sent in batches of similar lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.asking import timed
from tldeploy.measuring.scenarios.turns import SEED, blocks, garbage_frozen, turns
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

BATCH = 8  # rows of an offline batch


@dataclass(frozen=True)
class Offline:
    """Samples of one run.

    batch_ms: float64 [engines, batches]. batch_rows: int64 [batches], the rows of each. block: int64 [batches], as in
    SingleStream.
    """

    engines: tuple[str, ...]
    batch_ms: NDArray[np.float64]
    batch_rows: NDArray[np.int64]
    block: NDArray[np.int64]

    def rows_per_s(self, engine: int) -> float:
        """Rows answered a second, over the whole run."""
        return float(1000 * self.batch_rows.sum() / self.batch_ms[engine].sum())


def offline(runners: Sequence[Runner], rows: Sequence[Row], lengths: Sequence[int] | None, what: str) -> Offline:
    """Send all rows to every runner in batches of eight, sorted by length; `lengths` is None where rows have none.

    Sorted, a batch has little padding: it is how a CPU answers many texts fastest. Each turn begins with a single row
    that is not kept, for the reason that `single_stream` gives.
    """
    order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
    batches = [[rows[row] for row in order[start : start + BATCH]] for start in range(0, len(rows), BATCH)]
    block = blocks(len(batches))
    batch_ms = np.empty((len(runners), len(batches)))
    draw = np.random.default_rng(SEED)
    with garbage_frozen(), progress(what, batch_ms.size) as advance:
        for engine, indices in turns(block, len(runners), draw):
            asked = [batches[indices[0]][:1], *(batches[index] for index in indices)]
            batch_ms[engine, indices] = timed(runners[engine], asked)[0][1:]
            advance(len(indices))
    sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
    return Offline(tuple(runner.name for runner in runners), batch_ms, sizes, block)
