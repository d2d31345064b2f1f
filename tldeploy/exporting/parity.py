"""Parity: the same rows through PyTorch and through a graph, at several batch sizes and, for texts, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import MachineError, QualityError

# Float graphs compute the same sums in another order: differences of about 1e-6 are expected, 1e-4 is another network.
TOLERANCE = 1e-4

Probabilities = NDArray[np.float32]


class _Graph(Protocol):
    def run(self, tensors: dict[str, NDArray[Any]]) -> Probabilities: ...


@dataclass(frozen=True)
class Parity:
    """Largest and mean absolute difference of probabilities, and the share of rows with the same label, per shape.

    relative_to_spread: the largest difference of log-probabilities over the standard deviation of the reference's own,
    all rows and classes together; 0.01 is little whatever the scale of the logits. None where they have no spread.
    """

    shapes: list[tuple[int, ...]]
    max_abs_diff: float
    mean_abs_diff: float
    label_agreement: float
    relative_to_spread: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_parity(reference: _Graph, graph: _Graph, batches: Sequence[dict[str, NDArray[Any]]]) -> Parity:
    """How far `graph` is from `reference` on these batches.

    Raises QualityError when the graph does not run on one of them, or answers with another number of rows: then a
    batch size or a length is baked in. Raises MachineError where it is the machine that does not get through it.
    """
    pairs = [_answers(reference, graph, batch) for batch in batches]
    difference = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    same = np.concatenate([a.argmax(axis=1) == b.argmax(axis=1) for a, b in pairs])
    expected, found = (np.concatenate(answers) for answers in zip(*pairs, strict=True))
    shapes = [_shape(batch) for batch in batches]
    means = float(difference.max()), float(difference.mean()), float(same.mean())
    return Parity(shapes, *means, relative_to_spread(expected, found))


def relative_to_spread(expected: Probabilities, found: Probabilities) -> float | None:
    """See Parity; [rows, classes] each. What float32 rounds to zero counts as its smallest number."""
    smallest = np.finfo(np.float32).tiny
    a, b = (np.log(np.maximum(part.astype(np.float64), smallest)) for part in (expected, found))
    spread = float(a.std())
    return float(np.abs(a - b).max()) / spread if spread > 0 else None


def _answers(reference: _Graph, graph: _Graph, batch: dict[str, NDArray[Any]]) -> tuple[Probabilities, Probabilities]:
    expected = reference.run(batch)
    asked, fix = f"run the graph on inputs of shape {_shape(batch)}", "export it again; use another backbone"
    try:
        found = graph.run(batch)
    except MachineError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise QualityError(asked, " ".join(str(error).split())[:300], fix) from error
    if found.shape != expected.shape:
        raise QualityError(asked, f"it answers with shape {found.shape}, PyTorch with {expected.shape}", fix)
    return expected, found


def _shape(batch: dict[str, NDArray[Any]]) -> tuple[int, ...]:
    return next(iter(batch.values())).shape
