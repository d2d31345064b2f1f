"""When requests are sent, on the clock of the running event loop.

1. `arrivals` draws when requests arrive that do not wait for one another (Poisson), the same times for the same seed.
2. `open_loop` sends each at its time, whatever is still unanswered. Latency counts from the time drawn: a request that
   is sent late because of the one before it has waited that long, and leaving this out is coordinated omission.
3. `closed_loop` has clients that send again as soon as they are answered.

What is sent is whatever `ask` takes, one item after the other, again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Ask = Callable[[Item], Awaitable[Any]]
Times = NDArray[np.float64]
# So many unanswered requests, or those of so many seconds if these are more, and more come than are answered: the rest
# would tell nothing but the length of the run. A server that stalls for less long must still get them all.
MOST_UNANSWERED = 256
SECONDS_UNANSWERED = 2


@dataclass(frozen=True)
class Sent:
    """What became of the requests, in the order in which they were due; float64 [requests], seconds from the start.

    due: when each was to be sent; in a closed loop nothing is due, and it is `sent` itself. dropped: arrivals that were
    not sent, as too many were unanswered.
    """

    due: Times
    sent: Times
    answered: Times
    dropped: int = 0

    @property
    def latency_ms(self) -> Times:
        return 1000 * (self.answered - self.due)

    @property
    def late_ms(self) -> Times:
        """How long after its time each was sent."""
        return 1000 * (self.sent - self.due)

    @property
    def elapsed_s(self) -> float:
        """Until the last answer."""
        return float(self.answered.max())


def arrivals(rate_per_s: float, seconds: float, seed: int) -> Times:
    """Times of a Poisson process, float64 in seconds; at least one."""
    draw = np.random.default_rng(seed)
    likely = int(rate_per_s * seconds + 6 * np.sqrt(rate_per_s * seconds) + 6)
    times: Times = np.cumsum(draw.exponential(1 / rate_per_s, likely))
    return times[: max(1, int(np.searchsorted(times, seconds)))]


def most_unanswered(rate_per_s: float) -> int:
    """How many requests may be unanswered at this rate before the rest is dropped."""
    return max(MOST_UNANSWERED, round(SECONDS_UNANSWERED * rate_per_s))


async def open_loop(ask: Ask[Item], items: Sequence[Item], due: Times, most: int = MOST_UNANSWERED) -> Sent:
    """Send the items one by one at the times due, while fewer than `most` are unanswered.

    Raises whatever a request raises, once all ended.
    """
    loop = asyncio.get_running_loop()
    sent, answered = np.full((2, len(due)), np.nan)
    start = loop.time()
    under_way: set[asyncio.Task[None]] = set()

    async def request(number: int) -> None:
        sent[number] = loop.time() - start
        await ask(items[number % len(items)])
        answered[number] = loop.time() - start

    number = 0
    async with asyncio.TaskGroup() as group:
        while number < len(due) and len(under_way) < most:
            # Even when this one is late: the one before it is sent meanwhile.
            await asyncio.sleep(max(0, due[number] - (loop.time() - start)))
            task = group.create_task(request(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
    return Sent(due[:number], sent[:number], answered[:number], len(due) - number)


async def closed_loop(ask: Ask[Item], items: Sequence[Item], clients: int, seconds: float) -> Sent:
    """Keep so many clients busy; each finishes the request that it is in when the time is up."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    times: list[tuple[float, float]] = []

    async def client(item: int) -> None:
        now = loop.time() - start
        while now < seconds:
            begun = now
            await ask(items[item % len(items)])
            now = loop.time() - start
            times.append((begun, now))
            item += clients

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    sent, answered = np.array(sorted(times)).T
    return Sent(sent, sent, answered)
