"""Which rows stand for all of them, where not all can be used: every class, and every length, by its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tldeploy.tasks.metrics import Classes


def covering(classes: Classes, lengths: Sequence[int] | None, count: int) -> Classes:
    """Indices of `count` rows, int64, rising; all of them where there are no more.

    Rows are sorted by class and within a class by length, and taken at even steps: so each class is there in its
    share, and has its short rows and its long ones.
    """
    rows = len(classes)
    if count >= rows:
        return np.arange(rows, dtype=np.int64)
    order = np.lexsort((np.arange(rows), np.zeros(rows) if lengths is None else np.asarray(lengths), classes))
    steps = (np.arange(count) * (rows - 1)) // max(count - 1, 1)
    return np.sort(order[steps]).astype(np.int64)
