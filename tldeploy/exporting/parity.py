"""Parity: the same rows through PyTorch and through a graph, at several batch sizes and, for texts, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Float graphs compute the same sums in another order: differences of about 1e-6 are expected, 1e-4 is another network.
TOLERANCE = 1e-4


class _Graph(Protocol):
    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Parity:
    """Largest and mean absolute difference of probabilities, and the share of rows with the same label, per shape."""

    shapes: list[tuple[int, ...]]
    max_abs_diff: float
    mean_abs_diff: float
    label_agreement: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_parity(reference: _Graph, graph: _Graph, batches: Sequence[dict[str, NDArray[Any]]]) -> Parity:
    """How far `graph` is from `reference` on these batches."""
    pairs = [(reference.run(batch), graph.run(batch)) for batch in batches]
    difference = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    same = np.concatenate([a.argmax(axis=1) == b.argmax(axis=1) for a, b in pairs])
    shapes = [next(iter(batch.values())).shape for batch in batches]
    return Parity(shapes, float(difference.max()), float(difference.mean()), float(same.mean()))
