"""Closed loop: N clients, each sending its next row as soon as the last one is answered, for some seconds.

Served engines are asked by a process of its own (load/generator.py), the others by threads of the one they compute in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.asking import loaded
from tldeploy.measuring.energy import find_meter
from tldeploy.measuring.load.generator import generators
from tldeploy.measuring.load.health import Health, worst
from tldeploy.measuring.scenarios.turns import SEED, garbage_frozen
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Row

ROUNDS = 3


@dataclass(frozen=True)
class ClosedLoop:
    """Samples of one sweep over numbers of clients.

    completed: int64 [engines, concurrency, rounds], requests answered. elapsed_s: float64, the same shape, from the
    start of a round to its last answer. latency_ms: float64 [requests], in the order of `completed`. health: of the
    generator, by engine and level; only served engines have one. joules: float64, the shape of `completed`, what the
    machine drew in each round; NaN where it does not tell.
    """

    engines: tuple[str, ...]
    concurrency: tuple[int, ...]
    completed: NDArray[np.int64]
    elapsed_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    health: dict[tuple[int, int], Health]
    joules: NDArray[np.float64]

    def latencies_ms(self, engine: int, level: int) -> NDArray[np.float64]:
        """The latencies of one engine at one level of concurrency, all rounds together."""
        ends = np.cumsum(self.completed.sum(axis=2).ravel())
        cell = engine * len(self.concurrency) + level
        return self.latency_ms[ends[cell - 1] if cell else 0 : ends[cell]]


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
    elapsed_s, joules, meter = np.empty(shape), np.empty(shape), find_meter()
    kept: dict[tuple[int, int, int], NDArray[np.float64]] = {}
    health: defaultdict[tuple[int, int], list[Health]] = defaultdict(list)
    with (
        generators(runners, shuffled) as served,
        garbage_frozen(),
        progress(what, elapsed_s.size) as advance,
    ):
        for level, number in enumerate(concurrency):
            for turn in range(ROUNDS):
                for engine in draw.permutation(len(runners)).tolist():
                    cell, before = (engine, level, turn), meter.read()
                    if engine in served:
                        made = served[engine].closed_loop(number, seconds / ROUNDS)
                        kept[cell], elapsed_s[cell] = made.sent.latency_ms, made.sent.elapsed_s
                        health[engine, level].append(made.health)
                    else:
                        kept[cell], elapsed_s[cell] = loaded(runners[engine], shuffled, number, seconds / ROUNDS)
                    joules[cell] = meter.since(before)
                    advance(1)
    latencies = [kept[cell] for cell in np.ndindex(shape)]
    completed = np.array([len(part) for part in latencies], dtype=np.int64).reshape(shape)
    names = tuple(runner.name for runner in runners)
    judged = {cell: worst(found) for cell, found in health.items()}
    return ClosedLoop(names, tuple(concurrency), completed, elapsed_s, np.concatenate(latencies), judged, joules)
