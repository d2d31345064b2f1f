"""The statistics that a report shows, of scenarios run on servers whose law is known; time is virtual throughout.

Where a share of runs has to be right, the number that may be wrong is one that would be exceeded by chance once in a
thousand times, if each were right in 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from tests.measuring.virtual import Asking, Clock, OneWorker, queues
from tldeploy.benchmarking import scenarios as report
from tldeploy.measuring.noise import judge, measure_noise
from tldeploy.measuring.scenarios import closed_loop, server, single_stream
from tldeploy.measuring.statistics import Estimate, speedup

SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99}
SCENARIOS = "tldeploy.measuring.scenarios"


def fewest_right(runs: int) -> int:
    return int(binom.ppf(0.001, runs, 0.95))


class Timed:
    """A Runner that moves the clock: `seconds` gives a request's latency, of the row and the number of the request."""

    provider = "numpy"

    def __init__(self, clock: Clock, seconds: Callable[[int, int], float], name: str = "timed") -> None:
        self.clock, self.seconds, self.name = clock, seconds, name
        self.asked = 0
        self.answer = np.ones((1, 1), dtype=np.float32)

    def predict(self, rows: Sequence[int]) -> NDArray[np.float32]:
        self.clock.now_s += self.seconds(rows[0], self.asked)
        self.asked += 1
        return self.answer

    def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("time.perf_counter", found.perf_counter)
    # A collection of the heap takes longer than a whole run does here, and there are hundreds of them.
    monkeypatch.setattr(f"{SCENARIOS}.single.garbage_frozen", nullcontext)
    return found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], OneWorker]], list[Any]]:
    """Runners, one, whose requests go to what is given."""

    def served(made: Callable[[int], OneWorker]) -> list[Any]:
        for scenario in ("closed", "open"):
            monkeypatch.setattr(f"{SCENARIOS}.{scenario}.generators", lambda runners, rows: queues({0: Asking(made)}))
            monkeypatch.setattr(f"{SCENARIOS}.{scenario}.garbage_frozen", nullcontext)
        return [type("Named", (), {"name": "served"})]

    return served


def inside(figures: dict[str, Any], law_ms: Callable[[float], float]) -> NDArray[np.int64]:
    """1 for each percentile whose interval holds what the law says, int64 [shares]."""
    held = [figures[f"{name}_interval"] for name in SHARES]
    laws = [law_ms(share) for share in SHARES.values()]
    return np.array(
        [low <= law <= (math.inf if high is None else high) for (low, high), law in zip(held, laws, strict=True)]
    )


def test_percentiles_of_single_requests_are_in_their_intervals_at_the_stated_rate(clock: Clock) -> None:
    """Exponential latencies of 4 ms on average, through the scenario and into the report's figures."""
    held, runs = np.zeros(len(SHARES), dtype=int), 200
    for seed in range(runs):
        took = np.random.default_rng(seed).exponential(0.004, 1200)
        run = single_stream([Timed(clock, lambda row, number: took[number])], range(640), 1, "test")  # noqa: B023
        held += inside(report.latencies(run.latency_ms[0], run.block), lambda share: -4 * math.log(1 - share))
    assert (held >= fewest_right(runs)).all(), held


def test_percentiles_of_requests_at_random_are_in_their_intervals_at_the_stated_rate(serve: Any) -> None:
    """M/M/1 at 30 % of its capacity: the time in the system is exponential, of 10 / 0.7 ms on average."""
    runs = 80

    def made(seed: int) -> OneWorker:
        took = np.random.default_rng(1000 + seed).exponential(0.01, 3000)
        return OneWorker(lambda number: float(took[number]))

    run = server(serve(made), ["row"], 100, 32, "test", carried=[100], rates=[30.0] * runs)
    assert len({trial.made.sent.due[0] for trial in run.trials}) == runs, "each with its own arrivals"
    trials = report.server(run, "served")
    assert trials is not None
    held = sum(inside(trial, lambda share: -10 / 0.7 * math.log(1 - share)) for trial in trials["trials"])
    assert (held >= fewest_right(runs)).all(), held


@pytest.mark.parametrize("clients", [1, 4])
def test_the_closed_loop_shows_the_law_of_its_clients(serve: Any, clients: int) -> None:
    """Exponential times one after the other: n clients wait for the sum of n of them, a gamma law; its median."""
    from scipy.stats import gamma

    def made(seed: int) -> OneWorker:
        took = np.random.default_rng(seed).exponential(0.01, 3000)
        return OneWorker(lambda number: float(took[number]))

    load = closed_loop(serve(made), ["row"], [clients], 60, "test")
    found = report.closed_loop(load, 0)[str(clients)]
    assert found["p50_ms"] == pytest.approx(gamma(clients, scale=10).median(), rel=0.05)
    assert np.mean(found["rounds_per_s"]) == pytest.approx(100, rel=0.05), "the worker is never idle"


def stalling(takes_s: float) -> Callable[[int], OneWorker]:
    """A constant time for each request, and one stall of a second, two seconds after the start."""
    return lambda seed: OneWorker(lambda number: takes_s, stall_s=(2, 3))


