"""Where time and error sit, by groups of the layer map: in fp32, and in each variant whose file is kept.

1. Time: a profile over some validation rows. The nodes of a profile are those that onnxruntime made of the file's; one
   whose name does not say where in the network it lies is placed by the tensor that it makes or is called after, which
   keeps its name when nodes are fused, and else by where its input comes from.
2. Error: how far a variant's tensors are from fp32's where a group ends, on the same rows. It adds up from group to
   group, and fades again where a norm or a pooling evens it out.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tldeploy.artifacts import Manifest
from tldeploy.backbones.layers import LayerMap, layer_map
from tldeploy.backbones.network import load_network
from tldeploy.data.rows import Rows
from tldeploy.exporting.places import AROUND, HEAD, group_of
from tldeploy.exporting.storage import save_graph
from tldeploy.exporting.targets import Place, place_for
from tldeploy.exporting.variants import REFERENCE
from tldeploy.measuring.profiling import NodeTime, profile, sample, shares
from tldeploy.progress import progress
from tldeploy.runtime.session import open_session
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Tensors

DEQUANTIZED = "_DequantizeLinear_Output"  # behind a tensor's name, as onnxruntime's quantizer has it
COMPILED = {"TensorrtExecutionProvider", "OpenVINOExecutionProvider"}  # they run whole subgraphs as one node


@dataclass(frozen=True)
class Explained:
    """One variant. ms: of the host for a typical row, in the graph alone: on a GPU it launches, and does not wait; and
    with what the profiler adds: some microseconds a node, which is most of a tiny network's. groups, operators: shares
    of that time, which add up to 1; groups in the network's order, all of them. nodes: each as it ran, with its
    provider. departures: where each group ends, the L2 norm of the difference from fp32 over that of fp32; None where
    the variant has no such tensor."""

    variant: str
    ms: float
    groups: dict[str, float]
    operators: dict[str, float]
    nodes: list[NodeTime]
    departures: dict[str, float | None]

    @property
    def placed(self) -> dict[str, int]:
        """How many nodes ran on each provider."""
        return dict(Counter(node.provider for node in self.nodes))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(manifest: Manifest, exported: Path, tuned: Path) -> list[Explained]:
    """fp32 first. manifest: of the export artifact in `exported`, which was made of the one in `tuned`."""
    task = load_task(manifest.task, exported, manifest.labels)
    layers = layer_map(load_network(tuned).backbone)
    rows = sample(Rows.load(tuned / "validation.jsonl").inputs, task)
    files = {entry["name"]: exported / entry["file"] for entry in manifest.details["variants"] if entry["file"]}
    place = place_for(manifest.details["target"], files[REFERENCE])
    fp32 = _Groups.of(onnx.load(files[REFERENCE], load_external_data=False), layers)
    found = []
    with progress("export: explaining", len(files)) as advance:
        for name, file in files.items():
            nodes, groups = _timed(file, rows, fp32, place)
            of_groups = shares(nodes, groups)
            found.append(
                Explained(
                    variant=name,
                    ms=sum(node.ms for node in nodes),
                    groups={group: of_groups.get(group, 0.0) for group in (*layers.names, HEAD, AROUND)},
                    operators=shares(nodes, [node.operator for node in nodes]),
                    nodes=nodes,
                    departures={} if name == REFERENCE else _departures(files[REFERENCE], file, fp32, rows, place),
                )
            )
            advance(1)
    return found


@dataclass(frozen=True)
class _Groups:
    """The groups of the fp32 graph. of_tensor: which each tensor is made in. ends: the tensors that leave each group,
    the last one first."""

    layers: LayerMap
    of_tensor: Mapping[str, str]
    ends: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, fp32: onnx.ModelProto, layers: LayerMap) -> _Groups:
        of_tensor = {name: group_of(node.name, layers) for node in fp32.graph.node for name in node.output}
        leaving = {value.name for value in fp32.graph.output}
        for node in fp32.graph.node:
            group = group_of(node.name, layers)
            leaving |= {name for name in node.input if of_tensor.get(name, group) != group}
        ends: dict[str, list[str]] = {}
        for name, group in reversed(of_tensor.items()):
            if name in leaving:
                ends.setdefault(group, []).append(name)
        return cls(layers, of_tensor, ends)

    def of_nodes(self, nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
        """The group of each node by its name; nodes in the order that they run in."""
        of_tensor, found = dict(self.of_tensor), {}
        for node in nodes:
            group = group_of(node.name, self.layers) if "/" in node.name else AROUND
            if group == AROUND:
                # Quantizers and layout changes call a node after a tensor of the file: `relu_1_nchwc`.
                called_after = node.name.rpartition("_")[0]
                known = [name for name in (*node.output, called_after, *node.input) if name in of_tensor]
                group = of_tensor[known[0]] if known else AROUND
            found[node.name] = group
            of_tensor |= {name: group for name in node.output if name not in self.of_tensor}
        return found


def _timed(file: Path, rows: list[Tensors], fp32: _Groups, place: Place) -> tuple[list[NodeTime], list[str]]:
    """The nodes that ran, and the group of each."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = None if place.provider in COMPILED else Path(folder) / "optimized.onnx"
        nodes = profile(file, rows, place.provider, optimized)
        as_run = onnx.load(optimized, load_external_data=False).graph.node if optimized else []
        groups = fp32.of_nodes(as_run)
    return nodes, [groups.get(node.name) or group_of(node.name, fp32.layers) for node in nodes]


def _departures(
    reference: Path, file: Path, fp32: _Groups, rows: list[Tensors], place: Place
) -> dict[str, float | None]:
    """The relative L2 difference at the last tensor that leaves each group and that both graphs have, in floats."""
    made = [name for node in onnx.load(file, load_external_data=False).graph.node for name in node.output]
    wanted = [name for names in fp32.ends.values() for name in names if name in made]
    # Where a tensor becomes integers, the next group reads what they stand for. The floats before that may still be
    # without a ReLU, which clipping to uint8 replaces.
    dequantized = [next((other for other in made if other.startswith(name + DEQUANTIZED)), name) for name in wanted]
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            open_session(_exposed(graph, Path(folder) / f"{at}.onnx", names), place.provider)
            for at, (graph, names) in enumerate(((reference, wanted), (file, dequantized)))
        ]
        squares = {name: np.zeros(2) for name in wanted}
        for row in rows:
            answers = (session.run(names, row) for session, names in zip(sessions, (wanted, dequantized), strict=True))
            for name, before, after in zip(wanted, *answers, strict=True):
                if before.dtype.kind == "f" and before.shape == after.shape:
                    exact = before.astype(np.float64)
                    squares[name] += np.square(exact - after).sum(), np.square(exact).sum()
    found: dict[str, float | None] = {}
    for group in (*fp32.layers.names, HEAD, AROUND):
        both = [name for name in fp32.ends.get(group, ()) if name in squares and squares[name][1] > 0]
        found[group] = float(np.sqrt(squares[both[0]][0] / squares[both[0]][1])) if both else None
    return found


def _exposed(graph: Path, target: Path, tensors: Sequence[str]) -> Path:
    """A copy of the graph that gives these tensors as outputs too."""
    model = onnx.load(graph)
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in given)
    save_graph(model, target)
    return target
