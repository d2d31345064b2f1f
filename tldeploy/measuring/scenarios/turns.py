"""What all scenarios share: blocks of neighbouring requests, turns, and a heap that stands still meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

MOST_ROWS_A_BLOCK = 16
FEWEST_BLOCKS = 20
SEED = 0


def blocks(rows: int) -> NDArray[np.int64]:
    """Which block each row belongs to: at most sixteen rows each, and twenty blocks where there are rows enough.

    The statistics resample whole blocks, and need some to resample.
    """
    blocks = max(-(-rows // MOST_ROWS_A_BLOCK), min(FEWEST_BLOCKS, rows))
    return np.arange(rows, dtype=np.int64) * blocks // rows


def neighbours(requests: int) -> NDArray[np.int64]:
    """Twenty blocks of requests under load, which come one after the other with no turns between them."""
    return np.arange(requests, dtype=np.int64) * min(FEWEST_BLOCKS, requests) // requests


def turns(block: NDArray[np.int64], engines: int, draw: np.random.Generator) -> Iterator[tuple[int, list[int]]]:
    """Whose turn it is, and with which samples: block after block, the engines in an order drawn anew for each."""
    for indices in np.split(np.arange(len(block)), np.flatnonzero(np.diff(block)) + 1):
        for engine in draw.permutation(engines).tolist():
            yield engine, indices.tolist()


@contextmanager
def garbage_frozen() -> Iterator[None]:
    """Set what is alive aside: a full collection over torch's many objects would stall some engine's request."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
