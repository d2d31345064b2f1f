"""Fusion: onnxscript's rewriter puts attention and its neighbours into onnxruntime's own operators, and is audited.

onnxruntime's older `transformers.optimizer` finds no attention in a graph of the dynamo exporter; this one does.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx_ir

from tldeploy.errors import QualityError
from tldeploy.exporting.storage import external

ATTENTION = {"Attention", "MultiHeadAttention"}


@dataclass(frozen=True)
class FusionAudit:
    """Fused nodes found, by operator, and how many attentions the architecture has."""

    fused: dict[str, int]
    attentions: int
    expected_attentions: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def fuse(source: Path, target: Path, expected_attentions: int) -> FusionAudit:
    """Write the fused form of a graph.

    Raises QualityError when there is no attention to fuse, or when fewer were fused than the architecture has: fusion
    that silently stopped working is worse than none.
    """
    if expected_attentions == 0:
        found = "the architecture has no attention to fuse"
        raise QualityError("fuse the graph", found, "leave this variant out; the others do not need it")
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    model = onnx_ir.load(source)
    optimize_for_ort(model)
    onnx_ir.save(model, target, external_data=external(target).name if external(source).exists() else None)
    operators = Counter(node.op_type for node in onnx.load(target).graph.node if node.domain == "com.microsoft")
    attentions = sum(operators[name] for name in ATTENTION)
    if attentions < expected_attentions:
        found = f"{attentions} of {expected_attentions} attentions were fused"
        raise QualityError("fuse the graph", found, "leave this variant out; the others do not need it")
    return FusionAudit(dict(operators), attentions, expected_attentions)
