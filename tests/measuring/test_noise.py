from __future__ import annotations

import numpy as np
import pytest

from tests.engine import Engine
from tldeploy.measuring.noise import Noise, judge, measure_noise
from tldeploy.measuring.statistics import Estimate, speedup

BLOCK = np.arange(640) // 16


def pair(seed: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Latencies of an engine and of one that takes `factor` of its time: rows of very different lengths, and drift."""
    draw = np.random.default_rng(seed)
    length = 2 + 4 * draw.lognormal(0, 0.5, len(BLOCK))
    drift = draw.lognormal(0, 0.03, (2, BLOCK[-1] + 1))[:, BLOCK]
    first, second = length * drift * draw.lognormal(0, 0.05, (2, len(BLOCK)))
    return first, factor * second


def noise_of(seed: int) -> Noise:
    first, second = pair(seed, 1.0)
    return Noise("a", speedup(first, second, BLOCK), 40, np.stack([first, second]), BLOCK)


def judged(seed: int, factor: float) -> bool:
    first, second = pair(seed, factor)
    return judge(speedup(second, first, BLOCK), 40, noise_of(seed + 1000)).differ


def test_an_engine_does_not_differ_from_itself_95_times_in_100() -> None:
    """At least: a difference has to be beyond the noise floor as well as beyond its own interval."""
    assert sum(judged(seed, 1.0) for seed in range(200)) <= 0.05 * 200


def test_five_percent_is_found() -> None:
    assert sum(judged(seed, 0.95) for seed in range(100)) >= 95
    assert sum(judged(seed, 1 / 0.95) for seed in range(100)) >= 95


def test_so_many_more_rounds_as_are_said_do_show_the_difference() -> None:
    """An interval of ±4 % around 2 % from 40 rounds needs four times as many to end above 1."""
    quiet = Noise("a", Estimate(1.0, 0.99, 1.01), 40, np.empty((2, 0)), BLOCK)
    wide = Estimate(1.02, 1.02 / 1.04, 1.02 * 1.04)
    found = judge(wide, 40, quiet)
    assert not found.differ
    assert found.more_rounds == pytest.approx(40 * (np.log(1.04) / np.log(1.02)) ** 2 - 40, abs=1)
    shrunk = np.sqrt(40 / (40 + found.more_rounds))
    assert judge(Estimate(1.02, 1.02 / 1.04**shrunk, 1.02 * 1.04**shrunk), 40 + found.more_rounds, quiet).differ


def test_a_difference_below_the_noise_floor_is_none_however_narrow_its_interval() -> None:
    loud = Noise("a", Estimate(1.0, 0.95, 1.04), 40, np.empty((2, 0)), BLOCK)
    assert loud.floor == pytest.approx(1 / 0.95 - 1)
    found = judge(Estimate(1.02, 1.015, 1.025), 40, loud)
    assert not found.differ
    assert found.more_rounds is not None
    assert found.more_rounds > 40
    assert judge(Estimate(0.9, 0.89, 0.91), 40, loud).differ
    assert judge(Estimate(1.00001, 0.98, 1.02), 40, loud).more_rounds is None, "more than anybody would wait for"


def test_the_noise_is_that_of_one_engine_measured_twice_on_rows_from_everywhere() -> None:
    asked: list[int] = []

    def answer(number: int) -> int:
        asked.append(number)
        return 0

    found = measure_noise(Engine("a", answer), [str(number) for number in range(2000)], 3, "test")
    assert found.latency_ms.shape == (2, 640)
    assert found.rounds == 40
    assert (found.engine, min(asked), max(asked)) == ("a", 0, 1999)
    assert found.ratio == speedup(found.latency_ms[0], found.latency_ms[1], found.block)
