from __future__ import annotations

from typing import Any

import pytest

from tldeploy.recipe import Tune
from tldeploy.tuning.tune import _choose


def measured(**scores: float) -> dict[str, dict[str, Any]]:
    return {method: {"validation": {"value": score}} for method, score in scores.items()}


@pytest.mark.parametrize(
    ("scores", "chosen", "ends"),
    [
        ({"lora": 0.5, "few": 0.75}, "few", "lora 0.5000, few 0.7500"),
        ({"few": 1.0, "lora": 1.0}, "few", "lora 1.0000; few and lora tie, and the recipe has few first"),
    ],
)
def test_the_best_is_kept_and_a_tie_is_said(scores: dict[str, float], chosen: str, ends: str) -> None:
    choice = _choose(Tune(keep="best"), measured(**scores), "weighted_f1")
    assert choice.value == chosen
    assert choice.reason.endswith(ends)
