"""One engine in a process of its own, for bench/export.py: it opens a network once and times what it is sent.

Run as `python bench/engine.py KIND FILE THREADS`. It says how many seconds opening took and how much memory it added,
both with the import of the engine's package; then it answers each line `{"inputs": [FILE.npz, ...], "times": N}` with N
times in milliseconds, each of all inputs one by one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[dict[str, Any]], Any]


def torch_eager(file: Path, threads: int) -> Run:
    import torch

    from tldeploy.backbones.network import load_network

    torch.set_num_threads(threads)
    network = load_network(file)

    @torch.inference_mode()
    def run(inputs: dict[str, Any]) -> Any:
        return network.probabilities(**{name: torch.from_numpy(values) for name, values in inputs.items()}).numpy()

    return run


def onnxruntime(file: Path, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino(file: Path, threads: int) -> Run:
    from tldeploy.runtime.openvino import compiled_graph

    compiled = compiled_graph(file, threads)
    request = compiled.create_infer_request()
    return lambda inputs: request.infer(inputs)[compiled.output(0)]


ENGINES = {"torch": torch_eager, "onnxruntime": onnxruntime, "openvino": openvino}


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(kind: str, file: str, threads: str) -> None:
    before, start = memory_mb(), time.perf_counter()
    run = ENGINES[kind](Path(file), int(threads))
    print(json.dumps({"seconds": time.perf_counter() - start, "memory_mb": memory_mb() - before}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        batches = [dict(np.load(file)) for file in asked["inputs"]]
        times_ms = []
        for _ in range(asked["times"]):
            start = time.perf_counter()
            for inputs in batches:
                run(inputs)
            times_ms.append(1000 * (time.perf_counter() - start))
        print(json.dumps(times_ms), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
