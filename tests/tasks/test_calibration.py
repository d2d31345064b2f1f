from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from tldeploy.errors import DataError
from tldeploy.tasks.calibration import (
    HIGHEST,
    LOWEST,
    NOT_FITTED,
    Bin,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    return raised / raised.sum(axis=1, keepdims=True)


def drawn(seed: int, rows: int, classes: int, spread: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and true classes drawn with just the probabilities that they give: a perfectly calibrated network."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, spread, (rows, classes)).astype(np.float32)
    reached = softmax(logits).cumsum(axis=1)
    return logits, (draw.random((rows, 1)) > reached).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0, 10.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, truth = drawn(1, 20_000, 4)
    assert fit_temperature((logits * np.float32(temperature)), truth) == pytest.approx(temperature, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 5), st.floats(0.1, 30))
def test_any_logits_become_no_less_likely_and_no_answer_changes(
    seed: int, rows: int, classes: int, spread: float
) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, spread, (rows, classes)).astype(np.float32)
    truth = draw.integers(0, classes, rows)
    temperature = fit_temperature(logits, truth)
    assert LOWEST <= temperature <= HIGHEST
    before = negative_log_likelihood(logits, truth)
    assert negative_log_likelihood(logits, truth, temperature) <= before + 1e-9 * max(1, before)
    np.testing.assert_array_equal((logits / np.float32(temperature)).argmax(axis=1), logits.argmax(axis=1))


def test_a_network_that_is_never_wrong_keeps_its_confidence() -> None:
    logits = np.array([[3, 0], [0, 1]], dtype=np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == NOT_FITTED == 1


def test_the_likelihood_is_sklearns_log_loss_however_large_the_logits() -> None:
    logits, truth = drawn(2, 200, 3)
    expected = log_loss(truth, softmax(logits.astype(np.float64) / 2), labels=[0, 1, 2])
    assert negative_log_likelihood(logits, truth, 2.0) == pytest.approx(expected, rel=1e-6)
    assert negative_log_likelihood(np.array([[1e4, 0]], dtype=np.float32), np.array([1])) == pytest.approx(1e4)


def test_a_calibrated_network_has_no_calibration_error_and_one_that_is_too_sure_has() -> None:
    logits, truth = drawn(3, 100_000, 3)
    assert expected_calibration_error(softmax(logits), truth) < 0.006
    sure = softmax(5 * logits)
    assert expected_calibration_error(sure, truth) == pytest.approx(
        sure.max(axis=1).mean() - (sure.argmax(axis=1) == truth).mean(), abs=0.01
    )
    assert expected_calibration_error(sure, truth) > 0.15


def test_the_calibration_error_of_four_rows_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.95, 0.05], [0.45, 0.55]])
    truth = np.array([0, 0, 1, 1])
    found = reliability(probabilities, truth, bins=5)
    assert [part.rows for part in found] == [1, 1, 2]
    np.testing.assert_allclose(found, [Bin(0.55, 1.0, 1), Bin(0.7, 0.0, 1), Bin(0.925, 0.5, 2)])
    assert expected_calibration_error(probabilities, truth, bins=5) == pytest.approx((0.45 + 0.7 + 2 * 0.425) / 4)


def test_bins_hold_their_upper_edge_and_every_row_once() -> None:
    edges = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    assert [part.rows for part in reliability(edges, np.array([0, 0, 0]), bins=4)] == [1, 1, 1]
    logits, truth = drawn(4, 500, 6)
    assert sum(part.rows for part in reliability(softmax(logits), truth)) == 500


def test_no_rows_and_no_numbers_are_errors() -> None:
    with pytest.raises(DataError, match="no rows"):
        fit_temperature(np.empty((0, 2), dtype=np.float32), np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="NaN"):
        fit_temperature(np.array([[np.nan, 0.0]], dtype=np.float32), np.array([0]))
