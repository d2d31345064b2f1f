"""The shares of the classes in the target domain: found from answers, or known, with the answers moved until they fit.

`em_prior` and `bbse_prior` are for label shift: the same classes in other shares than among the rows trained on. They
find the target's shares from answers on unlabelled target rows, under one assumption: within a class, rows look the
same in both domains. `align_offsets` is for the opposite, where rows look different and the shares are known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Classes, Scores, confusion

MOST_STEPS = 1000
SETTLED = 1e-6
FLOOR = 1e-30


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


def align_offsets(logits: NDArray[np.floating], shares: Scores) -> Scores:
    """One offset a class, float64 [classes], with which the mean answer to these rows has the given class shares.

    logits: float [rows, classes]. shares: each above 0. Found by a fixed point with half steps, down to SETTLED. Of
    all offsets that differ by a constant, which answers do not see, it is the one with the mean 0.
    Source: the distribution alignment of Berthelot et al., ReMixMatch, ICLR 2020, done once and to the end.
    """
    if len(logits) == 0:
        raise DataError("align the shares of classes", "there are no target rows", "give the target domain some rows")
    if (shares <= 0).any():
        missing = f"class {int(shares.argmin())} has no rows in the source domain"
        raise DataError("align the shares of classes", missing, "give it rows, or take the class out")
    exact, wanted = logits.astype(np.float64), shares / shares.sum()
    offsets = np.zeros(len(wanted))
    for _ in range(MOST_STEPS):
        mean = softmax(exact + offsets, axis=1).mean(axis=0)
        if np.abs(mean - wanted).max() < SETTLED:
            break
        offsets += 0.5 * (np.log(wanted) - np.log(np.maximum(mean, FLOOR)))
    return np.asarray(offsets - offsets.mean(), dtype=np.float64)
