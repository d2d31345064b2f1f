"""Validators: which of several adapted networks is best on the target domain, judged without a single target label.

All take the predicted probabilities of target rows, float [rows, classes], and give a figure of which larger is better.
None of them sees whether an answer is right, and each can be fooled; what fools it stands at the function. They rank
networks of one kind on the same rows. Musgrave et al. (Three New Validators and a Large-Scale Benchmark Ranking for
Unsupervised Domain Adaptation, 2022) compare such figures: none is best everywhere, and a few labelled target rows beat
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Scores

TEMPERATURE = 0.05
_ROWS_AT_ONCE = 1024

Floats = NDArray[np.floating]
Validator = Callable[[Floats], float]


def entropy(probabilities: Floats) -> float:
    """Minus the mean entropy of the answers, in nats: how sure they are. Fooled by one class for every row.

    Source: Morerio et al., Minimal-Entropy Correlation Alignment, ICLR 2018.
    """
    return -float(_entropy(_checked(probabilities)).mean())


def information_maximisation(probabilities: Floats) -> float:
    """Entropy of the mean answer minus the mean entropy, in nats: sure, and not always of the same class.

    It is the mutual information of row and answer, from 0 to log(classes). It prefers classes of equal size, which is a
    mistake where the target's are not. Source: Musgrave et al., Benchmarking Validation Methods for Unsupervised Domain
    Adaptation, 2022.
    """
    exact = _checked(probabilities)
    return float(_entropy(exact.mean(axis=0)) - _entropy(exact).mean())


def soft_neighbourhood_density(vectors: Floats, temperature: float = TEMPERATURE) -> float:
    """How many neighbours rows have, as mean entropy in nats of a softmax over cosine similarities to all other rows.

    vectors: float [rows, width], the probabilities (as in the paper) or features. Its most is log(rows - 1), which it
    reaches when all rows are alike: one class for every row fools it. Time grows with the square of the rows.
    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density, ICCV 2021.
    """
    exact = _checked(vectors)
    if len(exact) < 2:
        raise DataError("compare rows with their neighbours", "there is one row", "give more target rows")
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    total = 0.0
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        similar = unit[start : start + _ROWS_AT_ONCE] @ unit.T / temperature
        own = np.arange(len(similar))
        similar[own, own + start] = -np.inf
        near = np.exp(similar - similar.max(axis=1, keepdims=True))
        total += float(_entropy(near / near.sum(axis=1, keepdims=True)).sum())
    return total / len(unit)


VALIDATORS: Mapping[str, Validator] = {
    "entropy": entropy,
    "information-maximisation": information_maximisation,
    "soft-neighbourhood-density": soft_neighbourhood_density,
}


def _checked(values: Floats) -> Scores:
    if len(values) == 0:
        raise DataError("judge an adapted network", "there are no target rows", "give the target domain some rows")
    if not np.isfinite(values).all():
        found = "its answers on target rows hold NaN or infinity"
        raise DataError("judge an adapted network", found, "train with a lower learning rate")
    return values.astype(np.float64)


def _entropy(probabilities: Scores) -> Scores:
    """Entropy in nats along the last axis; 0 log 0 is 0."""
    logs = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return np.asarray(-(probabilities * logs).sum(axis=-1), dtype=np.float64)
