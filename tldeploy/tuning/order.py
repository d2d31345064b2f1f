"""Which rows each batch of an epoch has: a pure function of the seed and the epoch, in one process or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from tldeploy.errors import RecipeError
from tldeploy.recipe import Tune
from tldeploy.tasks.metrics import Classes
from tldeploy.tuning.weighting import BalancedSampler

# Rows are sorted by length within so many batches: little padding, and still another order in every epoch.
SORTED_TOGETHER = 50


class Key(NamedTuple):
    """A row of a batch. share: what the batch's mean loss is multiplied by, for the mean over all processes to be
    the mean over all rows: 1 where all have equally many."""

    epoch: int
    row: int
    share: float


class EpochBatches(Sampler[list[Key]]):
    """The batches of one epoch as this process sees them.

    A batch of `settings.batch_size` rows is cut into equal runs, one a process. In the last batch of an epoch, which
    may be smaller, runs differ in size; a process that would get none gets a row with the share 0.
    """

    def __init__(
        self, lengths: Sequence[int] | None, classes: Classes, settings: Tune, rank: int = 0, world: int = 1
    ) -> None:
        if settings.batch_size % world:
            found = f"tune.batch_size is {settings.batch_size}, which {world} processes cannot share equally"
            raise RecipeError("train in several processes", found, f"make it a multiple of {world}")
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._rows, self._seed, self.batch_size = len(classes), settings.seed, settings.batch_size
        self._balanced = BalancedSampler(classes, settings.seed) if settings.sampling == "balanced" else None
        self._share, self._rank, self._world = settings.batch_size // world, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rows = self._rows if self._balanced is None else len(self._balanced)
        return (rows + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for batch in self.whole(epoch):
            own = batch[self._rank * self._share :][: self._share]
            share = len(own) * self._world / len(batch)
            yield [Key(epoch, row, share) for row in own or batch[:1]]

    def whole(self, epoch: int) -> list[list[int]]:
        """All rows of the epoch's batches, whichever process gets them."""
        draw = np.random.default_rng([self._seed, epoch])
        if self._balanced is None:
            order = draw.permutation(self._rows)
        else:
            self._balanced.set_epoch(epoch)
            order = np.array(list(self._balanced))
        size = self.batch_size
        if self._lengths is not None:
            span = size * SORTED_TOGETHER
            spans = [order[start : start + span] for start in range(0, len(order), span)]
            order = np.concatenate([rows[np.argsort(-self._lengths[rows], kind="stable")] for rows in spans])
        batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
        if self._lengths is None:
            return batches
        full = len(order) // size  # the smaller batch stays the last
        return [batches[at] for at in [*draw.permutation(full).tolist(), *range(full, len(batches))]]
