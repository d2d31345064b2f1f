"""What runners share that compute in the process they are opened in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification, Row


class Local(ABC):
    """A Runner over files: the task encodes the rows, and `run` computes.

    size_bytes: of the network on disk, all that was loaded of it.
    """

    name: str
    provider: str

    def __init__(self, task: Classification, files: Sequence[Path]) -> None:
        self._task = task
        self.size_bytes = sum(file.stat().st_size for file in files)

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return self.run(self._task.encode(rows))

    @abstractmethod
    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The network alone: encoded rows in, float32 [rows, classes] out."""

    @abstractmethod
    def close(self) -> None: ...
