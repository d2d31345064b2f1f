"""An ONNX graph in this process, through onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.runtime.session import Provider, open_session

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification, Row


class OnnxRunner:
    """A Runner over one variant, on all usable cores."""

    def __init__(
        self,
        model: Path,
        task: Classification,
        provider: Provider = "CPUExecutionProvider",
    ) -> None:
        self.name = f"onnxruntime {model.stem}"
        self._session = open_session(model, provider)
        self.provider = str(self._session.get_providers()[0])
        self._task = task

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return self.run(self._task.encode(rows))

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph alone: encoded rows in, float32 [rows, classes] out."""
        probabilities: NDArray[np.float32] = self._session.run([self._task.output], tensors)[0]
        return probabilities

    def close(self) -> None:
        del self._session
