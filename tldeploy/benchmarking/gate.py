"""The regression gate: a report against an older one, and what must not have got worse.

1. `parse` reads conditions such as `p99+10%,accuracy-0.5pt`, and names every one that it cannot.
2. `judge` compares the engines that the two reports speak of. A condition fails only when the whole interval of the
   change lies beyond what it allows; a change whose interval reaches beyond it is said to be unsure, with its size.
   The intervals of all conditions hold together at 95 % (Bonferroni), so that one run in forty at most fails by chance,
   however many conditions there are.
3. Timings are compared only between runs of one kind of machine, unless told otherwise. Where they are not, the
   conditions on them are not judged, and accuracy is.

The interval of a ratio or a difference of two runs is made of both intervals, by the ends that point at each other
(MOVER: Zou & Donner, Statistics in Medicine 27, 2008). Where the older run's samples lie beside its report, and both
answered the same rows, accuracy is compared row by row, which is far sharper.

What an interval cannot hold is what differs between runs and not within one: another neighbour, another page of memory.
For latency a change must therefore also be larger than the noise floor of either run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tldeploy.benchmarking.report import Report, reported
from tldeploy.errors import UsageError
from tldeploy.measuring.statistics import TAIL, Estimate, ratio_of_rounds
from tldeploy.tasks.metrics import Drop, in_points

State = Literal["passed", "unsure", "failed", "not judged"]

PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p95": "p95_ms", "p99": "p99_ms", "p99.9": "p99_9_ms"}
# What a metric gets worse by, and in which unit.
WORSE = {**dict.fromkeys(PERCENTILES, ("+", "%")), "accuracy": ("-", "pt"), "throughput": ("-", "%")}
MACHINE = ("cpu", "instructions", "cores", "gpus")
_CONDITION = re.compile(r"(?P<metric>[a-z]+[0-9.]*?)(?P<sign>[+-])(?P<amount>[0-9]+(?:\.[0-9]+)?)(?P<unit>%|pt)")


@dataclass(frozen=True)
class Condition:
    """What may not get worse by more than `allowed`: a share of the older figure, or points for accuracy."""

    text: str
    metric: str
    allowed: float


@dataclass(frozen=True)
class Judged:
    """One condition, and what became of it. said: the figures, in words. change: how much worse the figure got, in the
    condition's unit (shares, or points)."""

    condition: Condition
    state: State
    said: str
    change: Estimate | None = None

    def as_json(self) -> dict[str, Any]:
        change = self.change and {
            "value": self.change.value,
            "interval": [end if math.isfinite(end) else None for end in (self.change.low, self.change.high)],
        }
        return {"condition": self.condition.text, "state": self.state, "said": self.said, "worse_by": change}


