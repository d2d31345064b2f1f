"""Rows of rare classes made to count: by a weight in the loss, or by drawing them more often."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Classes


def class_weights(classes: Classes, n: int) -> NDArray[np.float32]:
    """The weight of each of n classes in the loss, float32 [n]: all classes weigh the same, the mean over rows is one.

    classes: int64 [rows], below n. Equals sklearn's "balanced"; a class without rows has the weight 0.
    """
    counts = np.bincount(classes, minlength=n)
    _need_rows(counts)
    weights = len(classes) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0).astype(np.float32)


class BalancedSampler(Sampler[int]):
    """Row numbers of one epoch, in random order, in which every class comes up equally often.

    An epoch is as long as the rows, rounded up to the same number for every class. Rows of a rare class repeat, none
    more than once more than another of its class; of a common class each epoch takes other rows. The order follows from
    the seed and the epoch, which `set_epoch` sets (accelerate's data loaders call it) and the end of an epoch raises.
    """

    def __init__(self, classes: Classes, seed: int) -> None:
        _need_rows(np.bincount(classes))
        self.members = [np.flatnonzero(classes == one) for one in np.unique(classes)]
        self.each = -(-len(classes) // len(self.members))
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.each * len(self.members)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, self.epoch])
        drawn = [self._draw(rows, draw) for rows in self.members]
        yield from draw.permutation(np.concatenate(drawn)).tolist()
        self.epoch += 1

    def _draw(self, rows: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        rounds = -(-self.each // len(rows))
        return np.concatenate([draw.permutation(rows) for _ in range(rounds)])[: self.each]


def _need_rows(counts: NDArray[np.int64]) -> None:
    if counts.sum() == 0:
        raise DataError("balance classes", "there are no rows", "give the training split some rows")
