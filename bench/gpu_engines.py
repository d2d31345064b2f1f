"""The engines of bench/gpu.py as it asks them: each a process that computes (gpu_engine.py), or a served graph.

Both answer the same questions. An engine that is not to be had, or fails at a request, is left out with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import MachineError, TldeployError
from tldeploy.measuring.nvml import Gpu, Memory

if TYPE_CHECKING:
    from tldeploy.runtime.triton import Client

ROOT = Path(__file__).parent.parent
REFERENCE, SERVED = "torch fp32", "served"
EAGER_HERE = (REFERENCE, "torch fp16")  # on a CPU, where it takes seconds
EAGER = (*EAGER_HERE, "torch bf16", "torch tf32")
# Trying out all kernels takes minutes, so that only some shapes are.
AUTOTUNED = ("1 x 128", "32 x 128", "1 x 224", "32 x 224")
COMPILED: Mapping[str, tuple[str, ...] | None] = {
    "compile fp16": None,
    "compile fp16 reduce-overhead": None,
    "compile fp16 max-autotune": AUTOTUNED,
}
HOW = ("", "bound", "captured")
# Words of gpu_engine.OPTIONS, of which a CPU knows none.
EXTRA_HOW = {"fp32": ("captured tf32",)}
CONVOLUTIONAL_HOW = {"fp16": ("captured exhaustive", "captured exhaustive nhwc")}
SERVED_WARM_UP = 1


class Engine(ABC):
    """proof: where it computes, as it says itself."""

    proof: dict[str, Any]

    @abstractmethod
    def time(self, inputs: Path, times: int) -> dict[str, list[float]]:
        """wall_ms, and device_ms where it is known, `times` of each. Raises TldeployError, as all of these do."""

    @abstractmethod
    def keep_busy(self, inputs: Path, seconds: float) -> None:
        """Ask again and again."""

    @abstractmethod
    def answer(self, inputs: Path) -> NDArray[np.float32]:
        """float32 [rows, classes]."""

    @abstractmethod
    def memory_mb(self) -> float | None:
        """What it has of the GPU's memory, in 10^6 bytes, as far as the machine tells."""

    @abstractmethod
    def close(self) -> None: ...


class Process(Engine):
    """A process that runs gpu_engine.py."""

    def __init__(self, kind: str, file: Path, device: str, memory: Memory | None) -> None:
        self._memory = memory
        command = [sys.executable, str(Path(__file__).with_name("gpu_engine.py")), kind, str(file), device]
        within = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._asked, self._stray = f"run {kind} of {file.name}", ""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=within)
        try:
            with self._growing():
                self.proof = self._answer()["proof"]
        except MachineError:
            self.close()
            raise

    def time(self, inputs: Path, times: int) -> dict[str, list[float]]:
        return self._ask(inputs=str(inputs), times=times)

    def keep_busy(self, inputs: Path, seconds: float) -> None:
        self._ask(inputs=str(inputs), seconds=seconds)

    def answer(self, inputs: Path) -> NDArray[np.float32]:
        to = inputs.with_suffix(".answer.npy")
        self._ask(inputs=str(inputs), to=str(to))
        found: NDArray[np.float32] = np.load(to)
        return found

    def memory_mb(self) -> float | None:
        return self._memory.mb(self._process.pid) if self._memory else None

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()

    def _ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._growing():
            with contextlib.suppress(BrokenPipeError):  # of one that has ended, which its answer says
                self._process.stdin.write(json.dumps(what) + "\n")
                self._process.stdin.flush()
            return self._answer()

    def _growing(self) -> contextlib.AbstractContextManager[None]:
        return self._memory.growing() if self._memory else contextlib.nullcontext()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._stray or self._process.stdout.readline()
        found: Any = None
        with contextlib.suppress(ValueError):
            found = json.loads(line)
        if not line:
            found = {"error": f"its process ended with {self._process.wait()}; what it said is on standard error"}
        elif not isinstance(found, dict):
            self._stray = line  # what comes behind it would be taken for the answer to another question
            found = {"error": f"it wrote {line.strip()[:200]!r}, which is no answer"}
        if "error" in found:
            raise MachineError(self._asked, found["error"], "see `tldeploy doctor`")
        return found


