"""Which nodes a quantization suffers from: each is quantized alone, and the loss that it causes measured.

Where there are many nodes, the groups of the layer map come first, and only the nodes of the worst groups are told
apart. Nodes are ordered by what they cost, the worst first: in that order they are left in floats.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tldeploy.backbones.layers import LayerMap
from tldeploy.exporting.places import group_of

MOST_ALONE = 24
WORST_GROUPS = 3


class Quantizer(Protocol):
    """Writes one graph in integers, again and again, with some of its `nodes` left in floats."""

    nodes: list[str]

    def write(self, target: Path, in_float: Collection[str] = ()) -> None: ...


@dataclass(frozen=True)
class Blame:
    """nodes: one, or those of a group. loss: of the graph in which only they are integers; None if time ran out."""

    place: str
    nodes: tuple[str, ...]
    loss: float | None


def ranked(
    quantizer: Quantizer, loss: Callable[[Path], float], layers: LayerMap, folder: Path, deadline: float
) -> list[Blame]:
    """Every node of the quantizer once, alone or in its group, the worst first. deadline: by time.monotonic()."""

    def blame(place: str, nodes: Sequence[str]) -> Blame:
        if time.monotonic() > deadline:
            return Blame(place, tuple(nodes), None)
        file = folder / "alone.onnx"
        quantizer.write(file, in_float=set(quantizer.nodes) - set(nodes))
        return Blame(place, tuple(nodes), loss(file))

    if len(quantizer.nodes) <= MOST_ALONE:
        return sorted((blame(node, [node]) for node in quantizer.nodes), key=_worst_first)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for node in quantizer.nodes:
        groups[group_of(node, layers)].append(node)
    by_group = sorted((blame(group, nodes) for group, nodes in groups.items()), key=_worst_first)
    worst = [blame(node, [node]) for group in by_group[:WORST_GROUPS] for node in group.nodes]
    return sorted(worst, key=_worst_first) + by_group[WORST_GROUPS:]


def _worst_first(blame: Blame) -> float:
    return float("inf") if blame.loss is None else -blame.loss
