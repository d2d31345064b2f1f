"""OpenVINO's int8 of a graph, by nncf's post-training quantization: run by export.py in the peers' environment.

python nncf_int8.py GRAPH ROWS KIND TARGET: rows are the .npz files of a folder; KIND is transformer or cnn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov


def main(graph: str, rows: str, kind: str, target: str) -> None:
    files = sorted(Path(rows).glob("*.npz"))
    data = nncf.Dataset(files, lambda file: dict(np.load(file)))
    model_type = nncf.ModelType.TRANSFORMER if kind == "transformer" else None
    quantized = nncf.quantize(ov.Core().read_model(graph), data, subset_size=len(files), model_type=model_type)
    ov.save_model(quantized, target, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
