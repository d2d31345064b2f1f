"""What settings of the server are to be good for, and which are tried.

Where instances and threads multiply to more than the cores, they wait for each other; so they multiply to all cores, or
to half of them, which leaves the rest to the step before the graph, the server and its clients. How many instances the
step has is tried with each. Batching is tried afterwards, with the best of these layouts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tldeploy.recipe import Deploy

# (queue_delay_us, preferred_batch_sizes)
BATCHINGS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (0, ()),
    (500, ()),
    (2000, ()),
    (0, (4,)),
    (2000, (4,)),
    (2000, (8,)),
)
# In the order of tables.
FITTED = ("instances", "threads", "step_instances", "queue_delay_us", "preferred_batch_sizes")


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


def fitted(settings: Deploy) -> dict[str, Any]:
    """The settings that fitting decides, as a recipe has them."""
    values = settings.model_dump(mode="json")
    return {name: values[name] for name in FITTED}


def layouts(default: Deploy, cores: int, goal: Goal) -> list[Deploy]:
    """The default in other numbers of instances and threads; a client that is alone gains by threads only."""
    if goal.aim == "latency":
        alone = {"instances": 1, "step_instances": 1, "queue_delay_us": 0, "preferred_batch_sizes": ()}
        return _others(default, (alone | {"threads": threads} for threads in _doubled(cores)))
    return _others(
        default,
        (
            {"instances": instances, "threads": threads, "step_instances": step}
            for instances in _doubled(cores)
            for threads in sorted({max(1, cores // instances), max(1, cores // instances // 2)}, reverse=True)
            for step in sorted({1, min(cores, max(2, instances))})
        ),
    )


def batchings(default: Deploy, layout: Deploy, goal: Goal) -> list[Deploy]:
    """The layout with other batching; none for a client that is alone."""
    if goal.aim == "latency":
        return []
    tried = (
        {"queue_delay_us": delay, "preferred_batch_sizes": preferred}
        for delay, preferred in BATCHINGS
        if max((1, *preferred)) <= default.max_batch_size and delay / 1000 < (goal.p99_ms or float("inf"))
    )
    return [settings for settings in _others(default, tried, layout) if settings != layout]


def _others(default: Deploy, changes: Iterable[dict[str, Any]], base: Deploy | None = None) -> list[Deploy]:
    made = dict.fromkeys((base or default).model_copy(update=change) for change in changes)
    return [settings for settings in made if settings != default]


def _doubled(most: int) -> list[int]:
    """1, 2, 4, … below `most`, and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
