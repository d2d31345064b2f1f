"""Where the time of a served request goes: what the client waits, less what the server says that each step took.

1. The server's counts are read, load is made for a while, and they are read again: the difference, divided by the
   requests that the server counted, is ms a request. They are counts of the whole model, so that nothing else may ask
   the server meanwhile; and they lag behind replies, so that they are read after a pause.
2. What the server does not account for is the client's: its own work, the protocol, the network. What the whole took
   and no step accounts for lies between the steps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import ServerError
from tldeploy.measuring.load.generator import generators
from tldeploy.measuring.scenarios import ROUNDS
from tldeploy.measuring.scenarios.turns import SEED, garbage_frozen
from tldeploy.progress import progress
from tldeploy.runtime import Runner
from tldeploy.runtime.triton.statistics import Counted
from tldeploy.tasks.classification import Row

Counts = Mapping[str, Counted]
LAG_S = 0.3
OUTSIDE, BETWEEN = "client, protocol and network", "between the steps"


@dataclass(frozen=True)
class Step:
    """ms a request in one model on the server: waiting for its turn, and input, inference and output of the run that it
    was part of. rows_per_run: how many rows a run had, on average."""

    name: str
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float
    rows_per_run: float


@dataclass(frozen=True)
class Parts:
    """ms a request, on average over `requests`. all_ms: what the client waited; the other parts add up to it."""

    requests: int
    all_ms: float
    outside_ms: float
    between_ms: float
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, model: str, steps: Sequence[str], spent: Counts, waited_ms: float) -> Parts:
        """spent: what the server counted of the model and its steps. waited_ms: by a client for one answer.

        Raises ServerError where it counted nothing.
        """
        requests = spent[model].requests
        if requests <= 0:
            counted = f"the server counted {requests} requests to {model} meanwhile: it may have loaded it anew"
            raise ServerError("tell where the time goes", counted, "run it again")
        found = tuple(_step(name.removeprefix(f"{model}."), spent[name], requests) for name in steps)
        inside_ms = spent[model].whole_ns / requests / 1e6
        between_ms = inside_ms - sum(step.queue_ms + step.input_ms + step.infer_ms + step.output_ms for step in found)
        return cls(requests, waited_ms, waited_ms - inside_ms, between_ms, found)

    def by_name(self) -> dict[str, float]:
        """ms of each part, in the order in which a request meets them."""
        steps = {
            f"{step.name}: {part}": float(getattr(step, f"{part}_ms"))
            for step in self.steps
            for part in ("queue", "input", "infer", "output")
        }
        return {OUTSIDE: self.outside_ms, **steps, BETWEEN: self.between_ms}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"steps": [asdict(step) for step in self.steps]}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Parts:
        """The parts that `as_json` was of."""
        return cls(**found | {"steps": tuple(Step(**step) for step in found["steps"])})


def _step(name: str, spent: Counted, requests: int) -> Step:
    times = (spent.queue_ns, spent.input_ns, spent.infer_ns, spent.output_ns)
    queue_ms, input_ms, infer_ms, output_ms = (ns / requests / 1e6 for ns in times)
    return Step(name, queue_ms, input_ms, infer_ms, output_ms, spent.rows / max(spent.runs, 1))


def spent_between(before: Counts, after: Counts) -> dict[str, Counted]:
    """What was counted between two readings."""
    return {name: counted - before.get(name, Counted()) for name, counted in after.items()}


class Counting(Protocol):
    """A runner that asks a server: see Client."""

    model: str
    steps: tuple[str, ...]

    def statistics(self) -> dict[str, Counted]: ...


def measure_parts(
    runners: Sequence[Runner], rows: Sequence[Row], clients: Sequence[int], seconds: float, what: str
) -> dict[tuple[int, int], Parts]:
    """The parts of a request to each served runner, by its place and the number of clients that ask at a time.

    seconds: for each of them, in rounds that interleave the runners, as in the closed loop. The requests that open its
    connections, one a client and round, are counted by the server and not among those that the client timed.
    """
    draw = np.random.default_rng(SEED)
    shuffled = [rows[index] for index in draw.permutation(len(rows))]
    waited: defaultdict[tuple[int, int], list[NDArray[np.float64]]] = defaultdict(list)
    spent: defaultdict[tuple[int, int], defaultdict[str, Counted]] = defaultdict(lambda: defaultdict(Counted))
    with generators(runners, shuffled) as served, garbage_frozen():
        asked = {place: cast(Counting, runners[place]) for place in served}
        time.sleep(LAG_S)
        with progress(what, ROUNDS * len(clients) * len(served)) as advance:
            for number in np.tile(clients, ROUNDS).tolist():
                for place in draw.permutation(list(served)).tolist():
                    before = asked[place].statistics()
                    made = served[place].closed_loop(number, seconds / ROUNDS)
                    time.sleep(LAG_S)
                    for name, counted in spent_between(before, asked[place].statistics()).items():
                        spent[place, number][name] += counted
                    waited[place, number].append(made.sent.latency_ms)
                    advance(1)
    return {
        (place, number): Parts.of(asked[place].model, asked[place].steps, found, _mean(waited[place, number]))
        for (place, number), found in spent.items()
    }


def _mean(parts: Sequence[NDArray[np.float64]]) -> float:
    return float(np.concatenate(parts).mean())
