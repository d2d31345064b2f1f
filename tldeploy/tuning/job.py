"""What every method of tuning starts from, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tldeploy.artifacts import fingerprint
from tldeploy.backbones.network import Network
from tldeploy.recipe import Tune
from tldeploy.tasks.classification import Classification, Examples, Row, Tensors
from tldeploy.tasks.metrics import Classes

Logits = NDArray[np.float32]


class Part(NamedTuple):
    """Encoded rows with the class of each, int64 [rows]."""

    examples: Examples
    classes: Classes


@dataclass(frozen=True)
class Subset:
    """Some of the examples, by their indexes."""

    examples: Examples
    rows: tuple[int, ...]

    @property
    def lengths(self) -> Sequence[int] | None:
        lengths = self.examples.lengths
        return None if lengths is None else [lengths[row] for row in self.rows]

    @property
    def key(self) -> str:
        return fingerprint([self.examples.key, self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Tensors:
        return self.examples.batch([self.rows[index] for index in indices])


@dataclass(frozen=True)
class Job:
    """network: the pretrained backbone under a fresh head; methods work on copies of it.

    weights: sha256 of the backbone's weights. cache: a folder for what can be computed again. folder: the recipe's.
    rows: the training rows as they were read, for a method that encodes them in another way.
    """

    settings: Tune
    task: Classification
    network: Network
    weights: str
    train: Part
    validation: Part
    test: Part
    cache: Path
    folder: Path
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Tuned:
    """A method's network in evaluation mode, its logits float32 [rows, classes], and what there is to say of it.

    curves: name to points (x, y), for the report: losses and metrics over steps or epochs.
    """

    network: Network
    validation: Logits
    test: Logits
    details: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
