"""Task metrics of classifiers with bootstrap confidence intervals, and paired differences between two classifiers.

All work from integer class predictions, so that the same code scores a PyTorch model, an ONNX graph and a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError

RESAMPLES = 2000
Classes = NDArray[np.int64]
Scores = NDArray[np.float64]
_MOST_DRAWN_AT_ONCE = 4_000_000


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


def in_points(lost: float, *ends: float) -> str:
    """Points as `+0.40 points lost [+0.10, +0.70]`; what was gained is said so, and its interval turned with it."""
    sign, became = (-1, "gained") if round(lost, 2) < 0 else (1, "lost")
    shown = [f"{round(sign * value, 2) + 0.0:+.2f}" for value in (lost, *ends)]
    return f"{shown[0]} points {became}" + (f" [{', '.join(shown[1:][::sign])}]" if ends else "")


def weighted_f1(truth: Classes, predicted: Classes, classes: int) -> Metric:
    """F1 of each class weighted by its support, with a percentile bootstrap interval over rows.

    truth, predicted: int64 [rows], values below `classes`. Equals sklearn's f1_score(average="weighted").
    Source of the interval: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    value, resampled = _bootstrapped(truth, [predicted], classes)
    low, high = np.quantile(resampled[0], [0.025, 0.975])
    if value[0] == 1:
        # No error to resample: what is still possible is 3 in so many rows (the rule of three; Hanley & Lippman-Hand,
        # JAMA 249, 1983).
        low = max(0.0, 1 - 3 / len(truth))
    return Metric("weighted_f1", float(value[0]), float(low), float(high), len(truth))


def weighted_f1_drop(truth: Classes, before: Classes, after: Classes, classes: int) -> Drop:
    """The paired difference: both predictions of a row are drawn together, so that what they share cancels out."""
    value, resampled = _bootstrapped(truth, [before, after], classes)
    low, high = np.quantile(100 * (resampled[0] - resampled[1]), [0.025, 0.975])
    agreement = float((before == after).mean())
    return Drop(float(100 * (value[0] - value[1])), float(low), float(high), agreement, len(truth))


def confusion(truth: Classes, predicted: Classes, classes: int) -> Classes:
    """int64 [classes, classes]: rows are true classes, columns predicted ones."""
    counts: Classes = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return counts


def per_class(counts: Classes, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class. counts: a confusion matrix, int64 [classes, classes]."""
    hits, support, answered = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    columns = {
        "precision": hits / np.maximum(answered, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + answered, 1),
        "support": support,
    }
    return [
        {"label": label, **{name: column[at].item() for name, column in columns.items()}}
        for at, label in enumerate(labels)
    ]


def _bootstrapped(truth: Classes, predictions: list[Classes], classes: int) -> tuple[list[float], list[Scores]]:
    """Weighted F1 of each of `predictions`, on the rows and on RESAMPLES resamples of them.

    Rows with the same truth and the same predictions are alike. So a resample is a draw of how often each kind of row
    comes up, which is multinomial: the same law as drawing rows one by one, at a cost that does not grow with them.
    """
    if len(truth) == 0:
        raise DataError("measure a metric", "there are no rows to measure it on", "give the split more rows")
    shape = (classes,) * (1 + len(predictions))
    # As one number a row: sorted so, a hundred thousand rows take a tenth of the time that they take as columns.
    numbers, counts = np.unique(np.ravel_multi_index((truth, *predictions), shape), return_counts=True)
    kinds = np.unravel_index(numbers, shape)
    draw = np.random.default_rng(0)
    exact = [float(_weighted_f1(counts[None], kinds[0], kind, classes)[0]) for kind in kinds[1:]]
    parts: list[list[Scores]] = [[] for _ in predictions]
    for size in _part_sizes(len(counts)):
        drawn = draw.multinomial(len(truth), counts / len(truth), size=size)
        for part, kind in zip(parts, kinds[1:], strict=True):
            part.append(_weighted_f1(drawn, kinds[0], kind, classes))
    return exact, [np.concatenate(part) for part in parts]


def _part_sizes(kinds: int) -> list[int]:
    """RESAMPLES, in parts that need little memory however many kinds of rows there are."""
    size = max(1, min(RESAMPLES, _MOST_DRAWN_AT_ONCE // kinds))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]


def _weighted_f1(counts: Classes, truth: Classes, predicted: Classes, classes: int) -> Scores:
    """Weighted F1, [samples], of rows that come in kinds: counts is [samples, kinds], truth and predicted [kinds]."""
    every = np.arange(classes)
    support = counts @ (truth[:, None] == every)
    answered = counts @ (predicted[:, None] == every)
    hits = counts @ ((truth == predicted)[:, None] & (truth[:, None] == every))
    f1 = 2 * hits / np.maximum(support + answered, 1)
    weighted: Scores = (f1 * support).sum(axis=1) / support.sum(axis=1)
    return weighted
