"""What a graph costs before it answers: the time until its session is ready, and the memory that it takes.

    python -m tldeploy.measuring.loading GRAPH INPUTS PROVIDER

Both are measured in a fresh process that has imported onnxruntime and numpy, and loaded the provider's libraries: one
that has opened other graphs has warm code and freed memory to give away, and both figures would come out too small. The
file itself is in the system's cache, as it has just been written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tldeploy.devices import preload
from tldeploy.environment import resident_bytes
from tldeploy.errors import MachineError
from tldeploy.progress import progress
from tldeploy.runtime.session import Provider, open_session

TURNS = 3
SEED = 0


@dataclass(frozen=True)
class Loading:
    """load_ms: from the file to a session that can run. memory_mb: resident memory that the session and its first run
    added to the process, in 10^6 bytes."""

    load_ms: float
    memory_mb: float


def measure_loading(graphs: Sequence[Path], tensors: Mapping[str, NDArray[Any]], provider: Provider) -> list[Loading]:
    """Medians of three for each graph; the turns are interleaved, in an order drawn anew. tensors: what the run gets.

    Raises MachineError when such a process fails.
    """
    samples = np.empty((len(graphs), TURNS, 2))
    order = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder, progress("export: loading", len(graphs) * TURNS) as advance:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, allow_pickle=False, **tensors)
        for turn in range(TURNS):
            for graph in order.permutation(len(graphs)).tolist():
                found = _in_a_fresh_process(graphs[graph], inputs, provider)
                samples[graph, turn] = found.load_ms, found.memory_mb
                advance(1)
    return [Loading(*row) for row in np.median(samples, axis=1).tolist()]


def _in_a_fresh_process(graph: Path, inputs: Path, provider: Provider) -> Loading:
    command = [sys.executable, "-m", __name__, str(graph), str(inputs), provider]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        found = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        fix = "free some memory, or leave this variant out of export.variants"
        raise MachineError(f"load {graph.name} in a process of its own", found, fix)
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def _measured(graph: Path, inputs: Path, provider: Provider) -> Loading:
    import onnxruntime  # noqa: F401 — the first import takes longer than most graphs do

    with np.load(inputs) as loaded:
        tensors = dict(loaded)
    preload(provider)
    before = resident_bytes()
    start = time.perf_counter()
    session = open_session(graph, provider)
    load_ms = 1000 * (time.perf_counter() - start)
    session.run(None, tensors)
    return Loading(load_ms, (resident_bytes() - before) / 1e6)


if __name__ == "__main__":
    print(json.dumps(asdict(_measured(Path(sys.argv[1]), Path(sys.argv[2]), cast(Provider, sys.argv[3])))))
