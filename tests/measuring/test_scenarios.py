from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine import Engine
from tests.measuring.virtual import Clock
from tldeploy.errors import QualityError, RequestError
from tldeploy.measuring.scenarios import ROUNDS, closed_loop, multi_stream, offline, single_stream
from tldeploy.measuring.statistics import speedup

ROWS = [str(number) for number in range(50)]


class Witness(Engine):
    """Writes down every request, in a list that all engines share."""

    def __init__(self, name: str, seen: list[tuple[str, str]]) -> None:
        super().__init__(name, lambda number: number % 3)
        self.seen = seen

    def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
        self.seen += [(self.name, row) for row in rows]
        return super().predict(rows)


def test_every_answer_kept_is_that_engines_answer_to_that_row() -> None:
    engines = [Engine("right", lambda n: n % 3), Engine("off by one", lambda n: (n + 1) % 3)]
    run = single_stream(engines, ROWS, 3, "test")
    assert run.engines == ("right", "off by one")
    assert run.probabilities.shape == (2, 50, 3)
    assert run.probabilities.dtype == np.float32
    np.testing.assert_array_equal(run.probabilities.argmax(axis=2), [np.arange(50) % 3, (np.arange(50) + 1) % 3])
    assert (run.latency_ms > 0).all()


def test_latencies_follow_the_rows_that_they_belong_to() -> None:
    run = single_stream([Engine("a", lambda n: 0, lambda n: 0.004 if n % 10 == 3 else 0.0)], ROWS, 3, "test")
    slow = np.arange(50) % 10 == 3
    assert run.latency_ms[0][slow].min() >= 4, "a sleep never ends early"
    assert np.median(run.latency_ms[0][~slow]) < run.latency_ms[0][slow].min()


def test_engines_take_turns_within_every_block_and_each_turn_starts_with_a_request_that_is_not_kept() -> None:
    seen: list[tuple[str, str]] = []
    run = single_stream([Witness(name, seen) for name in "abc"], ROWS * 8, 3, "test")
    blocks, sizes = np.unique(run.block, return_counts=True)
    assert len(blocks) == 25
    assert sizes.tolist() == [16] * 25
    measured = seen[sum(warmed.requests for warmed in run.warm_up) :]
    assert len(measured) == 3 * (400 + 25)
    orders = set()
    for start in range(0, len(measured), 3 * 17):
        names = [name for name, _ in measured[start : start + 3 * 17]]
        assert names == [name for name in names[::17] for _ in range(17)], "turns of 17 requests"
        orders.add("".join(names[::17]))
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (7, 7), (50, 20), (320, 20), (1854, 116)])
def test_there_are_enough_blocks_to_resample(rows: int, blocks: int) -> None:
    run = single_stream([Engine("a", lambda n: 0)], ["1"] * rows, 3, "test")
    assert run.block[-1] + 1 == blocks
    assert np.bincount(run.block).max() <= 16


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(QualityError, match=r"cannot measure old: .*shape \[1, 2\], the model has 3 classes"):
        single_stream([Engine("old", lambda n: 0, classes=2)], ROWS, 3, "test")


def test_answers_that_are_not_numbers_are_refused() -> None:
    class Overflowing(Engine):
        def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
            return super().predict(rows) * (np.nan if rows == ["7"] else 1)

    with pytest.raises(QualityError, match="cannot score half: it answered 1 of 50 rows with numbers that are not"):
        single_stream([Overflowing("half", lambda n: 0)], ROWS, 3, "test")


def test_throughput_follows_the_law_of_an_engine_that_serves_one_at_a_time() -> None:
    """A lock makes 2 ms a request at any concurrency, so 500 a second is a ceiling that no number of clients lifts."""
    lock = threading.Lock()

    class OneAtATime(Engine):
        def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
            with lock:
                return super().predict(rows)

    load = closed_loop([OneAtATime("a", lambda n: 0, lambda n: 0.002)], ROWS, [1, 4], 0.3, "test")
    assert load.completed.shape == load.elapsed_s.shape == (1, 2, ROUNDS)
    assert (load.completed / load.elapsed_s <= 500).all()
    assert len(load.latency_ms) == load.completed.sum()
    assert load.latencies_ms(0, 0).min() >= 2
    busy_s = np.array([load.latencies_ms(0, level).sum() / 1000 for level in (0, 1)])
    assert (busy_s <= load.elapsed_s[0].sum(axis=1) * [1, 4]).all(), "no client waits for two answers at once"


def test_latencies_are_found_by_engine_and_level() -> None:
    engines = [Engine("fast", lambda n: 0, lambda n: 0.001), Engine("slow", lambda n: 0, lambda n: 0.02)]
    load = closed_loop(engines, ROWS, [1, 2], 0.06, "test")
    for level in (0, 1):
        assert len(load.latencies_ms(0, level)) == load.completed[0, level].sum()
        assert load.latencies_ms(0, level).min() < load.latencies_ms(1, level).min()
        assert load.latencies_ms(1, level).min() >= 20


