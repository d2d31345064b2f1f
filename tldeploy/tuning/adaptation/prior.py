"""Label shift: the target domain has the same classes, but other shares of them than the rows trained on.

A classifier's answers lean towards the classes that were common in training. Both methods find the target's shares from
answers on unlabelled target rows, under one assumption: within a class, rows look the same in both domains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Classes, Scores, confusion

MOST_STEPS = 1000
SETTLED = 1e-6


class PriorShift(NamedTuple):
    """The target's share of each class, float64 [classes]; the answers under it, float64 [rows, classes]; EM steps."""

    target_prior: Scores
    adjusted_probabilities: Scores
    iterations: int


def em_prior(probabilities: NDArray[np.floating], source_prior: NDArray[np.floating]) -> PriorShift:
    """The target's class shares that make its rows most likely, by expectation maximisation.

    probabilities: float [rows, classes], calibrated answers on target rows (fit a temperature first: too sure, and the
    shares found are too extreme). source_prior: float [classes], the shares among the rows trained on.
    Source: Saerens et al., Adjusting the Outputs of a Classifier to New a Priori Probabilities, Neural Computation 14,
    2002.
    """
    source = source_prior.astype(np.float64) / source_prior.sum()
    if len(probabilities) == 0:
        raise DataError("find the shares of classes", "there are no target rows", "give the target domain some rows")
    if (source <= 0).any():
        missing = f"class {int(source.argmin())} has no rows in the source domain"
        raise DataError("find the shares of classes", missing, "give it rows, or take the class out")
    likelihood = probabilities.astype(np.float64) / source
    prior, moved, steps = source, np.inf, 0
    while moved >= SETTLED and steps < MOST_STEPS:
        adjusted = likelihood * prior
        adjusted /= adjusted.sum(axis=1, keepdims=True)
        before, prior = prior, adjusted.mean(axis=0)
        moved, steps = float(np.abs(prior - before).max()), steps + 1
    return PriorShift(prior, adjusted, steps)


def bbse_prior(truth: Classes, predicted: Classes, target_predicted: Classes, classes: int) -> Scores:
    """The target's class shares, float64 [classes], under which the source's mistakes explain the target's answers.

    truth, predicted: int64 [rows], of source rows not trained on. target_predicted: int64 [target rows].
    Needs no calibration, only a classifier whose mistakes differ by class. Weights are held at 0 or above.
    Source: Lipton et al., Detecting and Correcting for Label Shift with Black Box Predictors, ICML 2018.
    """
    from scipy.optimize import nnls

    if len(truth) == 0 or len(target_predicted) == 0:
        raise DataError("find the shares of classes", "a domain has no rows", "give both domains some rows")
    joint = confusion(truth, predicted, classes).T / len(truth)
    answered = np.bincount(target_predicted, minlength=classes) / len(target_predicted)
    weights, _ = nnls(joint, answered)
    prior = weights * np.bincount(truth, minlength=classes)
    return np.asarray(prior / prior.sum(), dtype=np.float64)
