"""Rows of a part as tensors, batch by batch, in the order of an epoch; training images as augmented views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tldeploy.recipe import Tune
from tldeploy.tuning.augmentation import augment
from tldeploy.tuning.device import device
from tldeploy.tuning.job import Part
from tldeploy.tuning.order import EpochBatches, Key

PIXELS = "pixels"
LABELS, ROWS, SHARE = "labels", "rows", "share"
Batch = dict[str, Any]


class Batches(DataLoader[Batch]):
    """The batches of an epoch. `set_epoch` is what transformers' Trainer calls."""

    def __init__(self, part: Part, settings: Tune, order: EpochBatches) -> None:
        self._order = order
        super().__init__(
            _Keys(),  # type: ignore[arg-type]
            batch_sampler=order,
            collate_fn=collate(part, settings),
            pin_memory=device().type == "cuda",
        )

    def set_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)


class _Keys:
    """A data set of the keys themselves: rows are looked up a whole batch at a time."""

    def __getitem__(self, key: Key) -> Key:
        return key


def collate(part: Part, settings: Tune) -> Callable[[Sequence[Key]], Batch]:
    """The network's inputs, and beside them `labels` and `rows`, int64 [batch], and `share`, a float.

    The view of an image follows from the seed, the epoch and the row alone.
    """

    def batch(keys: Sequence[Key]) -> Batch:
        rows = [key.row for key in keys]
        values = dict(part.examples.batch(rows))
        if PIXELS in values and settings.augmentation != "none":
            draws = [np.random.default_rng([settings.seed, key.epoch, key.row]) for key in keys]
            views = zip(values[PIXELS], draws, strict=True)
            values[PIXELS] = np.stack(
                [augment(image, draw, settings.augmentation, settings.mirroring) for image, draw in views]
            )
        inputs: dict[str, Tensor] = {name: torch.from_numpy(value) for name, value in values.items()}
        labels = torch.from_numpy(np.asarray(part.classes[rows], dtype=np.int64))
        return {**inputs, LABELS: labels, ROWS: torch.tensor(rows), SHARE: keys[0].share}

    return batch