def test_a_round_shorter_than_a_request_still_counts_what_was_answered() -> None:
    load = closed_loop([Engine("slow", lambda n: 0, lambda n: 0.02)], ROWS, [3], 0.003, "test")
    assert load.completed.tolist() == [[[3] * ROUNDS]]
    assert (load.elapsed_s >= 0.02).all()


@pytest.mark.parametrize("after", [0, 9])
def test_an_error_in_one_client_surfaces_and_stops_the_others(after: int) -> None:
    """At once, while the others wait for the start; and in the middle of a round."""
    answered = threading.Semaphore(after)

    class Dying(Engine):
        def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
            if not answered.acquire(blocking=False):
                raise RequestError("ask the server", "its worker is dead", "restart it")
            return super().predict(rows)

    with pytest.raises(RequestError, match="its worker is dead"):
        closed_loop([Dying("a", lambda n: 0, lambda n: 0.001)], ROWS, [4], 60, "test")


def batches_of(seen: list[tuple[str, list[str]]], name: str) -> list[list[str]]:
    return [rows for engine, rows in seen if engine == name]


class BatchWitness(Engine):
    """Writes down every batch, in a list that all engines share."""

    def __init__(self, name: str, seen: list[tuple[str, list[str]]]) -> None:
        super().__init__(name, lambda number: 0)
        self.seen = seen

    def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
        self.seen.append((self.name, list(rows)))
        return super().predict(rows)


def test_offline_sends_every_row_once_in_batches_of_similar_lengths() -> None:
    seen: list[tuple[str, list[str]]] = []
    lengths = [(7 * number) % 50 for number in range(50)]
    run = offline([BatchWitness(name, seen) for name in "ab"], ROWS, lengths, "test")
    assert run.batch_rows.tolist() == [8] * 6 + [2]
    for name in "ab":
        batches = [rows for rows in batches_of(seen, name) if len(rows) > 1]
        sent = [lengths[int(row)] for rows in batches for row in rows]
        assert sent == sorted(lengths), "from the shortest to the longest, each once"
        kept = sum(len(rows) == 1 for rows in batches_of(seen, name))
        assert kept == run.block[-1] + 1, "and one row a turn that is not kept"


def test_offline_keeps_the_order_of_rows_without_a_length() -> None:
    seen: list[tuple[str, list[str]]] = []
    offline([BatchWitness("a", seen)], ROWS, None, "test")
    assert [row for rows in batches_of(seen, "a") if len(rows) > 1 for row in rows] == ROWS


def test_offline_blocks_interleave_the_engines_in_an_order_drawn_anew() -> None:
    seen: list[tuple[str, list[str]]] = []
    offline([BatchWitness(name, seen) for name in "abc"], ROWS * 8, None, "test")
    turns = [name for name, rows in seen if len(rows) == 1]
    orders = {"".join(turns[start : start + 3]) for start in range(0, len(turns), 3)}
    assert len(turns) == 3 * 20
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert len(orders) == 6


def test_the_speedup_of_batches_is_the_ratio_of_what_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only engines move: one needs 1 ms a row, the other 3."""
    clock = Clock()
    monkeypatch.setattr("tldeploy.measuring.asking.time", clock)
    run = offline([Timed("quick", clock, 0.001), Timed("slow", clock, 0.003)], ROWS, None, "test")
    assert run.rows_per_s(0) == pytest.approx(1000)
    assert run.rows_per_s(1) == pytest.approx(1000 / 3)
    found = speedup(run.batch_ms[0], run.batch_ms[1], run.block)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_multi_stream_sends_every_row_in_queries_of_one_size_and_times_each_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("tldeploy.measuring.asking.time", clock)
    seen: list[tuple[str, list[str]]] = []
    run = multi_stream([BatchWitness(name, seen) for name in "ab"], ROWS, 8, "test")
    assert (run.query_rows, run.query_ms.shape) == (8, (2, 7))
    for name in "ab":
        queries = batches_of(seen, name)
        assert {len(query) for query in queries} == {8}
        assert len(queries) == 7 + run.block[-1] + 1, "and one a turn that is not kept"
        assert {row for query in queries for row in query} == set(ROWS)
    timed = multi_stream([Timed("a", clock, 0.001), Timed("b", clock, 0.002)], ROWS, 8, "test")
    np.testing.assert_allclose(timed.query_ms, [[8] * 7, [16] * 7])


class Timed(Engine):
    def __init__(self, name: str, clock: Clock, row_s: float) -> None:
        super().__init__(name, lambda number: 0)
        self.clock, self.row_s = clock, row_s

    def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
        self.clock.now_s += self.row_s * len(rows)
        return super().predict(rows)


def test_answers_that_are_not_numbers_are_counted_where_they_are_not_refused() -> None:
    class Overflowing(Engine):
        def predict(self, rows: Sequence[str]) -> NDArray[np.float32]:
            return super().predict(rows) * (np.nan if rows in (["7"], ["9"]) else 1)

    engines = [Engine("whole", lambda n: 0), Overflowing("half", lambda n: 0)]
    assert single_stream(engines, ROWS, 3, "test", refuse=False).not_finite == [0, 2]
