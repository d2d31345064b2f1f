"""How well a backbone's features would serve a task, without training anything: LogME.

Each class is regressed on the features, one against the rest, by Bayesian linear regression. The score is the evidence:
how likely the labels are once every weight is integrated out, at the prior and the noise that make them most likely.
Unlike the fit of a head it needs no held-out rows, for the evidence pays for weights that explain nothing.

Source: You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021; the fixed point
is MacKay's (Neural Computation 4, 1992).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Classes, Scores

_MOST_STEPS = 100
_FLAT = 1e-5
_TINY = 1e-12


def log_maximum_evidence(features: NDArray[np.floating], classes: Classes) -> float:
    """Mean over classes of the greatest log evidence per row, in nats; larger is better, and only differences count.

    features: float [rows, width], computed on in float64. classes: int64 [rows]. Classes that no row has do not count.
    Scores of two backbones compare only on the same rows.
    """
    exact = features.astype(np.float64)
    if len(np.unique(classes)) < 2:
        raise DataError("rank backbones", "the rows are all of one class", "give rows of at least two classes")
    if not np.isfinite(exact).all():
        raise DataError("rank backbones", "the features hold NaN or infinity", "check the backbone's weights")
    directions, scales, _ = np.linalg.svd(exact, full_matrices=False)
    reached = scales > scales[0] * max(exact.shape) * np.finfo(np.float64).eps
    directions, power = directions[:, reached], scales[reached] ** 2
    return float(np.mean([_greatest_evidence(directions, power, classes == one) for one in np.unique(classes)]))


def _greatest_evidence(directions: Scores, power: Scores, member: NDArray[np.bool_]) -> float:
    """The greatest log evidence per row of one class, whose rows are `member` (bool [rows]).

    directions, power: the left singular vectors [rows, rank] and squared singular values [rank] of the features.
    """
    target = member.astype(np.float64)
    along = (directions.T @ target) ** 2
    regression = _Regression(power, along, max(0.0, float(target @ target - along.sum())), len(target))
    alpha = beta = 1.0
    best = regression.evidence(alpha, beta)
    for _ in range(_MOST_STEPS):
        alpha, beta = regression.step(alpha / beta)
        found = regression.evidence(alpha, beta)
        settled = abs(found - best) < _FLAT
        best = max(best, found)
        if settled:
            break
    return best


@dataclass(frozen=True)
class _Regression:
    """Linear regression of one target, in the coordinates of the features' singular vectors.

    power: float64 [rank], squared singular values. along: float64 [rank], squared coordinates of the target. beside:
    the squared length of what no direction reaches. alpha is the precision of the prior on weights, beta of the noise.
    """

    power: Scores
    along: Scores
    beside: float
    rows: int

    def step(self, ratio: float) -> tuple[float, float]:
        """One step of the fixed point: alpha and beta from the weights that alpha / beta = `ratio` gives."""
        used = float((self.power / (self.power + ratio)).sum())
        weights, residual = self._weights_and_residual(ratio)
        return max(used, _TINY) / max(weights, _TINY), max(self.rows - used, _TINY) / max(residual, _TINY * self.rows)

    def evidence(self, alpha: float, beta: float) -> float:
        """Log evidence per row. A direction without power costs nothing: its share of both determinants cancels."""
        weights, residual = self._weights_and_residual(alpha / beta)
        volume = np.log1p(self.power * (beta / alpha)).sum() / 2
        noise = self.rows / 2 * np.log(beta / (2 * np.pi))
        return float(noise - volume - beta / 2 * residual - alpha / 2 * weights) / self.rows

    def _weights_and_residual(self, ratio: float) -> tuple[float, float]:
        """The squared length of the mean weights, and of what they leave of the target."""
        weights = (self.power * self.along / (self.power + ratio) ** 2).sum()
        residual = (self.along * (ratio / (self.power + ratio)) ** 2).sum() + self.beside
        return float(weights), float(residual)
