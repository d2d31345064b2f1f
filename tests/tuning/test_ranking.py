from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, ortho_group

from tldeploy.errors import DataError
from tldeploy.tuning.ranking import log_maximum_evidence


def labelled(
    seed: int, rows: int = 120, width: int = 8, apart: float = 3.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    truth = np.arange(rows) % 3
    features = draw.normal(size=(rows, width)).astype(np.float32)
    features[np.arange(rows), truth] += apart
    return features, truth


def greatest_on_a_grid(features: NDArray[np.float32], target: NDArray[np.float64]) -> float:
    """Brute force, from the definition: the target is normal, with covariance F F' / alpha + 1 / beta."""
    exact = features.astype(np.float64)
    precisions = np.geomspace(1e-2, 1e3, 61)
    return max(
        multivariate_normal.logpdf(target, cov=exact @ exact.T / alpha + np.eye(len(target)) / beta) / len(target)
        for alpha in precisions
        for beta in precisions
    )


@pytest.mark.parametrize("width", [2, 15])
def test_it_is_the_greatest_evidence_that_a_grid_finds(width: int) -> None:
    """With fewer features than rows, and with more."""
    features, truth = labelled(1, rows=12, width=3, apart=1.0)
    features = np.hstack([features, np.random.default_rng(2).normal(size=(12, width)).astype(np.float32)])
    expected = np.mean([greatest_on_a_grid(features, (truth == one).astype(float)) for one in range(3)])
    found = log_maximum_evidence(features, truth)
    assert found >= expected - 1e-6
    assert found == pytest.approx(expected, abs=0.005)


def test_the_better_the_classes_separate_the_higher_the_score() -> None:
    scores = [log_maximum_evidence(*labelled(3, apart=apart)) for apart in (0.0, 1.0, 2.0, 4.0)]
    assert scores == sorted(scores)
    assert scores[3] - scores[0] > 0.5


def test_noise_features_do_not_help_however_many() -> None:
    """A head would fit these rows perfectly: there are more features than rows."""
    _, truth = labelled(4)
    few, many = np.random.default_rng(5).normal(size=(2, 120, 300)).astype(np.float32)
    separable = np.hstack([labelled(4)[0], many])
    assert log_maximum_evidence(np.hstack([few, many]), truth) < log_maximum_evidence(*labelled(4)) - 0.3
    assert log_maximum_evidence(many, truth) < log_maximum_evidence(separable, truth)


def test_a_rotation_and_a_scale_of_the_features_change_nothing() -> None:
    features, truth = labelled(6)
    expected = log_maximum_evidence(features, truth)
    rotation = ortho_group.rvs(8, random_state=7)
    assert log_maximum_evidence(features.astype(np.float64) @ rotation, truth) == pytest.approx(expected, abs=1e-9)
    assert log_maximum_evidence(features * 100, truth) == pytest.approx(expected, abs=1e-3)


def test_the_names_of_classes_and_the_order_of_rows_change_nothing() -> None:
    features, truth = labelled(8)
    order = np.random.default_rng(9).permutation(len(truth))
    expected = log_maximum_evidence(features, truth)
    assert log_maximum_evidence(features[order], truth[order]) == pytest.approx(expected, abs=1e-9)
    assert log_maximum_evidence(features, np.array([7, 2, 4])[truth]) == pytest.approx(expected, abs=1e-9)


def test_features_that_say_nothing_or_everything_have_a_score() -> None:
    truth = np.arange(30) % 2
    nothing = log_maximum_evidence(np.zeros((30, 4), dtype=np.float32), truth)
    everything = log_maximum_evidence(np.eye(2, dtype=np.float32)[truth], truth)
    assert np.isfinite([nothing, everything]).all()
    assert nothing < everything


def test_one_class_or_no_numbers_cannot_be_ranked() -> None:
    with pytest.raises(DataError, match="one class"):
        log_maximum_evidence(np.ones((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int64))
    with pytest.raises(DataError, match="NaN"):
        log_maximum_evidence(np.full((4, 2), np.nan, dtype=np.float32), np.array([0, 1, 0, 1]))
