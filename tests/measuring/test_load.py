"""Load on servers whose law is known, on virtual time; and by the real process on the real server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.measuring.virtual import OneWorker, Queue, queues, run, waited_s
from tldeploy.errors import RequestError, ServerError
from tldeploy.measuring.load.generator import Generator
from tldeploy.measuring.load.health import health
from tldeploy.measuring.load.sending import (
    MOST_UNANSWERED,
    Sent,
    arrivals,
    closed_loop,
    most_unanswered,
    open_loop,
)
from tldeploy.measuring.scenarios import Server, server
from tldeploy.measuring.scenarios.open import trial_seconds
from tldeploy.measuring.statistics import percentiles
from tldeploy.runtime.triton import Client
from tldeploy.triton.server import Server as Triton


def exponential(mean_s: float, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).exponential(mean_s, 100_000)


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    times = arrivals(50, 400, seed=3)
    np.testing.assert_array_equal(times, arrivals(50, 400, seed=3))
    assert len(times) == pytest.approx(50 * 400, abs=4 * np.sqrt(50 * 400))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03), "as large as the mean: exponential"
    assert times[-1] < 400
    assert len(arrivals(0.001, 1, seed=0)) == 1, "never none"


def test_the_open_loop_measures_exactly_what_a_queue_of_one_worker_makes_its_requests_wait() -> None:
    due, took = arrivals(70, 100, seed=5), exponential(0.01)
    sent = run(open_loop(OneWorker(lambda number: took[number]).ask, ["row"], due))
    np.testing.assert_allclose(sent.latency_ms, 1000 * waited_s(due, took[: len(due)]), rtol=1e-6)
    assert sent.late_ms.max() == pytest.approx(0, abs=1e-6)
    assert sent.dropped == 0


def test_a_stall_of_a_second_is_in_the_p99_of_the_open_loop_and_not_in_that_of_the_closed_one() -> None:
    """In 20 s at 100 a second, 1 % are 20 arrivals. Of those in the stall the k-th waits 1 s, less the 10 ms for each
    before it in which the stall went on, and 1 ms for each that is served before it: the 20th, 820 ms."""

    def stalling() -> OneWorker:
        return OneWorker(lambda number: 0.001, stall_s=(9, 10))

    opened = run(open_loop(stalling().ask, ["row"], np.arange(2000) / 100))
    closed = run(closed_loop(stalling().ask, ["row"], 1, 20))
    p99 = [float(np.quantile(sent.latency_ms, 0.99, method="inverted_cdf")) for sent in (opened, closed)]
    assert p99[0] == pytest.approx(820, abs=10)
    assert p99[1] == pytest.approx(1)
    assert opened.latency_ms.max() == pytest.approx(1001, abs=1)
    assert (closed.latency_ms > 1.5).sum() == 1, "one request met it, and no other was sent meanwhile"


def test_a_generator_that_is_held_up_counts_the_delay_and_is_found_out() -> None:
    """What coordinated omission would hide: the server is quick, and requests were sent late."""

    async def blocking(item: str) -> None:
        loop = asyncio.get_running_loop()
        loop.jumping.now_s += 0.05  # type: ignore[attr-defined]  # the generator itself does nothing for 50 ms

    sent = run(open_loop(blocking, ["row"], np.array([0.0, 0.01, 0.02, 0.03])))
    np.testing.assert_allclose(sent.late_ms, [0, 40, 80, 120], atol=1e-6)
    np.testing.assert_allclose(sent.latency_ms, [50, 90, 130, 170], atol=1e-6)
    assert not health(sent, cpu_s=0).kept_up


def test_the_generator_kept_up_unless_it_was_late_or_out_of_cpu() -> None:
    due = np.arange(100) / 10
    prompt, late = Sent(due, due + 0.0005, due + 0.01), Sent(due, due + 0.002, due + 0.01)
    assert health(prompt, cpu_s=5).kept_up
    assert not health(late, cpu_s=5).kept_up
    assert not health(prompt, cpu_s=9).kept_up
    assert health(late, cpu_s=5).late_ms == pytest.approx((2, 2))
    closed = Sent(due, due, due + 0.01)
    assert health(closed, cpu_s=5).late_ms is None
    assert not health(closed, cpu_s=9).kept_up


def test_arrivals_are_dropped_when_more_come_than_are_answered() -> None:
    due = arrivals(1000, 10, seed=0)
    sent = run(open_loop(OneWorker(lambda number: 0.1).ask, ["row"], due))
    assert len(sent.due) + sent.dropped == len(due)
    assert MOST_UNANSWERED <= len(sent.due) < MOST_UNANSWERED + 10
    assert np.isfinite(sent.answered).all(), "what was sent is waited for"


@pytest.mark.parametrize(("rate_per_s", "most"), [(1, 256), (128, 256), (400, 800), (5000, 10_000)])
def test_more_may_be_unanswered_at_a_higher_rate(rate_per_s: float, most: int) -> None:
    """What arrives in two seconds: after a stall of one the rest is sent too."""
    assert most_unanswered(rate_per_s) == most
    server = OneWorker(lambda number: 1e-5, stall_s=(1, 2))
    due = arrivals(rate_per_s, 3, seed=0)
    assert run(open_loop(server.ask, ["row"], due, most_unanswered(rate_per_s))).dropped == 0


def test_the_closed_loop_sends_when_it_is_answered() -> None:
    sent = run(closed_loop(OneWorker(lambda number: 0.01).ask, ["row"], 4, 2.0))
    assert len(sent.due) == 200 + 3, "one worker is never idle; three wait when the time is up"
    np.testing.assert_allclose(sent.latency_ms[4:], 40)


def test_an_error_in_a_request_ends_the_load() -> None:
    async def refusing(item: str) -> None:
        raise RequestError("ask", "no", "stop")

    with pytest.raises(ExceptionGroup) as caught:
        run(open_loop(refusing, ["row"], np.arange(5.0)))
    assert caught.group_contains(RequestError)


def found(bound_ms: float, seconds: float, monkeypatch: pytest.MonkeyPatch, rates: list[float] | None = None) -> Server:
    """Of two servers, one twice as fast: exponential times of 10 and 5 ms on average."""
    fast, slow = (Queue(exponential(mean_s)) for mean_s in (0.005, 0.01))
    monkeypatch.setattr("tldeploy.measuring.scenarios.open.STEPS", 8)
    generators = "tldeploy.measuring.scenarios.open.generators"
    monkeypatch.setattr(generators, lambda runners, rows: queues({0: fast, 1: slow}))
    runners = [type("Named", (), {"name": name}) for name in ("fast", "slow")]
    return server(runners, ["row"], bound_ms, seconds, "test", carried=[200, 100], rates=rates)  # type: ignore[arg-type]


def test_the_sweep_finds_the_rate_at_which_theory_has_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """M/M/1: the time in the system is exponential with rate μ - λ, so p99 = b at λ = μ - ln(100) / b."""
    run_ = found(bound_ms=200, seconds=120, monkeypatch=monkeypatch)
    for engine, capacity in enumerate([200, 100]):
        assert run_.highest_rate(engine) == pytest.approx(capacity - np.log(100) / 0.2, rel=0.08)
    again = found(bound_ms=200, seconds=120, monkeypatch=monkeypatch)
    assert [trial.rate_per_s for trial in again.trials] == [trial.rate_per_s for trial in run_.trials]
    assert len(run_.trials) == 2 * 8


def test_given_rates_are_tried_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    run_ = found(200, 20, monkeypatch, rates=[20.0, 60.0, 150.0])
    assert sorted({trial.rate_per_s for trial in run_.trials}) == [20, 60, 150]
    assert [run_.highest_rate(engine) for engine in (0, 1)] == [150, 60]


def test_a_bound_that_no_rate_keeps_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(0.001, 5, monkeypatch).highest_rate(0) is None


def test_a_trial_is_long_enough_for_a_p99_but_not_endless() -> None:
    assert trial_seconds(1000, 2) == 2
    assert trial_seconds(150, 2) == pytest.approx(1.1 * 368 / 150)
    assert trial_seconds(1, 2) == 4


def test_the_highest_rate_is_tried_for_as_long_as_its_p99_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 s give the slower engine fewer than 368 requests; what was made again stands in the place of what it was."""
    run_ = found(bound_ms=200, seconds=2, monkeypatch=monkeypatch)
    for engine in (0, 1):
        rate = run_.highest_rate(engine)
        best = next(trial for trial in run_.trials if trial.engine == engine and trial.rate_per_s == rate)
        assert len(best.made.sent.due) >= 368
    rare = found(200, 0.5, monkeypatch, rates=[2.0])
    assert [len(trial.made.sent.due) for trial in rare.trials] == pytest.approx([30, 30], abs=20), "15 s, no more"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_process_makes_the_load_that_it_is_told_to(tiny_server: Triton, protocol: str) -> None:
    url = tiny_server.http_url if protocol == "http" else tiny_server.grpc_url
    with Client(url, model="tiny", protocol=protocol) as client, Generator(client, ["good", "bad"]) as generator:  # type: ignore[arg-type]
        opened = generator.open_loop(40, 1.0, seed=4)
        np.testing.assert_array_equal(opened.sent.due, arrivals(40, 1.0, seed=4))
        assert (opened.sent.answered > opened.sent.sent).all()
        assert (opened.sent.sent >= opened.sent.due).all()
        assert opened.health.late_ms is not None
        assert 0 < opened.health.cpu_share <= 1.5
        closed = generator.closed_loop(3, 0.3)
        assert len(closed.sent.due) >= 3
        assert (np.diff(closed.sent.due) >= 0).all()
        assert closed.health.late_ms is None


