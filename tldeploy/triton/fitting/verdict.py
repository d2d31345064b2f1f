"""The verdict: the race's winners, the challengers, against the default, which is what the recipe's own settings give.

1. `play` measures them anew, and the default twice, in rounds whose order is drawn anew.
2. `judge` goes by these samples alone. A challenger is better if surely (the whole 95 % interval over rounds) it is so
   by more than the default differs from itself.
3. p99 holds only where its whole interval is at or below what was asked for, on as many requests as that takes: more
   than independent ones, for those that wait in one queue are slow together.

For throughput a round's ratio is that of rows a second; for latency it is every row's own, see measuring/statistics.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tldeploy.measuring.scenarios import blocks
from tldeploy.measuring.statistics import Estimate, fewest, percentiles, quantiles, speedup
from tldeploy.triton.fitting.goals import Goal, Running
from tldeploy.triton.fitting.race import Arena, Sweep, Turn, turns

FEWEST_ROUNDS, ROUNDS = fewest(0.5), 8  # of fewer no interval of the median can be had
GOOD_TURN_S = 3.0  # shorter ones are mostly the start of the workers
BUSY = 0.8  # of a core; from about here Python's threads wait for one another, and not for the server
GOOD = {"latency": "as fast", "throughput": "as many rows a second"}
NAMES = ("the recipe's settings", "the best layout", "the best batching with it")

Turns = dict[int, list[Turn]]  # by the number of clients


@dataclass(frozen=True)
class Figures:
    """What one configuration did with so many clients.

    needed: requests of this kind for an interval of p99 that has an upper end. client_share: as of a turn, the mean.
    """

    clients: int
    rows_per_s: float
    p50_ms: Estimate
    p99_ms: Estimate
    requests: int
    needed: int
    turns: int
    client_share: float

    def holds(self, goal: Goal) -> bool:
        return goal.p99_ms is None or (self.requests >= self.needed and self.p99_ms.high <= goal.p99_ms)

    def p99(self) -> str:
        p99, few = self.p99_ms, f", which takes {self.needed:,}" if self.requests < self.needed else ""
        return f"{p99.value:.1f} ms [{p99.low:.1f}, {p99.high:.1f}] on {self.requests:,} requests{few}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Contender:
    """copies: its turns, once for each time that it takes part in a round. best: with as many clients as gave most rows
    a second where p99 holds; where it never does, as came nearest to it."""

    name: str
    running: Running
    copies: tuple[Turns, ...]
    best: Figures

    @property
    def compared(self) -> list[list[Turn]]:
        """The turns of each copy that its best figures are of."""
        return [copy[self.best.clients] for copy in self.copies]


@dataclass(frozen=True)
class Judged:
    """gain: how many times as good as the default; of the default, measured again, as itself. None: not known."""

    running: Running
    figures: Figures
    gain: Estimate | None


@dataclass(frozen=True)
class Verdict:
    """holds: whether p99 does with what was chosen. judged: the default, then the challengers."""

    chosen: Running
    holds: bool
    reason: str
    judged: tuple[Judged, ...]


def figures(measured: Sequence[Turn]) -> Figures:
    """Of turns with the same number of clients, all samples together."""
    latency_ms = np.concatenate([turn.latency_ms for turn in measured])
    block, before = [], 0
    for turn in measured:
        block.append(blocks(len(turn.latency_ms)) + before)
        before = int(block[-1][-1]) + 1
    p50, p99 = quantiles(latency_ms, np.concatenate(block), [0.5, 0.99], queued=True)
    needed = percentiles(latency_ms, np.concatenate(block), [0.99], queued=True)[0].needed
    elapsed_s = sum(turn.elapsed_s for turn in measured)
    share = sum(turn.client_share * turn.elapsed_s for turn in measured) / elapsed_s
    rate = len(latency_ms) / elapsed_s
    return Figures(measured[0].clients, rate, p50, p99, len(latency_ms), needed, len(measured), share)


def play(arena: Arena, default: Sweep, challengers: Sequence[Sweep], goal: Goal, seconds: float) -> list[Contender]:
    """Whole rounds in the given time, with as many clients as was best in the race, and one step fewer."""
    swept = (default, *challengers)
    copies: list[tuple[Turns, ...]] = [({},) if at else ({}, {}) for at in range(len(swept))]
    entries = [(each, copy) for each, own in zip(swept, copies, strict=True) for copy in own]
    rounds = min(ROUNDS, max(FEWEST_ROUNDS, int(seconds / len(entries) / GOOD_TURN_S)))
    draw, end = np.random.default_rng(0), arena.now() + seconds
    for done in range(rounds):
        if done and arena.now() >= end:
            break
        for place, at in enumerate(draw.permutation(len(entries)).tolist()):
            each, kept = entries[at]
            left = (end - arena.now()) / ((rounds - done) * len(entries) - place)
            for turn in turns(arena, each.running, _clients(each, goal), left):
                kept.setdefault(turn.clients, []).append(turn)
    return [
        Contender(name, each.running, own, _best(own, goal))
        for name, each, own in zip(NAMES, swept, copies, strict=False)
    ]


def _clients(swept: Sweep, goal: Goal) -> list[int]:
    clients = [turn.clients for turn in swept.turns]
    at = clients.index(swept.best(goal).clients)
    return clients[max(0, at - 1) : at + 1] if goal.p99_ms else [clients[at]]


def _best(copies: Sequence[Turns], goal: Goal) -> Figures:
    found = [figures([turn for copy in copies for turn in copy[clients]]) for clients in copies[0]]
    if holding := [each for each in found if each.holds(goal)]:
        return max(holding, key=lambda each: each.rows_per_s)
    return min(found, key=lambda each: each.p99_ms.high)


def judge(contenders: Sequence[Contender], goal: Goal) -> Verdict:
    """Each challenger in turn against the best so far, which the default is at first."""
    default, *challengers = contenders
    first, again = default.compared
    noise = _ratio(again, [first], goal) if len(first) >= FEWEST_ROUNDS else None
    floor = max(noise.value, 1 / noise.value) if noise else None
    standing, reasons = default, []
    for challenger in challengers:
        better, reason = _compare(challenger, standing, floor, goal)
        reasons.append(reason)
        standing = challenger if better else standing
    if floor:
        reasons.append(f"{default.name}, measured twice, differ by {floor:.2f} times")
    if max(each.best.client_share for each in contenders) > BUSY:
        reasons.append("the clients were busier than the server, which could do more than they could ask")
    holds = standing.best.holds(goal)
    gains = [noise, *(_ratio(each.compared[0], default.compared, goal) if noise else None for each in challengers)]
    judged = (Judged(each.running, each.best, gain) for each, gain in zip(contenders, gains, strict=True))
    return Verdict(standing.running, holds, "; ".join(reasons) if holds else _least(contenders), tuple(judged))


def _compare(of: Contender, to: Contender, floor: float | None, goal: Goal) -> tuple[bool, str]:
    """Whether it is better, and why. floor: how many times as good it must surely be."""
    if not of.best.holds(goal):
        return False, f"{of.name} does not surely hold p99: {of.best.p99()}"
    if not to.best.holds(goal):
        return True, f"{of.name} holds p99: {of.best.p99()}; {to.name}: {to.best.p99()}"
    if floor is None:
        return False, f"{of.name} is not compared: the time was too short for {FEWEST_ROUNDS} rounds"
    gain = _ratio(of.compared[0], to.compared, goal)
    measured = f"{gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}] times {GOOD[goal.aim]} as {to.name}"
    if gain.low <= floor:
        return False, f"{of.name} is not surely better: {measured}"
    if goal.aim == "latency" and of.best.p99_ms.low > to.best.p99_ms.high:
        return False, f"{of.name} is {measured}, but its p99 is worse: {of.best.p99()}, against {to.best.p99()}"
    return True, f"{of.name}: {measured}"


def _least(contenders: Sequence[Contender]) -> str:
    """How near p99 came to what was asked for, where it does not hold."""
    least = min((each.best for each in contenders), key=lambda best: best.p99_ms.high)
    return f"with {least.clients} client{'s' if least.clients > 1 else ''} p99 is {least.p99()}, and never better"


def _ratio(of: Sequence[Turn], references: Sequence[Sequence[Turn]], goal: Goal) -> Estimate:
    """How many times as good as the references, of which a round's geometric mean counts."""
    if goal.aim == "throughput":
        rates = np.log([[turn.rows_per_s for turn in each] for each in references]).mean(axis=0)
        ratios = np.array([turn.rows_per_s for turn in of]) / np.exp(rates)
        return quantiles(ratios, np.arange(len(ratios)), [0.5])[0]
    latency_ms, reference_ms, block = [], [], []
    for number, (own, *others) in enumerate(zip(of, *references, strict=True)):
        # A client that is alone sends the rows in the same order in every turn.
        shared = min(len(turn.latency_ms) for turn in (own, *others))
        latency_ms.append(own.latency_ms[:shared])
        reference_ms.append(np.exp(np.log([turn.latency_ms[:shared] for turn in others]).mean(axis=0)))
        block.append(np.full(shared, number))
    return speedup(np.concatenate(latency_ms), np.concatenate(reference_ms), np.concatenate(block))
