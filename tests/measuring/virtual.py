"""Time that only sleepers move: an event loop on which an hour takes as long as its callbacks do, and servers on it.

And a clock that only engines move, for what measures in this thread.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.load.generator import Round
from tldeploy.measuring.load.health import health
from tldeploy.measuring.load.sending import Sent, arrivals, closed_loop, most_unanswered, open_loop

Result = TypeVar("Result")


class _Jumping(selectors.SelectSelector):
    """Instead of waiting, turns the clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now_s += timeout or 0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now_s


def run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class OneWorker:
    """A server that works on one request at a time, first come first served, and stands still from `stall_s` on.

    seconds: how long the request with a number (the n-th that it is asked) takes.
    """

    def __init__(self, seconds: Callable[[int], float], stall_s: tuple[float, float] = (np.inf, np.inf)) -> None:
        self.seconds, self.stall_s = seconds, stall_s
        self.asked = 0
        self.free_at_s = 0.0

    async def ask(self, item: str) -> None:
        loop = asyncio.get_running_loop()
        number, self.asked = self.asked, self.asked + 1
        begin_s = max(loop.time(), self.free_at_s)
        end_s = begin_s + self.seconds(number)
        if begin_s < self.stall_s[1] and end_s > self.stall_s[0]:
            end_s += self.stall_s[1] - max(begin_s, self.stall_s[0])
        self.free_at_s = end_s
        await asyncio.sleep(end_s - loop.time())


def waited_s(due: NDArray[np.float64], took: NDArray[np.float64]) -> NDArray[np.float64]:
    """How long each request is in a system with one worker (Lindley's recursion), in seconds; float64 [requests]."""
    worked = np.cumsum(took)
    return worked + np.maximum.accumulate(due - (worked - took)) - due


class Queue:
    """What a Generator finds at a server with one worker, by the law that OneWorker is held to.

    took: float64, seconds of one request after the other, of those that are asked in a trial. cpu_share: of the
    generator.
    """

    def __init__(self, took: NDArray[np.float64], cpu_share: float = 0.1) -> None:
        self.took, self.cpu_share = took, cpu_share

    def open_loop(self, rate_per_s: float, seconds: float, seed: int) -> Round:
        due = arrivals(rate_per_s, seconds, seed)
        sent = Sent(due, due.copy(), due + waited_s(due, self.took[: len(due)]))
        return Round(sent, health(sent, self.cpu_share * sent.elapsed_s))

    def closed_loop(self, clients: int, seconds: float) -> Round:
        answered = np.cumsum(self.took)
        answered = answered[: np.searchsorted(answered, seconds) + 1]
        due = np.concatenate([np.zeros(clients), answered])[: len(answered)]
        sent = Sent(due, due, answered)
        return Round(sent, health(sent, self.cpu_share * sent.elapsed_s))


class Asking:
    """What a Generator is, with its real loops, on virtual time; each round finds a server in the same state.

    made: the server of a round, a new one for each seed.
    """

    def __init__(self, made: Callable[[int], OneWorker]) -> None:
        self.made = made

    def open_loop(self, rate_per_s: float, seconds: float, seed: int) -> Round:
        due, most = arrivals(rate_per_s, seconds, seed), most_unanswered(rate_per_s)
        return self._round(open_loop(self.made(seed).ask, ["row"], due, most))

    def closed_loop(self, clients: int, seconds: float) -> Round:
        return self._round(closed_loop(self.made(0).ask, ["row"], clients, seconds))

    def _round(self, load: Coroutine[Any, Any, Sent]) -> Round:
        sent = run(load)
        return Round(sent, health(sent, cpu_s=0))


@contextmanager
def queues(found: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """In place of `generators`: a Queue or an Asking, by the place of the runner that each stands for."""
    yield found


class Clock:
    """Stands where `time` does."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s