def test_shared_memory_is_asked_by_the_process_too(tiny_server: Triton) -> None:
    with (
        Client(tiny_server.http_url, model="tiny", shared_memory=True, key=tiny_server.key) as client,
        Generator(client, ["good"]) as generator,
    ):
        assert len(generator.open_loop(30, 0.5, seed=0).sent.due) == len(arrivals(30, 0.5, seed=0))


def test_what_the_server_says_against_a_request_is_raised_here(tiny_server: Triton) -> None:
    with Client(tiny_server.http_url, model="tiny") as client:
        client.model = "gone"
        with Generator(client, ["good"]) as generator, pytest.raises(ServerError, match="gone"):
            generator.closed_loop(1, 0.1)


def test_percentiles_of_a_queue_are_in_their_intervals_in_95_runs_of_100() -> None:
    """300 runs of an M/M/1 queue at half its capacity; the time in the system is exponential, of 20 ms on average.

    Of 300 runs that are right in 95 % each, fewer than 273 are right once in a thousand times.
    """
    shares = [0.5, 0.9, 0.95, 0.99]
    inside = np.zeros(4, dtype=int)
    for seed in range(300):
        due = arrivals(50, 60, seed)
        latency_ms = 1000 * waited_s(due, exponential(0.01, seed + 1000)[: len(due)])
        block = np.arange(len(due)) * 20 // len(due)
        for at, percentile in enumerate(percentiles(latency_ms, block, shares, queued=True)):
            found, law_ms = percentile.found, -20 * np.log(1 - shares[at])
            assert found is not None
            inside[at] += found.low <= law_ms <= found.high
    assert (inside >= 273).all()
