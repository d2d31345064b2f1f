from __future__ import annotations

import random

import pytest

from tldeploy.triton.canary.comparison import compare
from tldeploy.triton.canary.parts import Canary

CANARY = Canary("tiny", stable=3, tag="abc", share=0.1)


def metrics(pairs: list[tuple[float, float, bool]], tag: str = "abc", failed: int = 0) -> str:
    """What a server says whose canary was asked in these pairs: seconds of both, and whether the labels were equal."""
    about = f'model="tiny",tag="{tag}"'
    lags = [canary - stable for stable, canary, _ in pairs]
    counts = {"same": sum(same for *_, same in pairs), "other": sum(not same for *_, same in pairs), "failed": failed}
    lines = [f'tldeploy_canary_requests_total{{found="{found}",{about}}} {count}' for found, count in counts.items()]
    lines += [
        f"tldeploy_canary_drift_total{{{about}}} {0.02 * len(pairs)}",
        f'tldeploy_canary_seconds_total{{arm="stable",{about}}} {sum(stable for stable, _, _ in pairs)}',
        f'tldeploy_canary_seconds_total{{arm="canary",{about}}} {sum(canary for _, canary, _ in pairs)}',
        f"tldeploy_canary_lag_seconds{{{about}}} {sum(lags)}",
        f"tldeploy_canary_lag_seconds_squared{{{about}}} {sum(lag**2 for lag in lags)}",
        'nv_inference_count{model="tiny",version="4"} 7',
    ]
    return "\n".join(lines)


def drawn(count: int, lag_s: float, seed: int) -> list[tuple[float, float, bool]]:
    draw = random.Random(seed)
    stable = [draw.uniform(0.005, 0.020) for _ in range(count)]
    return [(each, each + draw.gauss(lag_s, 0.001), draw.random() < 0.9) for each in stable]


def test_what_several_servers_counted_is_added_up() -> None:
    found = compare(CANARY, [metrics([(0.010, 0.012, True)], failed=2), metrics([(0.020, 0.020, False)] * 3)])
    assert (found.asked, found.same, found.other, found.failed, found.refused) == (6, 1, 3, 2, 0)
    assert found.agreement
    assert found.lag_ms
    assert found.agreement.value == 0.25
    assert found.drift == pytest.approx(0.02)
    assert (found.stable_ms, found.canary_ms) == (pytest.approx(17.5), pytest.approx(18.0))
    assert found.lag_ms.value == pytest.approx(0.5)


def test_counts_of_an_earlier_canary_are_left_out() -> None:
    assert compare(CANARY, [metrics([(0.01, 0.01, True)], tag="old")]).asked == 0


def test_without_requests_nothing_is_claimed() -> None:
    found = compare(CANARY, [])
    assert (found.asked, found.agreement, found.lag_ms, found.stable_ms) == (0, None, None, None)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 of 100; below 90 or above 99 of 100 would be met by chance once in a hundred runs."""
    runs = [compare(CANARY, [metrics(drawn(200, 0.0005, seed))]) for seed in range(200)]
    agreed = sum(run.agreement.low <= 0.9 <= run.agreement.high for run in runs if run.agreement)
    lagged = sum(run.lag_ms.low <= 0.5 <= run.lag_ms.high for run in runs if run.lag_ms)
    assert 180 <= agreed <= 198
    assert 180 <= lagged <= 198
