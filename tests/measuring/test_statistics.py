from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tldeploy.measuring.statistics import (
    fewest,
    mean_of_rounds,
    percentiles,
    quantiles,
    ratio_of_rounds,
    speedup,
)

BLOCK = np.arange(160) // 8


def latencies(seed: int, factor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A reference and an engine that takes `factor` of its time: rows of very different lengths, blocks that drift."""
    rng = np.random.default_rng(seed)
    length = 2 + 4 * rng.lognormal(0, 0.5, len(BLOCK))
    drift = rng.lognormal(0, 0.03, (2, BLOCK[-1] + 1))[:, BLOCK]
    reference, engine = length * drift * rng.lognormal(0, 0.05, (2, len(BLOCK)))
    return reference, factor * engine


def test_quantiles_are_nearest_ranks() -> None:
    samples = np.arange(100, 0, -1).astype(float)
    found = quantiles(samples, np.arange(100) // 5, [0.5, 0.9, 0.99])
    assert [estimate.value for estimate in found] == [50, 90, 99]
    assert [estimate.value for estimate in quantiles(samples[:7], np.arange(7), [0.5])] == [97]


def test_intervals_hold_the_value_and_are_the_same_every_time() -> None:
    samples = np.random.default_rng(1).exponential(size=500)
    first = quantiles(samples, np.arange(500) // 16, [0.5, 0.99])
    assert first == quantiles(samples, np.arange(500) // 16, [0.5, 0.99])
    for estimate, law in zip(first, [np.log(2), np.log(100)], strict=True):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low <= law <= estimate.high


def test_an_engine_against_itself_is_held_to_be_as_fast_about_95_times_in_100() -> None:
    held = [found.low <= 1 <= found.high for found in (speedup(*latencies(seed, 1.0), BLOCK) for seed in range(100))]
    assert 89 <= sum(held) <= 100


def test_five_percent_is_found_and_estimated() -> None:
    found = [speedup(latencies(seed, 0.95)[1], latencies(seed, 0.95)[0], BLOCK) for seed in range(50)]
    assert sum(estimate.low > 1 for estimate in found) >= 45
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(1 / 0.95, abs=0.005)


def test_blocks_that_drift_widen_the_interval() -> None:
    """What single rows drawn one by one would miss: the rows of one block are slow together."""
    drifting = np.random.default_rng(2).lognormal(0, 0.3, 20)[BLOCK] * np.random.default_rng(3).lognormal(0, 0.01, 160)
    by_block = quantiles(drifting, BLOCK, [0.5])[0]
    by_row = quantiles(drifting, np.arange(160), [0.5])[0]
    assert by_block.high - by_block.low > 1.5 * (by_row.high - by_row.low)


def test_swapping_the_engines_gives_the_inverse() -> None:
    reference, engine = (part[:-1] for part in latencies(4, 0.5))
    forth, back = speedup(engine, reference, BLOCK[:-1]), speedup(reference, engine, BLOCK[:-1])
    assert forth.value == pytest.approx(1 / back.value)
    assert forth.value == pytest.approx(2, abs=0.1)


def test_one_stalled_request_does_not_move_the_speedup() -> None:
    reference, engine = latencies(5, 0.5)
    before = speedup(engine, reference, BLOCK)
    engine[7] *= 1000
    assert speedup(engine, reference, BLOCK).value == pytest.approx(before.value, rel=0.01)


def test_percentiles_are_in_their_intervals_in_95_runs_of_100() -> None:
    """Of 300 runs that are right in 95 % each, fewer than 273 are right once in a thousand times."""
    shares, block = [0.5, 0.9, 0.95, 0.99], np.arange(800) // 16
    inside = np.zeros(4, dtype=int)
    for seed in range(300):
        for at, found in enumerate(quantiles(np.random.default_rng(seed).exponential(size=800), block, shares)):
            inside[at] += found.low <= -np.log(1 - shares[at]) <= found.high
    assert (inside >= 273).all()


@pytest.mark.parametrize(("share", "samples"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_a_percentile_needs_samples_enough_that_one_lies_above_it(share: float, samples: int) -> None:
    assert fewest(share) == samples
    assert share**samples <= 0.025 < share ** (samples - 1)
    draw = np.random.default_rng(0)
    for count, carried in ((samples, True), (samples - 1, False)):
        (found,) = percentiles(draw.exponential(size=count), np.arange(count) // 5, [share])
        assert (found.found is not None) == carried
        assert found.needed >= samples


def test_a_tail_in_one_clump_has_no_upper_end() -> None:
    """Slow requests that all came in one block are worth one event, and a p99 from one event has no bound."""
    samples, block = np.random.default_rng(0).exponential(size=640), np.arange(640) // 16
    scattered, clumped = samples.copy(), samples.copy()
    scattered[::64] = clumped[:10] = 100 + np.arange(10)
    (apart,), (together,) = (percentiles(values, block, [0.99]) for values in (scattered, clumped))
    assert apart.interval is not None
    assert together.interval is not None
    assert together.interval[1] is None
    assert together.needed > 640
    assert together.found is not None
    assert apart.found is not None
    assert together.found.value == apart.found.value


def test_samples_of_a_queue_get_the_largest_design_effect() -> None:
    drifting = np.random.default_rng(2).lognormal(0, 1, 40)[np.arange(640) // 16] + np.arange(640) / 1e6
    alone, queued = (quantiles(drifting, np.arange(640) // 16, [0.5, 0.99], queued=kind)[1] for kind in (False, True))
    assert queued.low <= alone.low
    assert queued.high >= alone.high


@pytest.mark.parametrize("rounds", [4, 5, 7])
def test_a_ratio_of_few_rounds_is_in_its_interval_in_95_runs_of_100(rounds: int) -> None:
    """Of 4,000 runs that are right in 95 % each, fewer than 3,755 or more than 3,843 are once in a thousand times."""
    draw = np.random.default_rng(rounds)
    ours, theirs = draw.lognormal([[[0.5]], [[0.0]]], 0.1, (2, 4000, rounds))
    found = [ratio_of_rounds(*pair) for pair in zip(ours, theirs, strict=True)]
    assert 3755 <= sum(each.low <= np.exp(0.5) <= each.high for each in found) <= 3843


@pytest.mark.parametrize("rounds", [4, 5, 7])
def test_a_percentile_bootstrap_of_few_rounds_is_not(rounds: int) -> None:
    draw = np.random.default_rng(rounds)
    runs = draw.normal(0, 0.1, (1000, rounds))
    drawn = runs[:, draw.integers(0, rounds, (500, rounds))].mean(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.91


def test_a_ratio_of_rounds_is_of_the_same_round_and_inverts() -> None:
    """A round that is twice as slow for both tells nothing about their ratio."""
    slow = np.array([1.0, 2.0, 1.0, 0.5])
    assert ratio_of_rounds(300 * slow, 100 * slow).as_json() == pytest.approx({"value": 3, "low": 3, "high": 3})
    forth, back = ratio_of_rounds([3, 4, 5], [1, 1, 2]), ratio_of_rounds([1, 1, 2], [3, 4, 5])
    assert (forth.value, forth.low, forth.high) == pytest.approx((1 / back.value, 1 / back.high, 1 / back.low))
    assert forth.value == pytest.approx(30 ** (1 / 3))


def test_the_mean_of_rounds_is_students() -> None:
    """Of 1, 2, 3: the mean 2, and 4.303 times the standard error of 1 / sqrt(3)."""
    found = mean_of_rounds([1, 2, 3])
    assert (found.value, found.low, found.high) == pytest.approx(
        (2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4
    )
    assert ratio_of_rounds([5], [2]).as_json() == {"value": pytest.approx(2.5), "low": 0, "high": np.inf}
