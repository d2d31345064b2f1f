"""Where in the network a node of the graph lies. The node's name says it: `encoder.layer.0.output.dense/MatMul_57`.

The exporter knows from which module of the network each node came, and the name is what later tools keep: the
quantizers, the fusers and onnxruntime's profiler. Through it the layer map reaches all of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from onnx import NodeProto

from tldeploy.backbones.layers import LayerMap

SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.onnx writes the module's path, outermost first, and its own name
NETWORK, BACKBONE = "network.", "backbone."
HEAD, AROUND = "head", "around"  # AROUND: what no layer can claim, such as masks, pooling and the softmax


def name_by_place(nodes: Iterable[NodeProto]) -> None:
    """Rename nodes as they come from torch.onnx, before its metadata is taken out."""
    for number, node in enumerate(nodes):
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        modules = [str(scope) for scope in ast.literal_eval(scopes)[:-1]]
        path = modules[-1].removeprefix(NETWORK) if modules else ""
        node.name = f"{path}/{node.op_type}_{number}"


def group_of(node: str, layers: LayerMap) -> str:
    """The group of the layer map that a node lies in, by its name; `head`; or `around`.

    A module without parameters, such as an activation, lies where its parent does.
    """
    path = node.partition("/")[0]
    if path == HEAD:
        return HEAD
    if not path.startswith(BACKBONE):
        return AROUND
    module = path.removeprefix(BACKBONE)
    while module:
        groups = {group.name for group in layers.groups if any(_within(name, module) for name in group.parameters)}
        if groups:
            return groups.pop() if len(groups) == 1 else AROUND
        module = module.rpartition(".")[0]
    return AROUND


def _within(parameter: str, module: str) -> bool:
    return parameter.startswith(f"{module}.")
