from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tldeploy.errors import DataError
from tldeploy.tasks.metrics import confusion, in_points, weighted_f1, weighted_f1_drop

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_weighted_f1_is_sklearns(rows: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(rows, dtype=np.int64).T
    expected = f1_score(truth, predicted, average="weighted", zero_division=0)
    assert weighted_f1(truth, predicted, 4).value == pytest.approx(expected, abs=1e-12)


def test_the_interval_holds_the_true_value_at_about_its_nominal_rate() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        truth = draw.integers(0, 2, 300)
        predicted = np.where(draw.random(300) < 0.8, truth, 1 - truth)
        found = weighted_f1(truth, predicted, 2)
        held += found.low <= 0.8 <= found.high
    assert 180 <= held <= 199


def test_a_perfect_score_is_as_doubtful_as_its_rows_are_few() -> None:
    truth = np.array([0, 1, 2] * 5)
    found = weighted_f1(truth, truth, 3)
    assert (found.value, found.low, found.high, found.rows) == (1.0, 0.8, 1.0, 15)


def test_equal_predictions_drop_nothing_with_certainty() -> None:
    truth = np.array([0, 1, 2, 0])
    drop = weighted_f1_drop(truth, truth, truth, 3)
    assert (drop.points, drop.low, drop.high, drop.agreement) == (0.0, 0.0, 0.0, 1.0)


def test_a_paired_drop_is_in_points_and_narrower_than_the_metrics_own_interval() -> None:
    draw = np.random.default_rng(2)
    truth = draw.integers(0, 3, 500)
    before = np.where(draw.random(500) < 0.8, truth, (truth + 1) % 3)
    after = before.copy()
    after[:10] = (truth[:10] + 2) % 3
    drop = weighted_f1_drop(truth, before, after, 3)
    exact = 100 * (weighted_f1(truth, before, 3).value - weighted_f1(truth, after, 3).value)
    assert drop.points == pytest.approx(exact)
    assert 0 < drop.low < drop.points < drop.high
    own = weighted_f1(truth, before, 3)
    assert drop.high - drop.low < 100 * (own.high - own.low)


def test_many_rows_and_classes_need_little_memory() -> None:
    draw = np.random.default_rng(3)
    truth, predicted = draw.integers(0, 50, (2, 200_000))
    tracemalloc.start()
    weighted_f1_drop(truth, predicted, truth, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000_000


def test_confusion_has_true_classes_as_rows() -> None:
    assert confusion(np.array([0, 0, 1]), np.array([1, 0, 1]), 2).tolist() == [[1, 1], [0, 1]]


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        weighted_f1(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 2)


def test_points_that_were_gained_are_not_said_to_be_lost() -> None:
    assert in_points(0.4, 0.1, 0.7) == "+0.40 points lost [+0.10, +0.70]"
    assert in_points(-0.24, -1.8, 1.3) == "+0.24 points gained [-1.30, +1.80]"
    assert in_points(-0.001) == "+0.00 points lost"
