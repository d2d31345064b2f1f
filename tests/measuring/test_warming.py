from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tldeploy.measuring import warming
from tldeploy.measuring.warming import BLOCK, MOST_BLOCKS, WarmUp, warm_up


class Clock:
    """Stands where `time` does; the n-th request moves it by `seconds(n, row)`."""

    def __init__(self, seconds: Callable[[int, int], float]) -> None:
        self.seconds, self.now_s, self.asked = seconds, 0.0, 0

    def perf_counter(self) -> float:
        return self.now_s

    def ask(self, rows: Sequence[int]) -> NDArray[np.float64]:
        took = np.array([self.seconds(self.asked + at, row) for at, row in enumerate(rows)])
        self.now_s += float(took.sum())
        self.asked += len(rows)
        return took


def warmed(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float]) -> WarmUp:
    clock = Clock(seconds)
    monkeypatch.setattr(warming, "time", clock)
    found = warm_up(clock.ask, rows=500)
    assert found.requests == clock.asked
    assert found.seconds == pytest.approx(clock.now_s)
    return found


def noise(seed: int) -> Callable[[int], float]:
    drawn = np.random.default_rng(seed).lognormal(0, 0.1, BLOCK * MOST_BLOCKS)
    return lambda number: float(drawn[number])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_warm_from_the_start_is_settled_after_a_few_blocks(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Rows differ in length a hundredfold, which is no warm-up."""
    noisy = noise(seed)
    found = warmed(monkeypatch, lambda number, row: 1e-4 * (1 + row % 100) * noisy(number))
    assert found.settled
    assert found.requests <= 5 * BLOCK


@pytest.mark.parametrize("requests", [1, 50, 100])
def test_a_slow_start_is_waited_for(monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
    """Three times as slow for so many requests, getting faster all the while."""
    noisy = noise(requests)
    found = warmed(monkeypatch, lambda number, row: 1e-3 * (1 + 2 * max(0, 1 - number / requests)) * noisy(number))
    assert found.settled
    assert found.requests >= requests + BLOCK


def test_what_never_settles_is_given_up_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warmed(monkeypatch, lambda number, row: 1e-3 * 0.99**number) == WarmUp(
        BLOCK * MOST_BLOCKS, pytest.approx(0.1 * (1 - 0.99**300)), settled=False
    )


def test_an_engine_that_takes_seconds_a_row_is_not_warmed_up_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = warmed(monkeypatch, lambda number, row: 2.0)
    assert (found.requests, found.settled) == (BLOCK, False)