def parse(text: str) -> list[Condition]:
    """Read conditions, separated by commas. Raises UsageError that names every mistake in them."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [_condition(part) for part in parts]
    mistakes = [condition for condition in found if isinstance(condition, str)]
    if mistakes or not found:
        fix = f"write for example p99+10%,accuracy-0.5pt; there are {', '.join(WORSE)}"
        raise UsageError(f"read the conditions {text!r}", "; ".join(mistakes) or "there are none", fix)
    return [condition for condition in found if isinstance(condition, Condition)]


def _condition(part: str) -> Condition | str:
    """The condition, or what is wrong with it."""
    parsed = _CONDITION.fullmatch(part)
    if parsed is None:
        return f"{part!r} is not a metric, a sign, a number and a unit"
    metric, amount = parsed["metric"], float(parsed["amount"])
    if metric not in WORSE:
        return f"{part!r} is about {metric!r}, which is not measured"
    sign, unit = WORSE[metric]
    if (parsed["sign"], parsed["unit"]) != (sign, unit):
        return f"{part!r} should be {metric}{sign}{parsed['amount']}{unit}, as {metric} gets worse by that"
    return Condition(part, metric, amount if unit == "pt" else amount / 100)


def machines_differ(old: Report, new: Report) -> str | None:
    """What of the machines differs, in words; None where timings can be compared."""
    before, after = old["environment"], new["environment"]
    differing = [
        f"{name} {_short(before.get(name))} then, {_short(after.get(name))} now"
        for name in MACHINE
        if before.get(name) != after.get(name)
    ]
    return "; ".join(differing) or None


def judge(
    conditions: Sequence[Condition], old: Report, new: Report, paired: Drop | None = None, *, any_machine: bool = False
) -> list[Judged]:
    """What became of each condition. paired: the loss of accuracy row by row, where both runs answered the same rows.

    Raises UsageError for a condition on a figure that one of the reports does not have.
    """
    other = None if any_machine else machines_differ(old, new)
    left_out = [condition for condition in conditions if other and condition.metric != "accuracy"]
    tail = TAIL / max(1, len(conditions) - len(left_out))
    return [
        Judged(condition, "not judged", f"timings of two machines cannot be compared: {other}")
        if condition in left_out
        else _judged(condition, old, new, paired, tail)
        for condition in conditions
    ]


def _judged(condition: Condition, old: Report, new: Report, paired: Drop | None, tail: float) -> Judged:
    before, after = reported(old), reported(new)
    floor = 0.0
    if condition.metric == "accuracy":
        change, said = _loss(before["metric"], after["metric"], paired, tail)
    elif condition.metric == "throughput":
        change, said = _slowing(before, after, tail)
    else:
        change, said = _growth(condition, before, after, tail)
        floor = max((report["noise"]["floor"] for report in (old, new) if "noise" in report), default=0)
        said += f"; noise floor {floor:.1%}"
    if change.low > condition.allowed and change.value > floor:
        return Judged(condition, "failed", said, change)
    return Judged(condition, "unsure" if change.high > condition.allowed else "passed", said, change)


def _growth(condition: Condition, before: dict[str, Any], after: dict[str, Any], tail: float) -> tuple[Estimate, str]:
    """Of a percentile of single requests, as a share."""
    name = PERCENTILES[condition.metric]
    for which, engine in (("older", before), ("new", after)):
        if engine.get(name) is None:
            needed = (engine.get("needed") or {}).get(name)
            found = f"the {which} report has no {condition.metric}" + (
                f": it needs {needed:,} requests" if needed else ""
            )
            raise UsageError(f"judge {condition.text}", found, "ask for a lower percentile, or bench more rows")
    then, now = (Estimate(engine[name], *_ends(engine[f"{name}_interval"])) for engine in (before, after))
    change = _ratio(then, now, _wider(tail))
    return change, f"{condition.metric} {before[name]:.2f} → {after[name]:.2f} ms, {_percent(change)}"


def _slowing(before: dict[str, Any], after: dict[str, Any], tail: float) -> tuple[Estimate, str]:
    """Of the best rate in the closed loop that both have, as a share of the older one."""
    clients = [level for level in before["closed_loop"] if level in after["closed_loop"]]
    if not clients:
        found = "the reports have no number of clients in common"
        raise UsageError("judge throughput", found, "bench both with the same bench.concurrency")
    best = max(clients, key=lambda level: float(before["throughput_per_s"][level]))
    then, now = (ratio_of_rounds(engine["closed_loop"][best]["rounds_per_s"], 1, tail) for engine in (before, after))
    gained = _ratio(then, now)
    lost = Estimate(-gained.value, -gained.high, -gained.low)
    return lost, f"{then.value:.1f} → {now.value:.1f} rows/s with {best} clients, {_percent(lost, -1)}"


def _loss(before: dict[str, Any], after: dict[str, Any], paired: Drop | None, tail: float) -> tuple[Estimate, str]:
    """Of the task metric, in points."""
    if before["name"] != after["name"]:
        raise UsageError("judge accuracy", f"one is {before['name']}, the other {after['name']}", "compare one task")
    if paired is not None:
        change, how = Estimate(paired.points, paired.low, paired.high), f"row by row on {paired.rows:,} rows"
    else:
        points = 100 * (before["value"] - after["value"])
        low = 100 * math.hypot(before["value"] - before["low"], after["high"] - after["value"])
        high = 100 * math.hypot(before["high"] - before["value"], after["value"] - after["low"])
        change, how = Estimate(points, points - low, points + high), "from both intervals"
    wider = _wider(tail)
    low, high = (change.value + wider * (end - change.value) for end in (change.low, change.high))
    change = Estimate(change.value, low, high)
    said = f"{before['name'].replace('_', ' ')} {before['value']:.3f} → {after['value']:.3f}, {how}: "
    return change, f"{said}{in_points(change.value, change.low, change.high)}"


def _wider(tail: float) -> float:
    """How many times as wide a 95 % interval is that leaves `tail` on either side, were it of a normal law."""
    from scipy.special import ndtri

    return float(ndtri(tail) / ndtri(TAIL))


def _ratio(before: Estimate, after: Estimate, wider: float = 1) -> Estimate:
    """after / before - 1."""
    value = math.log(after.value / before.value)
    low = value - wider * math.hypot(_log(after.value, after.low), _log(before.high, before.value))
    high = value + wider * math.hypot(_log(after.high, after.value), _log(before.value, before.low))
    return Estimate(math.expm1(value), math.expm1(low) if math.isfinite(low) else -1.0, _expm1(high))


def _log(larger: float, smaller: float) -> float:
    return math.log(larger / smaller) if smaller > 0 and math.isfinite(larger) else math.inf


def _expm1(value: float) -> float:
    return math.expm1(value) if math.isfinite(value) else math.inf


def _ends(interval: Sequence[float | None]) -> tuple[float, float]:
    low, high = interval
    return float(low or 0), math.inf if high is None else float(high)


def _percent(change: Estimate, sign: int = 1) -> str:
    ends = sorted(sign * end for end in (change.low, change.high))
    return f"{sign * change.value:+.1%} [{ends[0]:+.1%}, {ends[1]:+.1%}]".replace("+inf%", "?").replace("-inf%", "?")


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
