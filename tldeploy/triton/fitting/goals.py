"""What settings of the server are to be good for, and which are tried.

Where instances and threads multiply to more than the cores, they wait for each other; so they multiply to all cores, or
to half of them, which leaves the rest to the step before the graph, the server and its clients. How many instances the
step has is tried with each. Batching is tried afterwards, with the best of these layouts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from tldeploy.recipe import Deploy

Sizes = tuple[int, ...]

# Delays and preferred sizes. Without a delay the sizes are a cap: what waits is sent in such batches.
BATCHINGS: tuple[tuple[int, Sizes], ...] = ((0, ()), (500, ()), (2000, ()), (0, (4,)), (2000, (4,)), (2000, (8,)))


@dataclass(frozen=True)
class Running:
    """How a model is run: what fitting decides of a recipe's deploy section, whose words these are."""

    instances: int
    threads: int | None
    step_instances: int | None
    queue_delay_us: int
    preferred_batch_sizes: Sizes

    @classmethod
    def of(cls, settings: Deploy) -> Running:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    def within(self, settings: Deploy) -> Deploy:
        """All of the settings, with these. What was not given still counts as open: an export's options may fill it."""
        return Deploy.model_validate(settings.model_dump(exclude_unset=True) | asdict(self))

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"preferred_batch_sizes": list(self.preferred_batch_sizes)}


@dataclass(frozen=True)
class Goal:
    """latency: the lowest latency of a client that is alone. throughput: the most rows a second.

    p99_ms: what p99 must not be above, of throughput; None for any.
    """

    aim: Literal["throughput", "latency"] = "throughput"
    p99_ms: float | None = None

    def __str__(self) -> str:
        if self.aim == "latency":
            return "the lowest latency with one client"
        return "the most rows a second" + (f" with p99 at or below {self.p99_ms:g} ms" if self.p99_ms else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def clients(self, most: int) -> list[int]:
        """How many clients to try, ascending: with p99 to hold 1, 2, 4, … and `most`, else `most`."""
        if self.aim == "latency":
            return [1]
        return [number for number in _doubled(most) if self.p99_ms or number == most]


def layouts(default: Running, cores: int, goal: Goal) -> list[Running]:
    """The default in other numbers of instances and threads; a client that is alone gains by threads only."""
    if goal.aim == "latency":
        return _others(default, (Running(1, threads, 1, 0, ()) for threads in _doubled(cores)))
    return _others(
        default,
        (
            replace(default, instances=instances, threads=threads, step_instances=step)
            for instances in _doubled(cores)
            for threads in sorted({max(1, cores // instances), max(1, cores // instances // 2)}, reverse=True)
            for step in sorted({1, min(cores, max(2, instances))})
        ),
    )


def batchings(default: Running, layout: Running, goal: Goal, max_batch_size: int) -> list[Running]:
    """The layout with other batching; none for a client that is alone."""
    if goal.aim == "latency":
        return []
    tried = (
        replace(layout, queue_delay_us=delay, preferred_batch_sizes=preferred)
        for delay, preferred in BATCHINGS
        if max((1, *preferred)) <= max_batch_size and delay / 1000 < (goal.p99_ms or float("inf"))
    )
    return [running for running in _others(default, tried) if running != layout]


def _others(default: Running, made: Iterable[Running]) -> list[Running]:
    return [running for running in dict.fromkeys(made) if running != default]


def _doubled(most: int) -> list[int]:
    """1, 2, 4, … below `most`, and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
