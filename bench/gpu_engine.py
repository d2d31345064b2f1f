"""One engine on a GPU, in a process of its own, for bench/gpu.py.

Run as `python bench/gpu_engine.py ENGINE FILE DEVICE`. The first line that it prints says how many seconds opening
took, without importing PyTorch; then it answers each line of standard input with one line:

    {"inputs": FILE.npz, "times": N}    {"wall_ms": [...], "device_ms": [...]}
    {"inputs": FILE.npz, "to": FILE.npy}    the probabilities are written there, float32 [rows, classes]

wall_ms: from arrays in the host's memory to an array there. device_ms: by CUDA events on the stream of the work, with
the inputs on the GPU already and the answer left there; the host's clock where DEVICE is cpu, which is for trying out.
onnxruntime waits for the stream at the end of each such run, PyTorch does not.

ENGINE is `torch` or `compile` with a precision, as in `torch fp16`, `compile fp16 max-autotune`; or `onnxruntime`, by
`session.run`, `onnxruntime bound` with memory bound once for each shape, or `onnxruntime captured`, with CUDA graphs.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tldeploy.backbones.network import ImageNetwork, Network, load_network

Inputs = dict[str, NDArray[Any]]
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UP = 3


class Engine(ABC):
    """A network that was opened. device: `cuda` or `cpu`."""

    def __init__(self, device: str) -> None:
        self.device = device

    @abstractmethod
    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        """From the host's memory and back to it."""

    @abstractmethod
    def place(self, inputs: Inputs) -> Any:
        """Whatever `launch` takes: inputs on the device."""

    @abstractmethod
    def launch(self, placed: Any) -> None:
        """Run once on inputs that are there, on PyTorch's current stream; not waited for."""

    def timed(self, inputs: Inputs, times: int) -> dict[str, Any]:
        for _ in range(WARM_UP):
            self.answer(inputs)
        wall_ms = []
        for _ in range(times):
            start = time.perf_counter()
            self.answer(inputs)
            wall_ms.append(1000 * (time.perf_counter() - start))
        placed = self.place(inputs)
        for _ in range(WARM_UP):
            self.launch(placed)
        device_ms = self._events(placed, times) if self.device == "cuda" else self._clock(placed, times)
        return {"wall_ms": wall_ms, "device_ms": device_ms}

    def _events(self, placed: Any, times: int) -> list[float]:
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
        torch.cuda.synchronize()
        for start, end in marks:
            start.record()
            self.launch(placed)
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in marks]

    def _clock(self, placed: Any, times: int) -> list[float]:
        took = []
        for _ in range(times):
            start = time.perf_counter()
            self.launch(placed)
            took.append(1000 * (time.perf_counter() - start))
        return took


class Torch(Engine):
    """mode: of torch.compile; None for eager."""

    def __init__(self, folder: Path, device: str, precision: str, mode: str | None) -> None:
        super().__init__(device)
        network = in_precision(load_network(folder), PRECISIONS[precision]).to(device)
        self._run = network.probabilities if mode is None else torch.compile(network.probabilities, mode=mode)

    @torch.inference_mode()
    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        return np.asarray(self._run(**self.place(inputs)).float().cpu().numpy(), dtype=np.float32)

    def place(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values).to(self.device) for name, values in inputs.items()}

    @torch.inference_mode()
    def launch(self, placed: Any) -> None:
        self._run(**placed)


class OnnxRuntime(Engine):
    """how: `run`, `bound` or `captured`, on the stream that PyTorch's events are recorded on."""

    def __init__(self, file: Path, device: str, how: str) -> None:
        super().__init__(device)
        from tldeploy.runtime.bound import BoundGraph
        from tldeploy.runtime.session import open_session

        on_gpu = device == "cuda"
        options: dict[str, str] = {}
        if on_gpu:
            options["user_compute_stream"] = str(torch.cuda.current_stream().cuda_stream)
        if on_gpu and how == "captured":
            options["enable_cuda_graph"] = "1"
        provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
        self._session = open_session(file, provider, provider_options=options)
        (output,) = self._session.get_outputs()
        self._output, self._bound = output.name, None
        if how != "run":
            self._bound = BoundGraph(
                self._session, output.name, int(output.shape[1]), device, captures=how == "captured" and on_gpu
            )

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        if self._bound is not None:
            return self._bound.run(inputs)
        found: NDArray[np.float32] = self._session.run([self._output], inputs)[0]
        return found

    def place(self, inputs: Inputs) -> Any:
        """A binding whose output onnxruntime allocates anew each time, as `session.run` does, or our own."""
        from onnxruntime import OrtValue

        if self._bound is not None:
            return self._bound.bound(inputs)
        binding = self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(values, self.device, 0))
        binding.bind_output(self._output, self.device)
        return binding, None

    def launch(self, placed: Any) -> None:
        binding, options = placed
        self._session.run_with_iobinding(binding, options)


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """Weights and all that is computed from them, as `.half()` does; pixels are brought to it behind normalisation."""
    network = network.to(dtype)
    if isinstance(network, ImageNetwork) and dtype != torch.float32:
        normalised = network.normalised
        network.scale, network.offset = network.scale.float(), network.offset.float()
        network.normalised = lambda pixels: normalised(pixels).to(dtype)  # type: ignore[method-assign]
    return network


def opened(engine: str, file: Path, device: str) -> Engine:
    kind, *how = engine.split(" ")
    if kind == "onnxruntime":
        return OnnxRuntime(file, device, how[0] if how else "run")
    modes = {"torch": None, "compile": how[1] if len(how) > 1 else "default"}
    return Torch(file, device, how[0], modes[kind])


def main(engine: str, file: str, device: str) -> None:
    if device == "cuda":
        # A stream with a name: the default one's is a null pointer, which to onnxruntime means a stream of its own.
        torch.cuda.set_stream(torch.cuda.Stream())
    start = time.perf_counter()
    network = opened(engine, Path(file), device)
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        inputs = dict(np.load(asked["inputs"]))
        if "to" in asked:
            np.save(asked["to"], network.answer(inputs))
            print("{}", flush=True)
        else:
            print(json.dumps(network.timed(inputs, asked["times"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
