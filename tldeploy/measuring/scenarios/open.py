"""Server: requests arrive at random and do not wait for one another, and the p99 of latency is to stay within a bound.

1. A trial sends at one rate, from the generator's process. It keeps the bound when the nearest-rank p99 is within it
   and no arrival had to be dropped. Latency counts from the time at which the request was due.
2. The highest rate that keeps the bound is MLPerf's metric of this scenario. It is found by bisection below the rate
   that the engine carried in the closed loop, trial by trial in turns of the engines; or rates are given.
3. Where that rate is low, its trial had too few requests to know a p99, and may have kept the bound by chance. It is
   made again, as long as its p99 takes; where it then does not keep the bound, so is the next lower one that did.

Trials are seeded. Where 15 s were too short as well, the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.load.generator import Generator, Round, generators
from tldeploy.measuring.scenarios.turns import SEED, garbage_frozen, neighbours
from tldeploy.measuring.statistics import fewest, percentiles
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

SHARE = 0.99
STEPS = 4
# Above the closed loop's rate, whose clients leave the server idle for a moment after each answer.
HEADROOM = 1.1
MOST_TIMES_LONGER = 2
MOST_SECONDS = 15.0
MORE = 1.1  # requests than a p99 takes, as Poisson counts vary


@dataclass(frozen=True)
class Trial:
    """One rate, offered to one engine (its place among those of the run)."""

    engine: int
    rate_per_s: float
    made: Round

    def keeps(self, bound_ms: float) -> bool:
        """Whether 99 % were answered within the bound, and none was dropped."""
        p99_ms = np.quantile(self.made.sent.latency_ms, SHARE, method="inverted_cdf")
        return self.made.sent.dropped == 0 and bool(p99_ms <= bound_ms)

    @property
    def needed(self) -> int:
        """Requests that a p99 takes, at the design effect that these show: in a queue they hang together."""
        found = percentiles(self.made.sent.latency_ms, self.block, [0.5, 0.9, 0.95, SHARE], queued=True)
        return found[-1].needed

    @property
    def block(self) -> NDArray[np.int64]:
        """Twenty blocks of neighbouring requests, int64 [requests]."""
        return neighbours(len(self.made.sent.due))


@dataclass(frozen=True)
class Server:
    """The trials of one run, in the order in which they were made. engines: those that were asked over a network."""

    engines: tuple[str, ...]
    bound_ms: float
    trials: tuple[Trial, ...]

    def highest_rate(self, engine: int) -> float | None:
        """Of the rates that kept the bound the highest; None where none did."""
        kept = [trial.rate_per_s for trial in self.trials if trial.engine == engine and trial.keeps(self.bound_ms)]
        return max(kept, default=None)


class Bisection:
    """Which rate to try next, between one that kept the bound and one that did not."""

    def __init__(self, most: float) -> None:
        self.kept, self.refused = 0.0, most

    @property
    def rate(self) -> float:
        return (self.kept + self.refused) / 2

    def learn(self, keeps: bool) -> None:
        """What the trial at `rate` gave."""
        if keeps:
            self.kept = self.rate
        else:
            self.refused = self.rate


def server(
    runners: Sequence[Runner],
    rows: Sequence[Row],
    bound_ms: float,
    seconds: float,
    what: str,
    *,
    carried: Sequence[float],
    rates: Sequence[float] | None = None,
) -> Server:
    """Look for the highest rate of each served runner; runners that compute in this process are left out.

    carried: rows a second that each of the runners carried in the closed loop. rates: try these instead of searching.
    seconds: of a trial at least; at most twice as long. That of the highest rate may be made again, of at most 15 s.
    """
    draw = np.random.default_rng(SEED)
    shuffled = [rows[index] for index in draw.permutation(len(rows))]
    trials: list[Trial] = []
    with generators(runners, shuffled) as served, garbage_frozen():
        places = list(served)
        searches = [Bisection(HEADROOM * carried[place]) for place in places]
        steps = len(rates) if rates else STEPS
        with progress(what, steps * len(places)) as advance:
            for step in range(steps):
                for engine in draw.permutation(len(places)).tolist():
                    rate = rates[step] if rates else searches[engine].rate
                    made = served[places[engine]].open_loop(rate, trial_seconds(rate, seconds), SEED + len(trials))
                    trials.append(Trial(engine, rate, made))
                    searches[engine].learn(trials[-1].keeps(bound_ms))
                    advance(1)
        with progress(f"{what}, the highest rate for longer", len(places)) as advance:
            for engine, place in enumerate(places):
                _settle(trials, engine, bound_ms, served[place])
                advance(1)
    return Server(tuple(runners[place].name for place in places), bound_ms, tuple(trials))


def trial_seconds(rate_per_s: float, seconds: float) -> float:
    """As long as it takes for p99 to have its samples, within limits."""
    return min(max(seconds, MORE * fewest(SHARE) / rate_per_s), MOST_TIMES_LONGER * seconds)


def _settle(trials: list[Trial], engine: int, bound_ms: float, generator: Generator) -> None:
    """Put a longer trial in the place of that of the engine's highest rate, until that has requests enough."""
    settled: set[float] = set()
    while kept := [at for at, trial in enumerate(trials) if trial.engine == engine and trial.keeps(bound_ms)]:
        best = max(kept, key=lambda at: trials[at].rate_per_s)
        rate, asked = trials[best].rate_per_s, len(trials[best].made.sent.due)
        wanted = min(MORE * trials[best].needed, MOST_SECONDS * rate)
        if rate in settled or asked >= trials[best].needed or asked >= wanted:
            return
        settled.add(rate)
        trials[best] = Trial(engine, rate, generator.open_loop(rate, wanted / rate, SEED + len(trials) + best))
