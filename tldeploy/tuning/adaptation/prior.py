"""The shares of the classes in the target domain are known: answers are moved until they have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import Scores

MOST_STEPS = 1000
SETTLED = 1e-6
FLOOR = 1e-30


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
