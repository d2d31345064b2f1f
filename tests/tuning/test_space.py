from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tldeploy.errors import RecipeError
from tldeploy.recipe import Search, Tune
from tldeploy.tuning.space import Space


def space(**settings: Any) -> Space:
    return Space.of(Tune(), Search(space=settings))


def test_a_range_is_of_the_setting_s_own_type() -> None:
    found = space(
        learning_rate={"low": 1e-5, "high": 1e-3, "log": True},
        epochs={"low": 1, "high": 6, "step": 2},
        dropout={"low": 0.0, "high": 0.35, "step": 0.1},
    ).distributions
    assert found["learning_rate"] == FloatDistribution(1e-5, 1e-3, log=True)
    assert found["epochs"] == IntDistribution(1, 5, step=2)
    assert found["dropout"] == FloatDistribution(0.0, 0.3, step=0.1)


def test_values_come_back_as_the_setting_takes_them() -> None:
    found = space(learning_rate=["1e-4", 0.01], freeze=[[], ["embeddings"]], early_stopping=[None, 2])
    assert found.distributions["learning_rate"] == CategoricalDistribution([1e-4, 0.01])
    points = found.grid()
    assert len(points) == 8
    tried = [found.settings(point) for point in points]
    assert {(tuple(tune.freeze), tune.early_stopping) for tune in tried} == {
        ((), None),
        ((), 2),
        (("embeddings",), None),
        (("embeddings",), 2),
    }


def test_a_grid_of_decimals_has_no_dust() -> None:
    assert [point["dropout"] for point in space(dropout={"low": 0, "high": 0.3, "step": 0.1}).grid()] == [
        0.0,
        0.1,
        0.2,
        0.3,
    ]


def test_every_value_that_cannot_be_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        space(
            batch_size=[8, 0, "many"],
            schedule=["linear", "zigzag"],
            dropout={"low": 0.1, "high": 1.5},
            epochs={"low": 1, "high": 3, "step": 0.5},
            calibration={"low": 0, "high": 1},
            warmup=[0.1, 0.1],
        )
    found = caught.value.found
    assert found.startswith("7 mistakes")
    for part in ("batch_size: found 0", "'many'", "'zigzag'", "found 1.5", "the step 0.5", "no number", "value once"):
        assert part in found
