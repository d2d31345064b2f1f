from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader

from tldeploy.errors import DataError
from tldeploy.tuning.weighting import BalancedSampler, class_weights

CLASSES = np.repeat([0, 1, 2], [70, 25, 5])


def test_weights_are_sklearns_and_mean_one_over_rows() -> None:
    weights = class_weights(CLASSES, 3)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=CLASSES), rtol=1e-6)
    assert weights[CLASSES].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights * np.bincount(CLASSES), 100 / 3, rtol=1e-6)


def test_a_class_without_rows_weighs_nothing_and_leaves_the_others_balanced() -> None:
    weights = class_weights(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(weights, [2 / 3, 0, 2, 0], rtol=1e-6)


def test_every_class_comes_up_equally_often() -> None:
    drawn = list(BalancedSampler(CLASSES, seed=0))
    assert len(drawn) == len(BalancedSampler(CLASSES, seed=0)) == 102
    assert np.bincount(CLASSES[drawn]).tolist() == [34, 34, 34]


def test_rows_of_a_rare_class_repeat_evenly_and_those_of_a_common_one_not_at_all() -> None:
    times = np.bincount(list(BalancedSampler(CLASSES, seed=0)), minlength=100)
    assert times[:70].max() == 1
    assert set(times[70:95]) == {1, 2}
    assert set(times[95:]) == {6, 7}


def test_the_order_follows_from_seed_and_epoch() -> None:
    sampler = BalancedSampler(CLASSES, seed=1)
    first, second = list(sampler), list(sampler)
    assert first != second
    again = BalancedSampler(CLASSES, seed=1)
    again.set_epoch(1)
    assert list(again) == second
    again.set_epoch(0)
    assert list(again) == first
    assert list(BalancedSampler(CLASSES, seed=2)) != first


def test_many_epochs_see_every_row() -> None:
    sampler = BalancedSampler(CLASSES, seed=0)
    assert {row for _ in range(20) for row in sampler} == set(range(100))


def test_a_data_loader_draws_with_it() -> None:
    loader = DataLoader(torch.arange(100), batch_size=34, sampler=BalancedSampler(CLASSES, seed=0))  # type: ignore[arg-type]
    seen = torch.cat(list(loader))
    assert np.bincount(CLASSES[seen.numpy()]).tolist() == [34, 34, 34]


def test_no_rows_is_an_error() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="no rows"):
        class_weights(nothing, 2)
    with pytest.raises(DataError, match="no rows"):
        BalancedSampler(nothing, seed=0)
