from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tldeploy.errors import DataError
from tldeploy.tuning.adaptation.prior import align_offsets

TARGET = np.array([0.1, 0.2, 0.7])


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
