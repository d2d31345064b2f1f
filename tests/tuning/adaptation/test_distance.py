from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from tldeploy.errors import DataError
from tldeploy.tuning.adaptation.distance import MOST_ROWS, describe, proxy_a_distance


def rows(seed: int, number: int, shift: float = 0.0, width: int = 6) -> NDArray[np.float32]:
    """Normal features whose domain moves them by `shift` standard deviations along the first of them."""
    features = np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32)
    features[:, 0] += shift
    return features


def test_two_samples_of_one_domain_are_close_and_the_interval_reaches_zero() -> None:
    found = proxy_a_distance(rows(1, 600), rows(2, 600), seed=0)
    assert found.value < 0.25
    assert found.low == 0
    assert found.words.startswith("the domains look alike")


def test_domains_that_a_line_parts_are_as_far_as_can_be_but_not_with_certainty() -> None:
    found = proxy_a_distance(rows(1, 200), rows(2, 200, shift=12), seed=0)
    assert (found.value, found.error, found.high, found.rows) == (2.0, 0.0, 2.0, 400)
    assert 1.95 < found.low < 2
    assert "almost always" in found.words


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 3.0])
def test_a_shift_of_normals_has_the_distance_of_the_best_classifier(shift: float) -> None:
    """The best classifier splits halfway, and is wrong with probability Φ(-shift / 2)."""
    found = proxy_a_distance(rows(3, 2000), rows(4, 2000, shift), seed=0)
    expected = 2 * (1 - 2 * norm.cdf(-shift / 2))
    assert found.value == pytest.approx(expected, abs=0.08)
    assert found.low < expected < found.high


def test_unequal_sizes_move_the_distance_little() -> None:
    even = proxy_a_distance(rows(5, 1000), rows(6, 1000, shift=1.5), seed=0)
    uneven = proxy_a_distance(rows(5, 1000), rows(6, 1000, shift=1.5)[:100], seed=0)
    assert uneven.value == pytest.approx(even.value, abs=0.2)
    assert uneven.high - uneven.low > even.high - even.low
    alike = proxy_a_distance(rows(5, 1000), rows(6, 100), seed=0)
    assert alike.value < 0.3


def test_more_features_than_rows_do_not_invent_a_distance() -> None:
    found = proxy_a_distance(rows(7, 60, width=300), rows(8, 60, width=300), seed=0)
    assert found.value < 0.6
    assert found.low == 0


def test_scale_and_order_of_domains_do_not_matter_and_a_seed_repeats() -> None:
    source, target = rows(9, 300), rows(10, 300, shift=1)
    first = proxy_a_distance(source, target, seed=3)
    assert proxy_a_distance(source, target, seed=3) == first
    scales = np.geomspace(1e-3, 1e3, 6, dtype=np.float32)
    assert proxy_a_distance(source * scales, target * scales, seed=3).value == pytest.approx(first.value, abs=0.02)
    assert proxy_a_distance(target, source, seed=3).value == pytest.approx(first.value, abs=0.1)


def test_large_domains_are_drawn_down() -> None:
    assert proxy_a_distance(rows(11, MOST_ROWS + 500), rows(12, 50), seed=0).rows == MOST_ROWS + 50


def test_words_change_at_half_steps() -> None:
    assert len({describe(value) for value in (0.0, 0.5, 1.0, 1.5)}) == 4
    assert describe(0.49) == describe(0.0)
    assert describe(2.0) == describe(1.5)


def test_too_few_rows_or_no_numbers_are_errors() -> None:
    with pytest.raises(DataError, match="target domain has 4 rows"):
        proxy_a_distance(rows(1, 50), rows(2, 4), seed=0)
    with pytest.raises(DataError, match="source domain hold NaN"):
        proxy_a_distance(np.full((10, 2), np.nan), np.ones((10, 2)), seed=0)
