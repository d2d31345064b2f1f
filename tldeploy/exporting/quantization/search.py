"""Quantization that keeps within the budget, or the best that was found in the time.

1. Everything is quantized. Within the budget: done.
2. Outliers are smoothed (smoothing.py); kept if that makes the loss smaller by a tenth, for it can add nodes.
3. Nodes are ranked by the loss that they cause (exclusion.py). The worst one is left in floats, then the worst two,
   four, …, until the drop is within the budget.
4. Between the last two counts, the smallest one that is within the budget is looked for by halving.

The minutes of the limit are those of steps 2 to 4. Each quantization that is tried is told of, and recorded. But for
the limit, the same inputs give the same steps.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tldeploy.backbones.layers import layer_map
from tldeploy.exporting.quantization.exclusion import Blame, Quantizer, ranked
from tldeploy.exporting.quantization.judge import Judge
from tldeploy.exporting.quantization.smoothing import smooth
from tldeploy.exporting.source import Source
from tldeploy.progress import say
from tldeploy.tasks.metrics import Drop, in_points

RANKING_SHARE = 0.5  # of the time that is left
SMOOTHING_PAYS = 0.9
Make = Callable[[Path], Quantizer]


@dataclass(frozen=True)
class Step:
    """One quantization that was tried. in_float: the nodes that were left in floats."""

    quantizer: Quantizer = field(repr=False)
    smoothed: bool
    in_float: list[str]
    drop: Drop
    loss: float
    seconds: float
    is_within: bool

    @property
    def how(self) -> str:
        return f"{len(self.in_float)} nodes in floats" + (", outliers smoothed" if self.smoothed else "")

    @property
    def order(self) -> tuple[bool, float, float]:
        """The best step has the least: within the budget with the fewest in floats, or else the smallest drop."""
        return (False, len(self.in_float), self.loss) if self.is_within else (True, self.drop.points, self.loss)

    def as_json(self) -> dict[str, Any]:
        return {
            "smoothed": self.smoothed,
            "in_float": self.in_float,
            "drop": self.drop.as_json(),
            "loss": self.loss if math.isfinite(self.loss) else None,
            "seconds": self.seconds,
            "within_budget": self.is_within,
        }


def quantize_within_budget(make: Make, source: Source, target: Path) -> dict[str, Any]:
    """Write the best quantization of the source's graph that the search finds, and say how it was found.

    make: a Quantizer of a graph. The budget and the time are the recipe's `max_drop` and `search_minutes`.
    """
    with tempfile.TemporaryDirectory() as folder:
        search = _Search(make, source, target.stem, Path(folder))
        best, reason = search.run()
        best.quantizer.write(target, best.in_float)
    return {
        "reason": reason,
        "smoothed": best.smoothed,
        "in_float": best.in_float,
        "smoothing": search.smoothing,
        "ranking": [{"place": blame.place, "nodes": len(blame.nodes), "loss": blame.loss} for blame in search.ranking],
        "steps": [step.as_json() for step in search.steps],
    }


class _Search:
    def __init__(self, make: Make, source: Source, variant: str, folder: Path) -> None:
        self.make, self.source, self.variant, self.folder = make, source, variant, folder
        self.judge = Judge(source)
        self.steps: list[Step] = []
        self.ranking: list[Blame] = []
        self.smoothing: list[dict[str, str]] = []
        self.deadline = math.inf  # until there is something to mend

    @property
    def is_out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    def run(self) -> tuple[Step, str]:
        first = self.attempt(self.make(self.source.graph), [])
        budget = f"the budget of {self.source.settings.max_drop:g} points"
        if first.is_within:
            return first, f"all of it is within {budget}"
        self.deadline = time.monotonic() + 60 * self.source.settings.search_minutes
        if self.is_out_of_time:
            return first, f"{first.drop.points:+.2f} points are over {budget}, and there was no time to search"
        start = self.smoothed(first)
        if not start.is_within and not self.is_out_of_time:
            self.leave_out(start)
        best = min(self.steps, key=lambda step: step.order)
        if best.is_within:
            return best, f"within {budget} with {best.how}"
        why = "the time ran out" if self.is_out_of_time else "every step was tried"
        return best, f"{best.drop.points:+.2f} points are over {budget}, the best found ({best.how}); {why}"

    def attempt(self, quantizer: Quantizer, in_float: Sequence[str], smoothed: bool = False) -> Step:
        started = time.monotonic()
        file = self.folder / "attempt.onnx"
        quantizer.write(file, in_float)
        drop, loss = self.judge.drop(file), self.judge.loss(file)
        settings = self.source.settings
        points = drop.high if settings.judge_by == "interval" else drop.points
        within = points <= settings.max_drop and math.isfinite(loss)
        step = Step(quantizer, smoothed, list(in_float), drop, loss, time.monotonic() - started, within)
        self.steps.append(step)
        say(f"export: {self.variant}: {in_points(drop.points)} with {step.how}, {step.seconds:.1f} s")
        return step

    def smoothed(self, first: Step) -> Step:
        """The better of the first step and the same with outliers smoothed."""
        graph = self.folder / "smoothed.onnx"
        self.smoothing = smooth(self.source, graph)
        if not any(entry["done"] for entry in self.smoothing):
            return first
        after = self.attempt(self.make(graph), [], smoothed=True)
        return after if after.is_within or after.loss < SMOOTHING_PAYS * first.loss else first

    def leave_out(self, start: Step) -> None:
        """Doubling, then halving. All of the nodes are never left out: that would be fp32."""
        layers = layer_map(self.source.network.backbone)
        ranking_until = time.monotonic() + RANKING_SHARE * (self.deadline - time.monotonic())
        self.ranking = ranked(start.quantizer, self.judge.loss, layers, self.folder, ranking_until)
        low, high = 0, 1  # counts of entries: over the budget, and to be tried
        while high < len(self.ranking) and not self.is_out_of_time:
            if self.without(start, high).is_within:
                break
            low, high = high, 2 * high
        else:
            return
        while high - low > 1 and not self.is_out_of_time:
            middle = (low + high) // 2
            low, high = (low, middle) if self.without(start, middle).is_within else (middle, high)

    def without(self, start: Step, entries: int) -> Step:
        nodes = [node for blame in self.ranking[:entries] for node in blame.nodes]
        return self.attempt(start.quantizer, nodes, start.smoothed)
