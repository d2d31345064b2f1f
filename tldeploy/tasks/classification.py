"""Classification: what all tasks share in which a row gets one of some classes; scored by weighted F1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tldeploy.tasks.metrics import Classes, Drop, Metric, weighted_f1, weighted_f1_drop

# A text, the path of an image file, or the bytes of one.
Row = str | bytes
Tensors = dict[str, NDArray[Any]]

ENCODER = "encoder.json"


class Examples(Protocol):
    """Encoded rows, of which batches are made.

    lengths: of each row, where rows differ in length. key: identifies the encoded rows, for caches.
    """

    @property
    def lengths(self) -> Sequence[int] | None: ...

    @property
    def key(self) -> str: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Tensors:
        """The graph's inputs for some of the rows."""


class Classification(ABC):
    """What rows, tensors, predictions and metrics mean.

    column: what a row is, as data files and clients call it. inputs: the graph's inputs. output: the graph's output,
    float32 [batch, classes], probabilities. axes: the open dims of every input, the batch first.
    """

    name: ClassVar[str]
    column: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    axes: ClassVar[tuple[str, ...]]
    output: ClassVar[str] = "probabilities"
    metric_name: ClassVar[str] = "weighted_f1"

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, labels: Sequence[str]) -> Classification:
        """Read the preprocessing from an artifact, where `save` put it."""

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """What a manifest says of it."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> Tensors: ...

    @abstractmethod
    def examples(self, rows: Sequence[Row], cache: Path | None = None) -> Examples:
        """All rows encoded once; kept on disk below `cache` where they would not fit in memory."""

    @abstractmethod
    def sample(self) -> Tensors:
        """Made-up inputs of an unusual batch and shape, so that a graph traced with them shows axes baked in."""

    @abstractmethod
    def parity_batches(self, rows: Sequence[Row]) -> list[Tensors]:
        """Inputs of several batch sizes and shapes, for comparing a graph with the network it was made from."""

    def decode(self, probabilities: NDArray[np.float32]) -> Classes:
        """The most probable class of each row, int64 [rows]."""
        classes: Classes = np.argmax(probabilities, axis=-1)
        return classes

    def measure(self, truth: Classes, predicted: Classes) -> Metric:
        return weighted_f1(truth, predicted, len(self.labels))

    def drop(self, truth: Classes, before: Classes, after: Classes) -> Drop:
        return weighted_f1_drop(truth, before, after, len(self.labels))
