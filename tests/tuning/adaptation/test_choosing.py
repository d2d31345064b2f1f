from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from tldeploy.errors import DataError
from tldeploy.tuning.adaptation import choosing
from tldeploy.tuning.adaptation.choosing import (
    VALIDATORS,
    Validator,
    entropy,
    information_maximisation,
    soft_neighbourhood_density,
)

EVERY = pytest.mark.parametrize("validator", VALIDATORS.values(), ids=VALIDATORS)
SURE = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
COLLAPSED = np.eye(3, dtype=np.float32)[np.zeros(30, dtype=int)]
UNSURE = np.full((30, 3), 1 / 3, dtype=np.float32)
SOME = softmax(np.random.default_rng(0).normal(0, 2, (40, 3)), axis=1)


def test_values_at_the_corners_are_the_closed_forms() -> None:
    assert [entropy(rows) for rows in (SURE, COLLAPSED, UNSURE)] == pytest.approx([0, 0, -np.log(3)], abs=1e-6)
    assert [information_maximisation(rows) for rows in (SURE, COLLAPSED, UNSURE)] == pytest.approx(
        [np.log(3), 0, 0], abs=1e-6
    )
    assert soft_neighbourhood_density(COLLAPSED) == pytest.approx(np.log(29))
    assert soft_neighbourhood_density(SURE) == pytest.approx(np.log(9), abs=1e-5)


def test_entropy_is_scipys() -> None:
    assert entropy(SOME) == pytest.approx(-scipy_entropy(SOME, axis=1).mean())


def test_soft_neighbourhood_density_is_the_definition_written_row_by_row() -> None:
    density = []
    for row in range(len(SOME)):
        others = np.delete(SOME, row, axis=0)
        cosines = others @ SOME[row] / np.linalg.norm(others, axis=1) / np.linalg.norm(SOME[row])
        density.append(scipy_entropy(softmax(cosines / 0.05)))
    assert soft_neighbourhood_density(SOME) == pytest.approx(np.mean(density))


def test_soft_neighbourhood_density_does_not_depend_on_how_many_rows_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = soft_neighbourhood_density(SOME)
    monkeypatch.setattr(choosing, "_ROWS_AT_ONCE", 7)
    assert soft_neighbourhood_density(SOME) == pytest.approx(whole, rel=1e-12)


@EVERY
def test_a_sure_and_balanced_network_is_no_worse_than_an_unsure_one_but_by_density(validator: Validator) -> None:
    if validator is soft_neighbourhood_density:
        assert validator(SURE) < validator(UNSURE)
    else:
        assert validator(SURE) > validator(UNSURE)


def test_one_class_for_all_rows_fools_entropy_and_density_but_not_the_one_that_looks_at_diversity() -> None:
    assert entropy(COLLAPSED) >= entropy(SURE)
    assert soft_neighbourhood_density(COLLAPSED) > soft_neighbourhood_density(SURE)
    assert information_maximisation(COLLAPSED) < information_maximisation(SOME) < information_maximisation(SURE)


@EVERY
def test_the_order_of_rows_and_classes_changes_nothing(validator: Validator) -> None:
    draw = np.random.default_rng(3)
    mixed = SOME[draw.permutation(len(SOME))][:, draw.permutation(3)]
    assert validator(mixed) == pytest.approx(validator(SOME))


@EVERY
def test_clusters_score_higher_than_what_is_left_when_they_dissolve(validator: Validator) -> None:
    draw = np.random.default_rng(4)
    clusters = 6 * np.eye(3)[np.arange(300) % 3]
    noise = draw.normal(0, 1, (300, 3))
    scores = [validator(softmax(share * clusters + 2 * noise, axis=1)) for share in (1.0, 0.5, 0.1)]
    assert scores[0] == max(scores)
    if validator is not soft_neighbourhood_density:  # the density of what is left rises again: all of it is near
        assert scores == sorted(scores, reverse=True)


@EVERY
def test_no_rows_and_no_numbers_are_errors(validator: Validator) -> None:
    with pytest.raises(DataError, match="no target rows"):
        validator(np.empty((0, 3)))
    with pytest.raises(DataError, match="NaN"):
        validator(np.full((4, 3), np.nan))
