"""Quantization. One function a method, from the unfused fp32 graph to a smaller one."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx


def quantize_dynamic_int8(source: Path, target: Path) -> None:
    """Weights to int8 with a scale per output channel, activations to uint8 with a scale taken from each batch.

    Signed weights with unsigned activations (U8S8) are what AVX512-VNNI multiplies fastest; per-channel scales agree
    with fp32 better than one per tensor, at the same speed. The embedding tables go to int8 as well, for size.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # Shapes inferred while tracing are in the way of the quantizer's own ("Inferred shape and existing shape differ");
    # they stay in the source, because the fuser needs them.
    del model.graph.value_info[:]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that this graph does not need, on the root logger
    try:
        quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
