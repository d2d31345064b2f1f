"""MultiStream: some rows a query, one query at a time. What counts is how long a whole query takes."""

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


@dataclass(frozen=True)
class MultiStream:
    """Samples of one run.

    query_ms: float64 [engines, queries]. query_rows: rows of each. block: int64 [queries], as in SingleStream.
    """

    engines: tuple[str, ...]
    query_ms: NDArray[np.float64]
    query_rows: int
    block: NDArray[np.int64]


def multi_stream(runners: Sequence[Runner], rows: Sequence[Row], query_rows: int, what: str) -> MultiStream:
    """Send all rows to every runner, `query_rows` of them at a time, drawn at random: lengths come as they come.

    The last query is filled up from the first rows drawn. Each turn begins with one query that is not kept.
    """
    draw = np.random.default_rng(SEED)
    queries = -(-len(rows) // query_rows)
    drawn = np.resize(draw.permutation(len(rows)), (queries, query_rows))
    asked = [[rows[row] for row in query] for query in drawn.tolist()]
    block = blocks(queries)
    query_ms = np.empty((len(runners), queries))
    with garbage_frozen(), progress(what, query_ms.size) as advance:
        for engine, indices in turns(block, len(runners), draw):
            turn = [asked[indices[0] - 1], *(asked[index] for index in indices)]
            query_ms[engine, indices] = timed(runners[engine], turn)[0][1:]
            advance(len(indices))
    return MultiStream(tuple(runner.name for runner in runners), query_ms, query_rows, block)
