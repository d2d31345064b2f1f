"""What no variant could mend, found before any is made: weights that are no numbers, operators that cannot be run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import torch
from onnx import GraphProto, NodeProto
from torch import Tensor, nn

from tldeploy.errors import ArtifactError, QualityError
from tldeploy.runtime.session import open_session

# How onnxruntime says that it has no such operator, or none of that version or for those types.
_LACKING = (
    re.compile(r"Could not find an implementation for (?P<operator>[\w.]+?)\(\d+\) node"),
    re.compile(r"No Op registered for (?P<operator>\w+)"),
    re.compile(r"Fatal error: (?:[\w.]+:)?(?P<operator>\w+)\(-?\d+\) is not a registered function/op"),
)
NAMED = 3  # parameters that an error names


def check_weights(network: nn.Module) -> None:
    """Raises QualityError that names the parameters which hold NaN or infinity, and the buffers which hold NaN.

    A buffer may be a mask made of infinities.
    """
    bad = [*_bad(network.named_parameters(), torch.isfinite), *_bad(network.named_buffers(), lambda t: ~t.isnan())]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        found = f"not finite are {', '.join(bad[:NAMED])}{more}"
        fix = "training diverged, or the checkpoint is damaged: tune again with a smaller learning rate"
        raise QualityError("export the network", found, fix)


def check_operators(graph: Path) -> None:
    """Load the graph with onnxruntime. Raises QualityError that names the operator which it lacks, if that is why not;
    ArtifactError otherwise."""
    try:
        open_session(graph)
    except ArtifactError as error:
        operator = next((match["operator"] for said in _LACKING if (match := said.search(error.found))), None)
        if operator is None:
            raise
        raise QualityError(
            "run the exported graph with onnxruntime",
            f"it lacks {_described(graph, operator)}",
            "use another backbone, another `export.opset`, or a newer onnxruntime",
        ) from error


def _bad(tensors: Iterator[tuple[str, Tensor]], is_good: Callable[[Tensor], Tensor]) -> Iterator[str]:
    for name, tensor in tensors:
        if tensor.is_floating_point() and (count := int((~is_good(tensor)).sum())):
            yield f"{count} of {tensor.numel()} numbers of {name}"


def _described(graph: Path, operator: str) -> str:
    model = onnx.load(graph, load_external_data=False)
    node = next((node for node in _nodes(model.graph) if node.op_type == operator), None)
    if node is None:
        return f"the operator {operator}"
    opset = next((entry.version for entry in model.opset_import if entry.domain == node.domain), None)
    return f"the operator {operator} of {node.domain or 'ai.onnx'}, opset {opset}, which {node.name or 'a node'} uses"


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)
