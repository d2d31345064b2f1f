"""An ONNX graph in this process, through onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tldeploy.runtime.bound import BoundGraph
from tldeploy.runtime.local import Local
from tldeploy.runtime.session import PROVIDERS, open_session, running

if TYPE_CHECKING:
    from tldeploy.recipe.serving import Target
    from tldeploy.tasks.classification import Classification

Memory = Literal["allocated", "bound", "captured"]


class OnnxRunner(Local):
    """One variant, on all usable cores, or on a GPU.

    options: of the execution provider. memory: allocated for each request, or bound once for each shape (bound.py); or
    captured, where CUDA replays each shape's kernels as one graph besides. A run that fails on a GPU is a MachineError.
    """

    def __init__(
        self,
        model: Path,
        task: Classification,
        device: Target = "cpu",
        options: Mapping[str, str] | None = None,
        memory: Memory = "allocated",
    ) -> None:
        self.name = f"onnxruntime {model.stem}"
        captured = {"enable_cuda_graph": "1"} if memory == "captured" else {}
        self._session = open_session(model, PROVIDERS[device], provider_options={**(options or {}), **captured})
        self._model, self._on = model, self._session.get_providers()[0]
        how = [memory] * (memory != "allocated") + [f"{name} {value}" for name, value in (options or {}).items()]
        self.provider = ", ".join([self._on, *how])
        self._bound: BoundGraph | None = None
        if memory != "allocated":
            where: Literal["cpu", "cuda"] = "cuda" if device in {"cuda", "tensorrt"} else "cpu"
            self._bound = BoundGraph(self._session, task.output, len(task.labels), where, captures=bool(captured))
        super().__init__(task, sorted(model.parent.glob(f"{model.name}*")))  # with its external data

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        with running(self._model, self._on):
            if self._bound is not None:
                return self._bound.run(tensors)
            probabilities: NDArray[np.float32] = self._session.run([self._task.output], tensors)[0]
            return probabilities

    def close(self) -> None:
        del self._session, self._bound
