"""Scenarios: how rows are sent to engines. Each returns its raw samples; statistics are derived from them elsewhere.

1. `single_stream` (MLPerf's SingleStream): one request at a time, one row each, every row through every engine. The
   answers are kept with the latencies, so that the answers that are scored are the very answers that were timed.
2. `offline` (MLPerf's Offline): all rows are there from the start, and are sent in batches of similar lengths.
3. `closed_loop`: N clients, each sending its next row as soon as the last one is answered, for some seconds.

All interleave the engines in short turns, because a machine changes (clock, temperature, neighbours) within a minute
by more than engines differ. The order of turns is drawn anew for every block: under a fixed rotation each engine would
always inherit the caches and the spinning threads of the same predecessor.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import QualityError
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

MOST_ROWS_A_BLOCK = 16
FEWEST_BLOCKS = 20
BATCH = 8  # rows of an offline batch
WARM_UP_REQUESTS = 20
ROUNDS = 3
SEED = 0


@dataclass(frozen=True)
class SingleStream:
    """Samples of one run.

    latency_ms: float64 [engines, rows]. probabilities: float32 [engines, rows, classes]. block: int64 [rows], which
    block of neighbouring requests each row was sent in, the same for all engines.
    """

    engines: tuple[str, ...]
    latency_ms: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    block: NDArray[np.int64]

    @property
    def not_finite(self) -> list[int]:
        """How many rows each engine answered with something that is no number."""
        counts: list[int] = (~np.isfinite(self.probabilities).all(axis=2)).sum(axis=1).tolist()
        return counts


@dataclass(frozen=True)
class Offline:
    """Samples of one run.

    batch_ms: float64 [engines, batches]. batch_rows: int64 [batches], the rows of each. block: int64 [batches], as in
    SingleStream.
    """

    engines: tuple[str, ...]
    batch_ms: NDArray[np.float64]
    batch_rows: NDArray[np.int64]
    block: NDArray[np.int64]

    def rows_per_s(self, engine: int) -> float:
        """Rows answered a second, over the whole run."""
        return float(1000 * self.batch_rows.sum() / self.batch_ms[engine].sum())


@dataclass(frozen=True)
class ClosedLoop:
    """Samples of one sweep over numbers of clients.

    completed: int64 [engines, concurrency, rounds], requests answered. elapsed_s: float64, the same shape, from the
    start of a round to its last answer. latency_ms: float64 [requests], in the order of `completed`.
    """

    engines: tuple[str, ...]
    concurrency: tuple[int, ...]
    completed: NDArray[np.int64]
    elapsed_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]

    def latencies_ms(self, engine: int, level: int) -> NDArray[np.float64]:
        """The latencies of one engine at one level of concurrency, all rounds together."""
        ends = np.cumsum(self.completed.sum(axis=2).ravel())
        cell = engine * len(self.concurrency) + level
        return self.latency_ms[ends[cell - 1] if cell else 0 : ends[cell]]


def single_stream(
    runners: Sequence[Runner], rows: Sequence[Row], classes: int, what: str, *, refuse: bool = True
) -> SingleStream:
    """Send every row alone to every runner, in interleaved blocks. what: how progress calls the run.

    Each turn begins with one request that is not kept: the caches are still the other engine's, which no single stream
    would meet, and with one such request in sixteen they would be all that p99 shows.

    Raises QualityError when a runner answers with another number of classes, or, unless `refuse` is off, with numbers
    that are not finite.
    """
    block = blocks(len(rows))
    latency_ms = np.empty((len(runners), len(rows)))
    probabilities = np.empty((len(runners), len(rows), classes), dtype=np.float32)
    order = np.random.default_rng(SEED)
    _warm_up(runners, rows, classes)
    with _garbage_frozen(), progress(what, len(rows) * len(runners)) as advance:
        for indices in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(block)) + 1):
            for engine in order.permutation(len(runners)).tolist():
                predict = runners[engine].predict
                predict([rows[indices[0] - 1]])
                for row in indices.tolist():
                    request = [rows[row]]
                    start = time.perf_counter()
                    answer = predict(request)
                    latency_ms[engine, row] = 1000 * (time.perf_counter() - start)
                    probabilities[engine, row] = answer[0]
                advance(len(indices))
    run = SingleStream(tuple(runner.name for runner in runners), latency_ms, probabilities, block)
    for engine, wrong in zip(run.engines, run.not_finite, strict=True):
        if refuse and wrong:
            found = f"it answered {wrong} of {len(rows)} rows with numbers that are not finite"
            raise QualityError(f"score {engine}", found, "export again with another precision or variant")
    return run


def offline(runners: Sequence[Runner], rows: Sequence[Row], lengths: Sequence[int] | None, what: str) -> Offline:
    """Send all rows to every runner in batches of eight, sorted by length; `lengths` is None where rows have none.

    Sorted, a batch has little padding: it is how a CPU answers many texts fastest. Each turn begins with a single row
    that is not kept, for the reason that `single_stream` gives.
    """
    order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
    batches = [[rows[row] for row in order[start : start + BATCH]] for start in range(0, len(rows), BATCH)]
    block = blocks(len(batches))
    batch_ms = np.empty((len(runners), len(batches)))
    draw = np.random.default_rng(SEED)
    with _garbage_frozen(), progress(what, batch_ms.size) as advance:
        for indices in np.split(np.arange(len(batches)), np.flatnonzero(np.diff(block)) + 1):
            for engine in draw.permutation(len(runners)).tolist():
                predict = runners[engine].predict
                predict(batches[indices[0]][:1])
                for index in indices.tolist():
                    start_s = time.perf_counter()
                    predict(batches[index])
                    batch_ms[engine, index] = 1000 * (time.perf_counter() - start_s)
                advance(len(indices))
    sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
    return Offline(tuple(runner.name for runner in runners), batch_ms, sizes, block)


def closed_loop(
    runners: Sequence[Runner], rows: Sequence[Row], concurrency: Sequence[int], seconds: float, what: str
) -> ClosedLoop:
    """Keep 1, 4, 16, … clients busy for `seconds` each and engine, in rounds that interleave the engines.

    Clients draw from one shuffled order of the rows, so that a fast engine, which gets further, meets the same mix of
    lengths as a slow one. An error in any client ends the round and is raised here.
    """
    draw = np.random.default_rng(SEED)
    shuffled = [rows[index] for index in draw.permutation(len(rows))]
    shape = (len(runners), len(concurrency), ROUNDS)
    elapsed_s = np.empty(shape)
    kept: dict[tuple[int, int, int], NDArray[np.float64]] = {}
    clients = max(concurrency)
    with (
        ThreadPoolExecutor(clients, thread_name_prefix="client") as pool,
        _garbage_frozen(),
        progress(what, elapsed_s.size) as advance,
    ):
        for level, number in enumerate(concurrency):
            for turn in range(ROUNDS):
                for engine in draw.permutation(len(runners)).tolist():
                    load = Load(runners[engine], shuffled, number, seconds / ROUNDS)
                    kept[engine, level, turn], elapsed_s[engine, level, turn] = load.run(pool)
                    advance(1)
    latencies = [kept[cell] for cell in np.ndindex(shape)]
    completed = np.array([len(part) for part in latencies], dtype=np.int64).reshape(shape)
    names = tuple(runner.name for runner in runners)
    return ClosedLoop(names, tuple(concurrency), completed, elapsed_s, np.concatenate(latencies))


class Load:
    """One round: `clients` threads, each sending its next row when the last one is answered, until the time is up."""

    def __init__(self, runner: Runner, rows: Sequence[Row], clients: int, seconds: float) -> None:
        self.runner, self.rows, self.clients, self.seconds = runner, rows, clients, seconds
        self.ready = threading.Barrier(clients)
        self.stop = threading.Event()

    def run(self, pool: ThreadPoolExecutor) -> tuple[NDArray[np.float64], float]:
        """Latencies in ms of every request, as they were sent, and the seconds from the first one to the last answer.

        Each client finishes the request that it is in when the time is up, and that one counts: so no round is empty.
        """
        futures = [pool.submit(self._client, number) for number in range(self.clients)]
        try:
            errors = [future.exception() for future in futures]
        finally:
            self.stop.set()
        # A client that fails breaks the barrier for the others: their BrokenBarrierError is only its echo.
        if failed := [error for error in errors if error is not None]:
            raise next((error for error in failed if not isinstance(error, threading.BrokenBarrierError)), failed[0])
        results = [future.result() for future in futures]
        start = min(starts[0] for starts, _ in results)
        end = max(ends[-1] for _, ends in results)
        sent, answered = (np.concatenate(times) for times in zip(*results, strict=True))
        return 1000 * (answered - sent)[np.argsort(sent, kind="stable")], end - start

    def _client(self, number: int) -> tuple[list[float], list[float]]:
        """When each request was sent and answered, in seconds of the performance counter."""
        starts: list[float] = []
        ends: list[float] = []
        predict, rows = self.runner.predict, self.rows
        try:
            predict([rows[number % len(rows)]])  # not kept: the thread's first request opens connections and buffers
            self.ready.wait()
            stop_at = time.perf_counter() + self.seconds
            row = number
            while not ends or (ends[-1] < stop_at and not self.stop.is_set()):
                starts.append(time.perf_counter())
                predict([rows[row % len(rows)]])
                ends.append(time.perf_counter())
                row += self.clients
        except BaseException:
            self.stop.set()
            self.ready.abort()
            raise
        return starts, ends


def blocks(rows: int) -> NDArray[np.int64]:
    """Which block each row belongs to: at most sixteen rows each, and twenty blocks where there are rows enough.

    The statistics resample whole blocks, and need some to resample.
    """
    blocks = max(-(-rows // MOST_ROWS_A_BLOCK), min(FEWEST_BLOCKS, rows))
    return np.arange(rows, dtype=np.int64) * blocks // rows


def _warm_up(runners: Sequence[Runner], rows: Sequence[Row], classes: int) -> None:
    """Rows from everywhere, so that many lengths are met, and a first look at the shape of the answers."""
    spread = np.linspace(0, len(rows) - 1, WARM_UP_REQUESTS).astype(int).tolist()
    for runner in runners:
        for index in spread:
            answer = runner.predict([rows[index]])
            if answer.shape != (1, classes):
                found = f"it answers one row with shape {list(answer.shape)}, the model has {classes} classes"
                raise QualityError(f"measure {runner.name}", found, "deploy this model again, then run the bench again")


@contextmanager
def _garbage_frozen() -> Iterator[None]:
    """Set what is alive aside: a full collection over torch's many objects would stall some engine's request."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
