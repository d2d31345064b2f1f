"""The peak of memory that a graph adds to a process that has imported onnxruntime, in 10^6 bytes; for bench/scale.py.

Run as `python bench/peak.py GRAPH BATCH TOKENS`: it opens the graph, runs it three times on made-up tokens and says how
much the highest resident memory rose by.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def highest_mb() -> float:
    """Since the program began; getrusage would tell the parent's, if that was higher."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def main(graph: str, batch: int, tokens: int) -> None:
    shape = (batch, tokens)
    inputs = {"input_ids": np.full(shape, 2000), "attention_mask": np.ones(shape, dtype=np.int64)}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    before = highest_mb()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, inputs)
    print(highest_mb() - before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
