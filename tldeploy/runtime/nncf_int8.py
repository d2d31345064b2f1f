"""OpenVINO's int8 of a graph, by nncf's post-training quantization, in a process of its own.

    python -m tldeploy.runtime.nncf_int8 GRAPH ROWS KIND TARGET

ROWS: a folder of .npz files, encoded rows to calibrate on. KIND: transformer or cnn. TARGET: an .xml file, with its
weights in a .bin file beside it. nncf and what it imports stay out of the process that asks for it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import MachineError
from tldeploy.runtime.openvino import INSTALL

Kind = Literal["transformer", "cnn"]


def quantize(
    graph: Path, rows: Iterable[dict[str, NDArray[Any]]], kind: Kind, target: Path, python: str = sys.executable
) -> None:
    """Write `target`, an .xml file, and the .bin file beside it; both whole, or none. rows: encoded one by one.

    python: of an environment with openvino and nncf. Raises MachineError when it has none, or when they fail.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for number, tensors in enumerate(rows):
            np.savez(Path(folder) / f"{number}.npz", allow_pickle=False, **tensors)
        made = Path(folder) / target.name
        command = [python, "-m", __name__, str(graph), folder, kind, str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            found = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:300]
            fix = f"{INSTALL}, or leave openvino-int8 out of bench.engines"
            raise MachineError(f"quantize {graph.name} with nncf", found, fix)
        for suffix in (".bin", ".xml"):
            made.with_suffix(suffix).replace(target.with_suffix(suffix))


def _main(graph: str, rows: str, kind: str, target: str) -> None:
    import nncf
    import openvino

    files = sorted(Path(rows).glob("*.npz"))
    data = nncf.Dataset(files, lambda file: dict(np.load(file)))
    model_type = nncf.ModelType.TRANSFORMER if kind == "transformer" else None
    model = openvino.Core().read_model(graph)
    quantized = nncf.quantize(model, data, subset_size=len(files), model_type=model_type)
    openvino.save_model(quantized, target, compress_to_fp16=False)


if __name__ == "__main__":
    _main(*sys.argv[1:])
