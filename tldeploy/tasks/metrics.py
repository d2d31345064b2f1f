"""Task metrics of classifiers with bootstrap confidence intervals, and paired differences between two classifiers.

All work from integer class predictions, so that the same code scores a PyTorch model, an ONNX graph and a server.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError

RESAMPLES = 2000
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """A metric in [0, 1], with the interval that holds it at the given confidence, over `rows` rows."""

    name: str
    value: float
    low: float
    high: float
    rows: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Drop:
    """How much metric `after` lost against `before` on the same rows, in points (hundredths); negative is a gain."""

    points: float
    low: float
    high: float
    agreement: float
    rows: int
    confidence: float = 0.95

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def weighted_f1(truth: Classes, predicted: Classes, classes: int) -> Metric:
    """F1 of each class weighted by its support, with a percentile bootstrap interval over rows.

    truth, predicted: int64 [rows], values below `classes`. Equals sklearn's f1_score(average="weighted").
    Source of the interval: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    cells = truth * classes + predicted
    resampled = weighted_f1_of(_resampled_confusions(cells, classes))
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = weighted_f1_of(_confusions(cells[None, :], classes))[0]
    return Metric("weighted_f1", float(value), float(low), float(high), len(truth))


def weighted_f1_drop(truth: Classes, before: Classes, after: Classes, classes: int) -> Drop:
    """The paired difference: both predictions of a row are drawn together, so that what they share cancels out."""
    rows = len(truth)
    draws = _draws(rows)
    f1 = [weighted_f1_of(_confusions((truth * classes + predicted)[draws], classes)) for predicted in (before, after)]
    low, high = np.quantile(100 * (f1[0] - f1[1]), [0.025, 0.975])
    exact = [weighted_f1_of(_confusions((truth * classes + p)[None, :], classes))[0] for p in (before, after)]
    agreement = float((before == after).mean())
    return Drop(float(100 * (exact[0] - exact[1])), float(low), float(high), agreement, rows)


def confusion(truth: Classes, predicted: Classes, classes: int) -> NDArray[np.int64]:
    """int64 [classes, classes]: rows are true classes, columns predicted ones."""
    counts: Classes = _confusions((truth * classes + predicted)[None, :], classes)[0]
    return counts


def weighted_f1_of(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted F1 of confusion matrices, [..., classes, classes] to [...]."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    support = confusions.sum(axis=-1)
    predicted = confusions.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    weighted: NDArray[np.float64] = (f1 * support).sum(axis=-1) / support.sum(axis=-1)
    return weighted


def _draws(rows: int) -> NDArray[np.int64]:
    if rows == 0:
        raise DataError("measure a metric", "there are no rows to measure it on", "give the split more rows")
    return np.random.default_rng(0).integers(0, rows, (RESAMPLES, rows))


def _resampled_confusions(cells: Classes, classes: int) -> NDArray[np.int64]:
    return _confusions(cells[_draws(len(cells))], classes)


def _confusions(cells: Classes, classes: int) -> NDArray[np.int64]:
    """Count cells (truth * classes + predicted), int64 [samples, rows], into [samples, classes, classes]."""
    samples = len(cells)
    offsets = np.arange(samples)[:, None] * classes**2
    counts = np.bincount((cells + offsets).ravel(), minlength=samples * classes**2)
    return counts.reshape(samples, classes, classes)
