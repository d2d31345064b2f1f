from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tldeploy.errors import RecipeError
from tldeploy.tuning.finder import FEWEST, smooth, suggest

RATES = np.geomspace(1e-7, 10, 160)


def curve(edge: float, noise: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """A loss that falls from 1.1 to 0.4 over the two decades below the rate `edge`, and breaks above it."""
    decades = np.log10(RATES / edge)
    loss = 0.4 + 0.7 / (1 + np.exp(4 * (decades + 1.2))) + np.exp(6 * (decades - 0.3))
    return np.minimum(loss, 50) + np.random.default_rng(seed).normal(0, noise, len(RATES))


@pytest.mark.parametrize("edge", [1e-4, 1e-3, 1e-2, 1e-1])
def test_the_rate_follows_the_edge_a_decade_below_it(edge: float) -> None:
    found = suggest(RATES, curve(edge))
    assert 0.04 * edge < found.rate < 0.25 * edge


def test_noise_moves_the_rate_by_less_than_half_a_decade() -> None:
    calm = suggest(RATES, curve(1e-2)).rate
    moved = [abs(np.log10(suggest(RATES, curve(1e-2, noise=0.1, seed=seed)).rate / calm)) for seed in range(50)]
    assert np.quantile(moved, 0.95) < 0.5


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_the_curve_ends_where_the_loss_is_no_number(broken: float) -> None:
    losses = curve(1e-2)
    whole = suggest(RATES, losses).rate
    losses[RATES > 0.1] = broken
    assert suggest(RATES, losses).rate == whole


def test_what_comes_after_the_break_does_not_count() -> None:
    losses = curve(1e-2)
    losses[-5:] = 0.0
    assert suggest(RATES, losses).rate == suggest(RATES, curve(1e-2)).rate


def test_the_scale_of_the_loss_does_not_matter() -> None:
    assert suggest(RATES, 1000 * curve(1e-2, 0.05)).rate == suggest(RATES, curve(1e-2, 0.05)).rate


def test_the_reason_says_what_was_seen() -> None:
    reason = suggest(RATES, curve(1e-2)).reason
    assert reason.startswith("one tenth of the rate of the least loss: the smoothed loss fell from 1.1 to")
    assert "; it broke at" in reason
    falling = np.linspace(2.0, 1.0, len(RATES))
    assert "broke" not in suggest(RATES, falling).reason
    assert suggest(RATES, falling).rate == pytest.approx(1.0)


def test_smoothing_keeps_a_constant_from_the_first_step_and_weighs_the_last_most() -> None:
    np.testing.assert_allclose(smooth(np.full(5, 3.0)), 3.0)
    np.testing.assert_allclose(smooth(np.array([1.0, 0.0, 2.0]), 0.5), [1, 1 / 3, (0.25 + 2) / 1.75])


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    refused = 0
    for seed in range(40):
        flat = 1.1 + np.random.default_rng(seed).normal(0, 0.1, len(RATES))
        try:
            suggest(RATES, flat)
        except RecipeError as error:
            refused += "fell at none of the rates" in error.found
    assert refused >= 36
    with pytest.raises(RecipeError, match="fell at none"):
        suggest(RATES, np.linspace(1, 3, len(RATES)))


def test_a_loss_that_breaks_at_once_suggests_nothing() -> None:
    losses = curve(1e-2)
    losses[FEWEST - 1 :] = np.nan
    with pytest.raises(RecipeError, match="a number for 19 of 160 steps"):
        suggest(RATES, losses)
