"""One engine on a GPU, in a process of its own, for bench/gpu.py.

Run as `python bench/gpu_engine.py ENGINE FILE DEVICE`. Its first line says where it computes (`proof`); then it answers
each line of standard input with one line, or with `{"error": ...}`:

    {"inputs": FILE.npz, "times": N}    {"wall_ms": [...], "device_ms": [...]}
    {"inputs": FILE.npz, "seconds": S}  {}, after answering again and again for so long
    {"inputs": FILE.npz, "to": FILE.npy}    the probabilities are written there, float32 [rows, classes]

wall_ms: from arrays in the host's memory to an array there. device_ms: by CUDA events on the stream of the work, with
the inputs on the GPU already and the answer left there, run after run; the host's clock where DEVICE is cpu, which is
for trying out. No run is waited for by this file, but onnxruntime may wait in one: the graphs of texts have a GatherND
for their mask, and newer CUDA kernels of it read back to the host whether all indices are within bounds
(microsoft/onnxruntime#31646), though not while a CUDA graph is captured. So device_ms of such a graph that is not
captured may hold a wait in each run. No GPU has shown yet whether it does.

ENGINE is `torch` or `compile` with a precision, as in `torch fp16`, `compile fp16 max-autotune`; or `onnxruntime`, by
`session.run`, `onnxruntime bound` with memory bound once for each shape, or `onnxruntime captured`, with CUDA graphs;
behind that words of OPTIONS. fp32 is fp32: TF32 is off in both but where the name has it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tldeploy.backbones.network import Network

Inputs = dict[str, NDArray[Any]]
PRECISIONS = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
WARM_UP = 1
# A compiled function is compiled anew for each shape; beyond the default of 8, PyTorch would quietly run eagerly.
MOST_SHAPES = 64
GRAPH = "gpu_graph_id"
OPTIONS = {
    "tf32": {"use_tf32": "1"},
    "exhaustive": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "nhwc": {"prefer_nhwc": "1"},
}


class Engine(ABC):
    """A network that was opened. device: `cuda` or `cpu`."""

    def __init__(self, device: str) -> None:
        self.device = device

    @abstractmethod
    def proof(self) -> dict[str, Any]:
        """Where it computes, as the engine itself says."""

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

    def keep_busy(self, inputs: Inputs, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.answer(inputs)

    def _events(self, placed: Any, times: int) -> list[float]:
        import torch

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
        import torch

        from tldeploy.backbones.network import load_network

        super().__init__(device)
        if precision in {"fp32", "tf32"}:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self._network = in_precision(load_network(folder), getattr(torch, PRECISIONS[precision])).to(device)
        self._run = self._network.probabilities
        if mode is not None:
            from torch._dynamo import config

            config.recompile_limit = MOST_SHAPES
            self._run = torch.compile(self._run, mode=mode, dynamic=False)
        self._inference = torch.inference_mode

    def proof(self) -> dict[str, Any]:
        weights = {f"{each.device.type}, {each.dtype}" for each in self._network.parameters()}
        return {"weights": sorted(weights)}

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        with self._inference():
            return np.asarray(self._run(**self.place(inputs)).float().cpu().numpy(), dtype=np.float32)

    def place(self, inputs: Inputs) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(values).to(self.device) for name, values in inputs.items()}

    def launch(self, placed: Any) -> None:
        with self._inference():
            self._run(**placed)


class OnnxRuntime(Engine):
    """how: `run`, `bound` or `captured`, on the stream that PyTorch's events are recorded on. words: of OPTIONS."""

    def __init__(self, file: Path, device: str, how: str, words: Sequence[str]) -> None:
        super().__init__(device)
        from tldeploy.runtime.bound import BoundGraph
        from tldeploy.runtime.session import open_session

        on_gpu = device == "cuda"
        self._captures = on_gpu and how == "captured"
        options: dict[str, str] = {}
        if on_gpu:
            import torch

            # Many engines share the GPU's memory: an arena that doubles would leave none to the last of them.
            options = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
            for word in words:
                options |= OPTIONS[word]
            options["user_compute_stream"] = str(torch.cuda.current_stream().cuda_stream)
        if self._captures:
            options["enable_cuda_graph"] = "1"
        provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
        self._session = open_session(file, provider, provider_options=options)
        (output,) = self._session.get_outputs()
        self._output, self._bound = output.name, None
        if how != "run":
            classes = int(output.shape[1])
            self._bound = BoundGraph(self._session, output.name, classes, device, captures=self._captures)

    def proof(self) -> dict[str, Any]:
        """nodes: how many each provider got, after the optimizer; on_the_cpu: which kinds the CPU got."""
        found: dict[str, Any] = {
            "providers": self._session.get_providers(),
            "options": self._session.get_provider_options()[self._session.get_providers()[0]],
        }
        if self.device == "cuda":
            parts = self._session.get_provider_graph_assignment_info()
            found["nodes"] = {part.ep_name: 0 for part in parts}
            for part in parts:
                found["nodes"][part.ep_name] += len(part.get_nodes())
            left = [part for part in parts if part.ep_name == "CPUExecutionProvider"]
            found["on_the_cpu"] = Counter(node.op_type for part in left for node in part.get_nodes())
        return found

    def answer(self, inputs: Inputs) -> NDArray[np.float32]:
        if self._bound is not None:
            return self._bound.run(inputs)
        found: NDArray[np.float32] = self._session.run([self._output], inputs)[0]
        return found

    def place(self, inputs: Inputs) -> Any:
        """A binding whose output onnxruntime allocates anew each time, as `session.run` does, or our own."""
        from onnxruntime import OrtValue

        if self._bound is not None:
            binding, options = self._bound.bound(inputs)
            return binding, unawaited(options if self._captures else None)
        binding = self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(values, self.device, 0))
        binding.bind_output(self._output, self.device)
        return binding, unawaited(None)

    def launch(self, placed: Any) -> None:
        binding, options = placed
        self._session.run_with_iobinding(binding, options)


