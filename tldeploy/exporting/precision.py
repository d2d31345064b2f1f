"""Half precision for GPUs: fp16 where real rows stay in its range, fp32 where they do not; and bf16.

1. The fp32 graph runs on calibration rows, and the magnitude of every tensor is kept (ranges.py).
2. A node stays in fp32 where its numbers, or its weights, are more than half precision holds, or so small that it
   loses their digits; where an integer is made of what it computes, such as a position; or where ONNX says so.
3. The others are converted (half.py), and the result is compared with fp32 on the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from tldeploy.errors import ArtifactError, QualityError
from tldeploy.exporting.half import Half, as_rounded, opsets, to_half, why_not_half
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.ranges import Magnitude, measure_magnitudes
from tldeploy.exporting.source import Source
from tldeploy.exporting.storage import delete_graph, save_graph
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Tensors

HEADROOM = 4  # other rows may go further than those that calibrated
INTEGERS = {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8}
LISTED = 20  # of the nodes that stay, how many a manifest names


def make_half(source: Source, target: Path, half: Half) -> dict[str, Any]:
    """Write the graph in half precision, and say which nodes stayed in fp32, why, and what the rest cost.

    The comparison is with a graph in fp32 that rounds every tensor: the CPU provider has no kernels for bf16, and of an
    fp16 graph it runs most nodes in fp32, without rounding between them. There even what overflows looks well. Raises
    QualityError when the answers are no numbers.
    """
    batches = covering_batches(source.task, source.calibration, source.settings.calibration.rows)
    magnitudes = measure_magnitudes(source.graph, batches, target.with_suffix(".ranges"))
    model = onnx.load(source.graph)
    total = len(model.graph.node)
    kept = nodes_to_keep(model, magnitudes, half)
    to_half(model, magnitudes, kept, half)
    save_graph(model, target)
    rounding = target.with_suffix(".rounding")
    try:
        model = onnx.load(source.graph)
        as_rounded(model, magnitudes, kept, half)
        save_graph(model, rounding)
        difference = _difference(source, rounding, batches)
    finally:
        delete_graph(rounding)
    if not np.isfinite(difference):
        raise QualityError(f"make {half.name}", "its answers are not finite numbers", "leave this variant out")
    reasons = Counter(reason.kind for reason in kept.values())
    named = {node: str(reason) for node, reason in list(kept.items())[:LISTED]}
    return {
        "nodes": total,
        "kept_in_fp32": len(kept),
        "by_reason": dict(reasons),
        "named": named,
        "rows": sum(len(next(iter(batch.values()))) for batch in batches),
        "max_abs_diff_to_fp32": difference,
    }


@dataclass(frozen=True)
class Reason:
    """Why a node stays in fp32. kind: in few words, the same for all such nodes."""

    kind: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.details}" if self.details else self.kind


def nodes_to_keep(model: ModelProto, magnitudes: Mapping[str, Magnitude], half: Half) -> dict[str, Reason]:
    """The nodes that must stay in fp32, each with the first reason that was found."""
    return _Fitness(model, magnitudes, half).unfit()


class _Fitness:
    def __init__(self, model: ModelProto, magnitudes: Mapping[str, Magnitude], half: Half) -> None:
        self.model, self.magnitudes, self.half = model, magnitudes, half
        self.opset = opsets(model)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.seen: dict[tuple[str, bool], Reason | None] = {}

    def unfit(self) -> dict[str, Reason]:
        integers = self._before_integers()
        return {
            node.name: reason
            for node in self.model.graph.node
            if (reason := next(self._reasons(node, integers), None)) is not None
        }

    def _reasons(self, node: NodeProto, integers: set[str]) -> Iterator[Reason]:
        # What onnxruntime's converter leaves in fp32, because providers lack kernels.
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

        floats = [value for value in (*node.output, *node.input) if value in self.magnitudes]
        weights = [value for value in node.input if self._is_float_weight(value)]
        if not floats and not weights:
            return
        if node.op_type in DEFAULT_OP_BLOCK_LIST:
            yield Reason("onnxruntime has no half-precision kernel everywhere", node.op_type)
        if why := why_not_half(node, self.magnitudes, self.opset, self.half):
            yield Reason("ONNX does not allow it", f"{node.op_type}: {why}")
        if any(value in integers for value in (*node.output, *node.input)):
            yield Reason("an integer is made of it")
        for value in floats:
            if reason := self._out_of_range(self.magnitudes[value]):
                yield Reason(reason.kind, f"{value} {reason.details}")
        masks = all(self.magnitudes[value].is_masked for value in node.output if value in self.magnitudes)
        for value in weights:
            if reason := self._lost(value, masks):
                yield Reason(reason.kind, f"{value} {reason.details}")

    def _out_of_range(self, magnitude: Magnitude) -> Reason | None:
        largest, limit = magnitude.largest, self.half.largest / HEADROOM
        if largest > limit:
            return Reason("its numbers overflow", f"reaches {largest:.2g}, the limit with headroom is {limit:.2g}")
        if 0 < largest < self.half.smallest:
            return Reason("its numbers are too small", f"stays below {largest:.1e}")
        return None

    def _lost(self, name: str, masks: bool) -> Reason | None:
        """What rounding would do to a weight. masks: it goes into a softmax: large negative numbers do no harm."""
        if (name, masks) not in self.seen:
            values = numpy_helper.to_array(self.weights[name]).ravel()
            # A weight that fills nothing but a mask may be any large negative number.
            exact = values[np.isfinite(values) & ~(masks & (values < -self.half.largest))]
            length = float(np.linalg.norm(exact))
            error = float(np.linalg.norm(self.half.rounded(exact).astype(np.float32) - exact))
            lost = Reason("its weights would be lost", f"would change by {error / length:.1%}") if length else None
            self.seen[name, masks] = lost if error > self.half.step * length else None
        return self.seen[name, masks]

    def _before_integers(self) -> set[str]:
        """The float tensors that integers are made of, such as positions: one that is rounded is another position."""
        found: set[str] = set()
        for node in reversed(self.model.graph.node):
            to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
            if (node.op_type == "Cast" and to in INTEGERS) or any(value in found for value in node.output):
                found |= {value for value in node.input if value in self.magnitudes}
        return found

    def _is_float_weight(self, name: str) -> bool:
        return name in self.weights and self.weights[name].data_type == TensorProto.FLOAT


def _difference(source: Source, graph: Path, batches: list[Tensors]) -> float:
    """The largest difference of probabilities from fp32's; NaN where one is no number."""
    try:
        before, after = OnnxRunner(source.graph, source.task), OnnxRunner(graph, source.task)
    except ArtifactError as error:
        raise QualityError("run the graph in half precision", error.found, "leave this variant out") from error
    differences = [np.abs(before.run(batch) - after.run(batch)).max() for batch in batches]
    before.close()
    after.close()
    return float(np.max(differences))