@pytest.mark.parametrize("seconds", [10, 20, 40])
def test_a_stall_of_a_second_is_in_the_p99_of_requests_at_random_as_theory_has_it(serve: Any, seconds: int) -> None:
    """The server takes s = 4 ms, requests come at λ = 50 a second, so it is busy for ρ = 0.2 of the time.

    What is due u seconds after the stall began waits for its end, for what came in since and for itself: 1 - u + λus +
    s. That is uniform from 1 s down, until the backlog is gone at u = 1 / (1 - ρ). Of T seconds 1 % of the requests are
    those due in the first T / 100 of them; so p99 = 1 + s - (1 - ρ) T / 100. Of N = λT requests that is the wait of the
    n-th in the stall, n = N / 100 + 1, and the time of the n-th arrival has a standard deviation of √n / λ.
    """
    takes_s, rate, runs = 0.004, 50, 16
    idle = 1 - rate * takes_s
    run = server(serve(stalling(takes_s)), ["row"], 500, seconds, "test", carried=[250], rates=[rate] * runs)
    found = [trial["p99_ms"] / 1000 for trial in (report.server(run, "served") or {})["trials"]]
    law_s = 1 + takes_s - idle * seconds / 100
    first = rate * seconds / 100 + 1
    error_s = idle * math.sqrt(first) / rate / math.sqrt(runs)
    assert np.mean(found) == pytest.approx(law_s, abs=3 * error_s + idle / rate)
    assert not any(trial.keeps(500) for trial in run.trials)


def test_a_stall_that_fewer_than_one_request_in_a_hundred_meets_is_not_in_the_p99(serve: Any) -> None:
    """1 s / (1 - ρ) is less than 1 % of 160 s. It is in the p99.9, of T / 1000: 1 + s - 0.8 × 0.16 s."""
    run = server(serve(stalling(0.004)), ["row"], 500, 160, "test", carried=[250], rates=[50.0] * 4)
    for trial in (report.server(run, "served") or {})["trials"]:
        assert trial["p99_ms"] < 40
        assert trial["keeps_bound"]
    found = [np.quantile(trial.made.sent.latency_ms, 0.999, method="inverted_cdf") for trial in run.trials]
    assert np.mean(found) == pytest.approx(876, abs=3 * 800 * math.sqrt(9) / 50 / math.sqrt(4))


@pytest.mark.parametrize("clients", [1, 4])
def test_the_closed_loop_hardly_sees_the_same_stall(serve: Any, clients: int) -> None:
    """Coordinated omission: each client waits it out in one request and sends none meanwhile.

    The p99 is that of a server without a stall, one request after the other of each client; the rate alone shows it.
    """
    load = closed_loop(serve(stalling(0.004)), ["row"], [clients], 60, "test")
    found = report.closed_loop(load, 0)[str(clients)]
    assert found["p99_ms"] == pytest.approx(4 * clients)
    assert (load.latency_ms > 4 * clients + 1).sum() == 3 * clients, "in each of three rounds each client met it once"
    assert np.mean(found["rounds_per_s"]) == pytest.approx(250 * 19 / 20, rel=0.01)


def differs(clock: Clock, seed: int, factor: float) -> tuple[bool, Estimate]:
    """Whether an engine that takes `factor` of another's time is found to differ from it, and its speed-up.

    Rows of very different lengths; the machine drifts from block to block, for both alike and for each by itself.
    """
    draw = np.random.default_rng(seed)
    length = 0.002 + 0.004 * draw.lognormal(0, 0.5, 320)

    def engine(takes: float) -> Timed:
        jitter = draw.lognormal(0, 0.05, 4000)
        drift = draw.lognormal(0, 0.02, 251)
        return Timed(clock, lambda row, number: takes * length[row] * jitter[number] * drift[number // 16])

    first, second = engine(1), engine(factor)
    noise = measure_noise(first, range(320), 1, "test")  # type: ignore[arg-type]
    run = single_stream([first, second], range(320), 1, "test")  # type: ignore[arg-type]
    gain = speedup(run.latency_ms[1], run.latency_ms[0], run.block)
    return judge(gain, int(run.block[-1]) + 1, noise).differ, gain


def test_two_engines_of_one_law_do_not_differ_95_times_in_100(clock: Clock) -> None:
    """The interval of the speed-up holds 1 at the stated rate. The verdict errs less: it minds the noise floor, too."""
    runs = 200
    found = [differs(clock, seed, 1.0) for seed in range(runs)]
    assert sum(gain.low <= 1 <= gain.high for _, gain in found) >= fewest_right(runs)
    assert sum(differ for differ, _ in found) <= 0.05 * runs


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_five_percent_between_two_engines_is_found(clock: Clock, factor: float) -> None:
    found = [differs(clock, seed, factor) for seed in range(40)]
    assert sum(differ for differ, _ in found) >= 38
    assert np.mean([gain.value for _, gain in found]) == pytest.approx(1 / factor, abs=0.01)
