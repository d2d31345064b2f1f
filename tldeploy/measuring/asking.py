"""How a runner is asked and timed: query after query, or by clients that wait for nothing but their answers.

Both are done where the runner computes. One that is `Elsewhere` is told what to do, and has taken the times there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

Times = NDArray[np.float64]
Queries = Sequence[Sequence[Row]]
# float32 [rows, classes], one a query.
Answers = list[NDArray[Any]]


@runtime_checkable
class Elsewhere(Protocol):
    """A Runner in another process: it is sent the whole of what is to be timed, and the pipe is not in the times."""

    def timed(self, queries: Queries) -> tuple[Times, Answers]: ...

    def loaded(self, rows: Sequence[Row], clients: int, seconds: float) -> tuple[Times, float]: ...


def timed(runner: Runner, queries: Queries) -> tuple[Times, Answers]:
    """Each query (some rows) in turn: what it took in ms, float64 [queries], and its answer."""
    if isinstance(runner, Elsewhere):
        return runner.timed(queries)
    predict = runner.predict
    took_ms, answers = np.empty(len(queries)), []
    for at, query in enumerate(queries):
        start = time.perf_counter()
        answer = predict(query)
        took_ms[at] = 1000 * (time.perf_counter() - start)
        answers.append(answer)
    return took_ms, answers


def loaded(runner: Runner, rows: Sequence[Row], clients: int, seconds: float) -> tuple[Times, float]:
    """What a Load of so many clients and seconds gives; an error in any client ends all, and is raised here."""
    if isinstance(runner, Elsewhere):
        return runner.loaded(rows, clients, seconds)
    with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
        return Load(runner, rows, clients, seconds).run(pool)


class Load:
    """One round: `clients` threads, each sending its next row when the last one is answered, until the time is up."""

    def __init__(self, runner: Runner, rows: Sequence[Row], clients: int, seconds: float) -> None:
        self.runner, self.rows, self.clients, self.seconds = runner, rows, clients, seconds
        self.ready = threading.Barrier(clients)
        self.stop = threading.Event()

    def run(self, pool: ThreadPoolExecutor) -> tuple[Times, float]:
        """Latencies in ms of all requests as they were sent, and the seconds from the common start to the last answer.

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
