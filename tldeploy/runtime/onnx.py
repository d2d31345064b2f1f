"""An ONNX graph in this process, through onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.runtime.local import Local
from tldeploy.runtime.session import Provider, open_session

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification


class OnnxRunner(Local):
    """One variant, on all usable cores."""

    def __init__(
        self,
        model: Path,
        task: Classification,
        provider: Provider = "CPUExecutionProvider",
    ) -> None:
        self.name = f"onnxruntime {model.stem}"
        self._session = open_session(model, provider)
        self.provider = str(self._session.get_providers()[0])
        super().__init__(task, sorted(model.parent.glob(f"{model.name}*")))  # with its external data

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = self._session.run([self._task.output], tensors)[0]
        return probabilities

    def close(self) -> None:
        del self._session
