from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import norm

from tldeploy.errors import DataError
from tldeploy.tuning.adaptation.prior import align_offsets, bbse_prior, em_prior

MEANS = np.array([-2.0, 0.0, 2.0])
SOURCE = np.array([0.6, 0.3, 0.1])
TARGET = np.array([0.1, 0.2, 0.7])


def posteriors(
    seed: int, shares: NDArray[np.float64], rows: int = 4000
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows from three unit normals, in these shares, and the exact answers of a classifier that was taught SOURCE."""
    draw = np.random.default_rng(seed)
    truth = draw.choice(3, rows, p=shares)
    joint = SOURCE * norm.pdf(draw.normal(MEANS[truth])[:, None], MEANS)
    return joint / joint.sum(axis=1, keepdims=True), truth


def test_em_finds_shifted_shares_to_two_points_and_answers_get_better() -> None:
    answers, truth = posteriors(1, TARGET)
    found = em_prior(answers, SOURCE)
    np.testing.assert_allclose(found.target_prior, TARGET, atol=0.02)
    before = (answers.argmax(axis=1) == truth).mean()
    after = (found.adjusted_probabilities.argmax(axis=1) == truth).mean()
    assert after > before + 0.05
    assert 1 < found.iterations < 1000


def test_em_leaves_shares_that_did_not_shift_to_three_points() -> None:
    answers, _ = posteriors(2, SOURCE)
    found = em_prior(answers, SOURCE)
    np.testing.assert_allclose(found.target_prior, SOURCE, atol=0.03)
    np.testing.assert_allclose(found.adjusted_probabilities, answers, atol=0.08)


def test_em_is_a_fixed_point_whose_answers_average_to_the_shares() -> None:
    answers, _ = posteriors(3, TARGET)
    found = em_prior(answers, SOURCE)
    np.testing.assert_allclose(found.adjusted_probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(found.adjusted_probabilities.mean(axis=0), found.target_prior)
    again = answers / SOURCE * found.target_prior
    np.testing.assert_allclose((again / again.sum(axis=1, keepdims=True)).mean(axis=0), found.target_prior, atol=2e-6)


def test_em_makes_the_rows_more_likely_than_the_true_shares_do() -> None:
    answers, _ = posteriors(4, TARGET)

    def likelihood(prior: NDArray[np.float64]) -> float:
        return float(np.log(answers / SOURCE @ prior).mean())

    found = em_prior(answers, SOURCE).target_prior
    assert likelihood(found) >= likelihood(TARGET) - 1e-6
    assert likelihood(found) > likelihood(SOURCE)


def test_answers_that_are_certain_are_counted() -> None:
    certain = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    np.testing.assert_allclose(em_prior(certain, SOURCE).target_prior, [0.5, 0.25, 0.25])


def test_bbse_finds_shifted_shares_to_three_points_from_classes_alone() -> None:
    source_answers, truth = posteriors(5, SOURCE)
    target_answers, _ = posteriors(6, TARGET)
    found = bbse_prior(truth, source_answers.argmax(axis=1), target_answers.argmax(axis=1), 3)
    np.testing.assert_allclose(found, TARGET, atol=0.03)


def test_bbse_by_hand() -> None:
    """Source: half each; class 0 is always right, class 1 half of the time. A target of class 1 is answered 1/2."""
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    np.testing.assert_allclose(bbse_prior(truth, predicted, np.array([0, 1]), 2), [0, 1], atol=1e-9)
    np.testing.assert_allclose(bbse_prior(truth, predicted, np.array([0, 0, 0, 1]), 2), [0.5, 0.5])


def test_no_rows_and_classes_that_were_never_trained_on_are_errors() -> None:
    with pytest.raises(DataError, match="no target rows"):
        em_prior(np.empty((0, 3)), SOURCE)
    with pytest.raises(DataError, match="class 1 has no rows"):
        em_prior(np.full((4, 2), 0.5), np.array([1.0, 0.0]))
    with pytest.raises(DataError, match="a domain has no rows"):
        bbse_prior(np.array([0, 1]), np.array([0, 1]), np.array([], dtype=np.int64), 2)


def test_offsets_give_the_mean_answer_the_wanted_shares() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (500, 3)) + np.array([2, 0, -1])
    offsets = align_offsets(logits, TARGET)
    np.testing.assert_allclose(softmax(logits + offsets, axis=1).mean(axis=0), TARGET, atol=1e-5)
    assert offsets.sum() == pytest.approx(0)


def test_offsets_of_answers_that_have_the_shares_already_are_none() -> None:
    logits = np.random.default_rng(4).normal(0, 3, (500, 3))
    shares = softmax(logits, axis=1).mean(axis=0)
    np.testing.assert_allclose(align_offsets(logits, shares), 0, atol=1e-5)
    moved = align_offsets(logits + np.array([3, -1, 1]), shares)
    np.testing.assert_allclose(moved, [-2, 2, 0], atol=1e-3)  # the shift undone, but for its mean of 1


def test_offsets_for_a_class_without_a_share_are_refused() -> None:
    with pytest.raises(DataError, match="class 1 has no rows in the source domain"):
        align_offsets(np.zeros((4, 3)), np.array([0.5, 0.0, 0.5]))
    with pytest.raises(DataError, match="there are no target rows"):
        align_offsets(np.zeros((0, 3)), TARGET)