def unawaited(captured: Any) -> Any:
    """Run options under which onnxruntime does not wait for the stream at the end of a run, as PyTorch does not.

    What replays a captured graph may wait all the same (microsoft/onnxruntime#28686), and so may a node: see the top of
    this file. captured: the options with the graph's number, or None.
    """
    from onnxruntime import RunOptions

    found = RunOptions()
    found.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if captured is not None:
        found.add_run_config_entry(GRAPH, captured.get_run_config_entry(GRAPH))
    return found


def in_precision(network: Network, dtype: Any) -> Network:
    """Weights and all that is computed from them, as `.half()` does; pixels are brought to it behind normalisation."""
    import torch

    from tldeploy.backbones.network import ImageNetwork

    network = network.to(dtype)
    if isinstance(network, ImageNetwork) and dtype != torch.float32:
        normalised = network.normalised
        network.scale, network.offset = network.scale.float(), network.offset.float()
        network.normalised = lambda pixels: normalised(pixels).to(dtype)  # type: ignore[method-assign]
    return network


def opened(engine: str, file: Path, device: str) -> Engine:
    kind, *how = engine.split(" ")
    if kind == "onnxruntime":
        return OnnxRuntime(file, device, how[0] if how else "run", how[1:])
    modes = {"torch": None, "compile": how[1] if len(how) > 1 else "default"}
    return Torch(file, device, how[0], modes[kind])


def main(engine: str, file: str, device: str) -> None:
    # What libraries print is no answer, nor what those in C or the processes of a compiler do.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if device == "cuda":
        import torch

        # A stream with a name: the default one's is a null pointer, which to onnxruntime means a stream of its own.
        torch.cuda.set_stream(torch.cuda.Stream())
    try:
        network = opened(engine, Path(file), device)
    except Exception as error:  # noqa: BLE001 — whatever it is, it is why this engine is not measured
        print(json.dumps({"error": said(error)}), file=answers, flush=True)
        return
    print(json.dumps({"proof": network.proof()}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            found = answered(network, json.loads(line))
        except Exception as error:  # noqa: BLE001 — such as a GPU whose memory is full
            found = {"error": said(error)}
        print(json.dumps(found), file=answers, flush=True)


def answered(network: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    inputs = dict(np.load(asked["inputs"]))
    if "times" in asked:
        return network.timed(inputs, asked["times"])
    if "seconds" in asked:
        network.keep_busy(inputs, asked["seconds"])
    else:
        np.save(asked["to"], network.answer(inputs))
    return {}


def said(error: Exception) -> str:
    """In a line: of our own errors what was found, of others what they are."""
    words = getattr(error, "found", f"{type(error).__name__}: {error}")
    return " ".join(words.split())[:600]


if __name__ == "__main__":
    main(*sys.argv[1:])
