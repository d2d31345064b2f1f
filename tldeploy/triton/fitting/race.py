"""Sequential halving (Karnin, Koren, Somekh, ICML 2013): phases share the time, and those still in it share a phase.

In a phase every configuration has one turn, in an order drawn anew; the better half, by these turns alone, goes on. So
all have a short turn, and those that are hard to tell apart have long ones. A phase that runs out of time goes on with
those that it reached. The race only proposes: what it measured of its winner is too good, because it won by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tldeploy.triton.fitting.goals import Goal, Running

SHORTEST_S = 0.25


@dataclass(frozen=True)
class Turn:
    """What so many clients met in one turn.

    latency_ms: float64 [requests], as they were sent. client_share: of one core, what sending and receiving took.
    """

    clients: int
    latency_ms: NDArray[np.float64]
    elapsed_s: float
    client_share: float

    @property
    def rows_per_s(self) -> float:
        return len(self.latency_ms) / self.elapsed_s


class Arena(Protocol):
    """Where configurations are measured. serve: from now on, by fresh workers. now: seconds of its clock."""

    def serve(self, running: Running) -> None: ...

    def load(self, clients: int, seconds: float) -> Turn: ...

    def now(self) -> float: ...


@dataclass(frozen=True)
class Sweep:
    """One configuration under ascending numbers of clients; it ends with the first that surely breaks the goal."""

    running: Running
    turns: tuple[Turn, ...]

    def best(self, goal: Goal) -> Turn:
        """Most rows a second where p99 may be as wanted; the fewest clients if it never is."""
        possible = [turn for turn in self.turns if not refuted(turn, goal)]
        return max(possible, key=lambda turn: turn.rows_per_s) if possible else self.turns[0]

    def score(self, goal: Goal) -> tuple[float, float]:
        """The larger, the better; where p99 is broken only p99 counts."""
        turn = self.best(goal)
        if goal.aim == "latency":
            return -float(np.median(turn.latency_ms)), 0.0
        return 0.0 if refuted(turn, goal) else turn.rows_per_s, -float(np.quantile(turn.latency_ms, 0.99))


def refuted(turn: Turn, goal: Goal) -> bool:
    """Whether surely more than one request in a hundred is slower than p99 may be (binomial test at 5 %)."""
    from scipy.stats import binom

    if goal.p99_ms is None:
        return False
    slower = int((turn.latency_ms > goal.p99_ms).sum())
    return bool(slower and binom.sf(slower - 1, len(turn.latency_ms), 0.01) < 0.05)


def turns(arena: Arena, running: Running, levels: Sequence[int], seconds: float) -> Iterator[Turn]:
    """A turn for each number of clients. The seconds hold the start of the workers too."""
    end = arena.now() + seconds
    arena.serve(running)
    for place, clients in enumerate(levels):
        yield arena.load(clients, max(SHORTEST_S, (end - arena.now()) / (len(levels) - place)))


def sweep(arena: Arena, running: Running, goal: Goal, levels: Sequence[int], seconds: float) -> Sweep:
    found: list[Turn] = []
    for turn in turns(arena, running, levels, seconds):
        found.append(turn)
        if refuted(turn, goal):
            break
    return Sweep(running, tuple(found))


def race(arena: Arena, candidates: Sequence[Running], goal: Goal, levels: Sequence[int], seconds: float) -> list[Sweep]:
    """The last sweep of each candidate that was reached, the winner's first."""
    alive, last = list(candidates), dict[Running, Sweep]()
    draw = np.random.default_rng(0)
    phases = max(1, math.ceil(math.log2(max(1, len(alive)))))
    start = arena.now()
    for phase in range(phases):
        swept: list[Sweep] = []
        for place, at in enumerate(draw.permutation(len(alive)).tolist()):
            left = start + seconds * (phase + 1) / phases - arena.now()
            if left <= 0 and (swept or last):
                break
            swept.append(sweep(arena, alive[at], goal, levels, left / (len(alive) - place)))
        swept.sort(key=lambda found: found.score(goal), reverse=True)
        newest = {found.running: found for found in swept}
        last = newest | {running: found for running, found in last.items() if running not in newest}
        alive = [found.running for found in swept[: math.ceil(len(swept) / 2)]] or alive
    return list(last.values())
