"""A graph in this process, through OpenVINO: the exported fp32 ONNX, or what nncf made of it."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.environment import usable_cores
from tldeploy.errors import ArtifactError, MachineError
from tldeploy.runtime.local import Local

if TYPE_CHECKING:
    from openvino import CompiledModel

    from tldeploy.devices import Device
    from tldeploy.tasks.classification import Classification

INSTALL = "pip install 'openvino>=2026.4' 'nncf>=3.4'"


class OpenVinoRunner(Local):
    """One graph, on all usable cores. Raises what `compiled_graph` does, and MachineError for a GPU."""

    def __init__(self, model: Path, task: Classification, device: Device = "cpu") -> None:
        if device != "cpu":
            fix = "leave openvino out of bench.engines, or set bench.device: cpu"
            raise MachineError(f"run OpenVINO on {device}", "of NVIDIA's GPUs it knows none", fix)
        self.name = f"openvino {model.stem.partition('-')[0]}"
        self._compiled = compiled_graph(model, usable_cores())
        self.provider = f"OpenVINO {metadata.version('openvino')} CPU"
        self._of_thread = threading.local()
        super().__init__(task, sorted(model.parent.glob(f"{model.stem if model.suffix == '.xml' else model.name}*")))

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        # A request of OpenVINO's holds inputs and outputs: each thread has its own.
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        probabilities: NDArray[np.float32] = self._of_thread.request.infer(tensors)[self._task.output]
        return probabilities

    def close(self) -> None:
        del self._compiled, self._of_thread


def compiled_graph(model: Path, threads: int) -> CompiledModel:
    """For the least latency, each request on so many threads, in fp32 where the graph is in fp32.

    Raises MachineError without the package, and ArtifactError for a graph that it cannot read.
    """
    try:
        import openvino
    except ImportError as error:
        fix = f"{INSTALL}, or leave openvino out of bench.engines"
        raise MachineError("run OpenVINO", "the package openvino is not installed", fix) from error

    # Without the hint of precision, a CPU that can would compute fp32 graphs in bf16.
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        return openvino.Core().compile_model(model, "CPU", hints)
    except RuntimeError as error:
        found = str(error).strip().splitlines()[-1][:300]
        raise ArtifactError(f"run {model.name} with OpenVINO", found, "export the model again") from error
