"""The variants: what each is made by, and where it is not worth making.

To add one: a line in VARIANTS, and its name in recipe/serving.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy.artifacts import Choice
from tldeploy.errors import QualityError
from tldeploy.exporting.fusion import fuse
from tldeploy.exporting.half import BF16, FP16
from tldeploy.exporting.precision import make_half
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.quantization.dynamic import DynamicInt8
from tldeploy.exporting.quantization.search import quantize_within_budget
from tldeploy.exporting.quantization.static import StaticInt8, scheme_for
from tldeploy.exporting.quantization.weights import quantize_weights
from tldeploy.exporting.source import Source
from tldeploy.exporting.targets import place_for

REFERENCE = "fp32"


@dataclass(frozen=True)
class Variant:
    """make: writes the graph, and says what it did; raises QualityError when it cannot be made soundly.

    misfit: why it is not worth making for this network, target and machine; None if it is. is_float: it must agree
    with PyTorch as the reference does. is_learnable: a network can be trained to bear it.
    """

    make: Callable[[Source, Path], dict[str, Any]]
    misfit: Callable[[Source], str | None]
    is_float: bool = False
    is_learnable: bool = False


def _fused(source: Source, target: Path) -> dict[str, Any]:
    return {"fusion_audit": fuse(source.graph, target, source.attentions).as_json()}


def _no_fused(source: Source) -> str | None:
    return None if source.attentions else "the architecture has no attention to fuse"


def _int8_dynamic(source: Source, target: Path) -> dict[str, Any]:
    def make(graph: Path) -> DynamicInt8:
        return DynamicInt8(graph, reduce_range=not source.has_vnni)

    return {"search": {"int8-dynamic": quantize_within_budget(make, source, target)}}


def _no_int8_dynamic(source: Source) -> str | None:
    if source.settings.target != "cpu":
        return f"{source.settings.target} has no kernels for integers whose scale is taken from each batch"
    return (
        "convolutions whose scales are taken from each batch are slower than fp32" if source.is_convolutional else None
    )


def _int8_static(source: Source, target: Path) -> dict[str, Any]:
    settings = source.settings
    batches = covering_batches(source.task, source.calibration, settings.calibration.rows)
    scheme = scheme_for(settings.target, source.has_vnni)

    def make(graph: Path) -> StaticInt8:
        return StaticInt8(graph, batches, scheme, settings.calibration.method, between=source.is_convolutional)

    return {"search": {"int8-static": quantize_within_budget(make, source, target)}}


def _no_int8_static(source: Source) -> str | None:
    if source.settings.target == "cuda":
        return "the CUDA provider has no kernels for most of what is quantized with fixed ranges; TensorRT has"
    return None


def _fp16(source: Source, target: Path) -> dict[str, Any]:
    return {"precision": {"fp16": make_half(source, target, FP16)}}


def _no_half(source: Source) -> str | None:
    if source.settings.target == "cpu":
        return "the CPU provider has no half-precision kernels, and casts around each node"
    if source.settings.target == "openvino":
        return "OpenVINO chooses the precision itself, from the fp32 graph"
    return None


def _no_bf16(source: Source) -> str | None:
    if (why := _no_half(source)) is None and source.operators["Conv"]:
        return "Conv takes bf16 from opset 22 on, and Triton's onnxruntime reads opset 20"
    return why


def _bf16(source: Source, target: Path) -> dict[str, Any]:
    made = make_half(source, target, BF16)
    if why := place_for(source.settings.target, source.graph).why_not_there:
        off = f"with every tensor rounded to it, probabilities are off by {made['max_abs_diff_to_fp32']:.0e}"
        found = f"not measured on this machine: the CPU provider has no kernels for it, and {why} ({off})"
        raise QualityError("make bf16", found, "export on a machine with the GPU that will serve it")
    return {"precision": {"bf16": made}}


def _weights(bits: int) -> Callable[[Source, Path], dict[str, Any]]:
    return lambda source, target: {
        "weights": {f"int{bits}-weights": quantize_weights(source.graph, target, bits, source.settings.target)}
    }


def _no_weights(source: Source) -> str | None:
    if source.settings.target == "tensorrt":
        return "TensorRT has no operator for products with packed weights"
    return "only products are packed, not convolutions" if source.is_convolutional else None


VARIANTS: dict[str, Variant] = {
    "fused": Variant(_fused, _no_fused, is_float=True),
    "int8-dynamic": Variant(_int8_dynamic, _no_int8_dynamic, is_learnable=True),
    "int8-static": Variant(_int8_static, _no_int8_static, is_learnable=True),
    "int8-weights": Variant(_weights(8), _no_weights),
    "int4-weights": Variant(_weights(4), _no_weights),
    "fp16": Variant(_fp16, _no_half),
    "bf16": Variant(_bf16, _no_bf16),
}


def wanted(source: Source) -> tuple[list[str], list[Choice]]:
    """The variants to make beside fp32, and those that were named, or could be, with why they are not made."""
    named = source.settings.variants
    candidates = [name for name in (VARIANTS if named is None else named) if name != REFERENCE]
    misfits = {name: VARIANTS[name].misfit(source) for name in candidates}
    left_out = [Choice(about=f"variant {name}", value="left out", reason=why) for name, why in misfits.items() if why]
    return [name for name, why in misfits.items() if why is None], left_out