class Served(Engine):
    """A graph that a Triton server runs, asked by this process. worker: that of the graph."""

    def __init__(self, client: Client, worker: int, gpu: Gpu | None) -> None:
        self._client, self._worker, self._gpu = client, worker, gpu
        self.proof = {"provider": client.provider}

    def time(self, inputs: Path, times: int) -> dict[str, list[float]]:
        tensors, took = dict(np.load(inputs)), []
        for asked in range(SERVED_WARM_UP + times):
            start = time.perf_counter()
            self._client.predict_tensors(tensors)
            if asked >= SERVED_WARM_UP:
                took.append(1000 * (time.perf_counter() - start))
        return {"wall_ms": took}

    def keep_busy(self, inputs: Path, seconds: float) -> None:
        tensors, end = dict(np.load(inputs)), time.perf_counter() + seconds
        while time.perf_counter() < end:
            self._client.predict_tensors(tensors)

    def answer(self, inputs: Path) -> NDArray[np.float32]:
        return self._client.predict_tensors(dict(np.load(inputs)))

    def memory_mb(self) -> float | None:
        """Of its worker; None where the driver does not name that, for the graphs of a server cannot be told apart."""
        return self._gpu.used_mb_of(self._worker) if self._gpu else None

    def close(self) -> None:
        self._client.close()


def wanted(
    graphs: Mapping[str, Path], torch: Path, device: str, gpu: Gpu | None, convolutional: bool
) -> dict[str, Callable[[], Engine]]:
    """What opens each engine that computes in a process, by its name. graphs: by variant. torch: the network's."""

    def opening(kind: str, file: Path) -> Callable[[], Engine]:
        return lambda: Process(kind, file, device, Memory(gpu) if gpu else None)

    on_gpu = device == "cuda"
    kinds = {name: (name, torch) for name in (*EAGER, *COMPILED) if on_gpu or name in EAGER_HERE}
    for variant, file in graphs.items():
        more = EXTRA_HOW.get(variant, ()) if on_gpu else ()
        for how in (*HOW, *more, *(CONVOLUTIONAL_HOW.get(variant, ()) if on_gpu and convolutional else ())):
            kinds[f"onnxruntime {variant} {how}".rstrip()] = (f"onnxruntime {how}".rstrip(), file)
    return {name: opening(*what) for name, what in kinds.items()}


class Engines:
    """All that are wanted, kept open over the requests. refused: why some never were open.

    One that ends at a request, for want of memory as it may be, is opened again for the next. at_once: how many are
    opened, or compile, at the same time: one where memory is told apart by who is at work.
    """

    def __init__(self, openings: Mapping[str, Callable[[], Engine]], at_once: int) -> None:
        self._openings, self._at_once = openings, at_once
        self._open: dict[str, Engine] = {}
        self.refused: dict[str, str] = {}

    def open(self, names: Iterable[str]) -> None:
        closed = [name for name in names if name not in self._open and name not in self.refused]
        with ThreadPoolExecutor(self._at_once) as pool:
            for name, found in zip(closed, pool.map(self._opened, closed), strict=True):
                if isinstance(found, str):
                    self.refused[name] = found
                    print(f"{name}: {found}", file=sys.stderr)
                else:
                    self._open[name] = found

    def compile(self, requests: Mapping[str, Path]) -> None:
        """Let those that compile do it for every shape, which takes seconds each, and is kept on disk by PyTorch."""

        def through(name: str) -> None:
            for request in takes(name, requests):
                with contextlib.suppress(TldeployError):  # said where the request is measured
                    self._open[name].time(requests[request], 1)

        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(through, [name for name in self._open if name in COMPILED]))

    def for_request(self, request: str) -> dict[str, Engine]:
        return self.those([name for name in self._openings if takes(name, [request])])

    def that_compute(self) -> dict[str, Engine]:
        """All that answer by themselves, and for any shape at once."""
        return self.those([name for name in self._openings if name not in COMPILED and not name.startswith(SERVED)])

    def those(self, names: Sequence[str]) -> dict[str, Engine]:
        self.open(names)
        return {name: self._open[name] for name in names if name in self._open}

    def drop(self, name: str) -> None:
        self._open.pop(name).close()

    def close(self) -> None:
        for name in list(self._open):
            self.drop(name)

    def _opened(self, name: str) -> Engine | str:
        try:
            return self._openings[name]()
        except TldeployError as error:
            return in_a_line(error)


def in_a_line(error: TldeployError) -> str:
    """What was found; a server's own words may be several lines."""
    return " ".join(error.found.split())


def takes(engine: str, requests: Iterable[str]) -> list[str]:
    """Those of the requests that an engine is asked."""
    return [request for request in requests if request in (COMPILED.get(engine) or (request,))]
