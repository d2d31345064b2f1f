"""Calibration of a classifier's probabilities: one temperature for its logits, and how far confidence is from truth.

A temperature divides the logits, so that it changes how sure an answer is and never which class is the answer.
Source of all of it: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Classes, Scores

BINS = 15
LOWEST, HIGHEST = 0.01, 100.0
NOT_FITTED = 1.0  # the temperature where rows say nothing of it
WHY_NOT = "no validation row is answered wrong, so that any surer answer would look better"

Floats = NDArray[np.floating]


class Bin(NamedTuple):
    """Rows of like confidence: their mean confidence, the share of them that is right, and how many they are."""

    confidence: float
    accuracy: float
    rows: int


def fit_temperature(logits: Floats, classes: Classes) -> float:
    """The temperature in [LOWEST, HIGHEST] under which the true classes of these rows are most likely.

    logits: float [rows, classes], of rows that the network was not fitted on. classes: int64 [rows], the true ones.

    The likelihood has a single best inverse temperature, as it is log-concave in it. Where no row is answered wrong it
    has none: the smaller the temperature, the better, without end. So few rows say nothing then, and it is NOT_FITTED.
    """
    from scipy.optimize import minimize_scalar

    _check(logits, classes)
    chosen = np.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    if (chosen >= logits.max(axis=1)).all():
        return NOT_FITTED
    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, classes, float(np.exp(log_temperature))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def negative_log_likelihood(logits: Floats, classes: Classes, temperature: float = 1.0) -> float:
    """Mean over rows of -log of the probability given to the true class, in nats, computed in float64.

    logits: float [rows, classes]. classes: int64 [rows], the true ones.
    """
    _check(logits, classes)
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(scaled, classes[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())


def expected_calibration_error(probabilities: Floats, classes: Classes, bins: int = BINS) -> float:
    """Mean over rows of |confidence - accuracy| of the row's bin; 0 is perfect, 1 is sure and always wrong.

    probabilities: float [rows, classes]. classes: int64 [rows], the true ones.

    It is never quite 0 on real rows: a perfectly calibrated bin of n rows is off by chance, by about 0.4 / sqrt(n).
    """
    found = reliability(probabilities, classes, bins)
    return sum(part.rows * abs(part.confidence - part.accuracy) for part in found) / len(classes)


def reliability(probabilities: Floats, classes: Classes, bins: int = BINS) -> list[Bin]:
    """What a reliability diagram draws: rows by the confidence of their answer, in `bins` equal bins (low, high].

    probabilities: float [rows, classes]. classes: int64 [rows], the true ones. Bins that no row falls in are left out.
    """
    _check(probabilities, classes)
    confidence: Scores = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == classes
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    inside = [place == number for number in range(bins)]
    return [
        Bin(float(confidence[part].mean()), float(right[part].mean()), int(part.sum())) for part in inside if part.any()
    ]


def _check(predictions: Floats, classes: Classes) -> None:
    if len(classes) == 0:
        raise DataError("calibrate", "there are no rows to calibrate on", "give the validation split more rows")
    if not np.isfinite(predictions).all():
        raise DataError("calibrate", "the network answers NaN or infinity", "train with a lower learning rate")
