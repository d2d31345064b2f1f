"""Selection: which variants earn their place, which one is served, and what rows say of it that no choice looked at.

A variant is kept if its answers are numbers, its float graph agrees with PyTorch, its task metric is within the budget
of fp32's, and it is surely better than fp32 in what is aimed at: latency, throughput or size. Of those that are kept,
the best is chosen; where none is, fp32.

Where the target is not on this machine, speed cannot be measured. Then the first variant within the budget is chosen,
in the order of PREFERENCE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tldeploy.artifacts import Choice
from tldeploy.data.rows import Rows
from tldeploy.exporting.parity import TOLERANCE
from tldeploy.exporting.scorecard import Entry, Speed
from tldeploy.exporting.variants import REFERENCE, VARIANTS
from tldeploy.measuring.scenarios import single_stream
from tldeploy.measuring.statistics import Estimate
from tldeploy.recipe import Export
from tldeploy.recipe.serving import Goal, Target, Variant
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Drop, Metric, in_points

# What is usually fastest on targets that cannot be measured. CUDA has no kernels for most of static int8; TensorRT and
# OpenVINO take plain graphs, and split one that has onnxruntime's own fused operators. bf16 is made only where it can
# be measured, and no half precision for OpenVINO: variants.py says why.
PREFERENCE: Mapping[Target, Sequence[Variant]] = {
    "cuda": ("fp16", "fused", "int8-weights", "int4-weights"),
    "tensorrt": ("int8-static", "fp16"),
    "openvino": ("int8-static", "int8-weights"),
}

LAST_RESORT = "`tune.quantization_aware` trains the network for it"


@dataclass(frozen=True)
class _Aim:
    """best: what the chosen one is among those that are kept. gain: how many times as good as fp32 a variant is."""

    best: str
    gain: Callable[[Speed], Estimate]
    words: str


_AIMS: Mapping[Goal, _Aim] = {
    "latency": _Aim("the fastest", lambda speed: speed.speedup, "times as fast as fp32"),
    "throughput": _Aim(
        "the fastest in batches", lambda speed: speed.throughput_speedup, "times as fast as fp32 in batches"
    ),
}


@dataclass(frozen=True)
class HeldOut:
    """What the chosen variant lost against fp32 on the held-out rows, and the metric of both."""

    drop: Drop
    metric: Metric
    fp32: Metric


def judge(entries: Sequence[Entry], settings: Export, learnt_rounding: bool = False) -> list[Entry]:
    """The same entries, the fp32 reference first, with what becomes of each and why.

    learnt_rounding: whether the network was trained with quantization in mind; where it was not, that is what is left
    to try for an int8 variant that lost too much.
    """
    verdicts = [_verdict(entry, entries[0].size_bytes, settings, learnt_rounding) for entry in entries]
    return [replace(entry, kept=kept, reason=why) for entry, (kept, why) in zip(entries, verdicts, strict=True)]


def choose(entries: Sequence[Entry], settings: Export) -> Choice:
    """The best variant that earned its place, and why."""
    others = [entry for entry in entries if entry.kept and entry.name != REFERENCE]
    none = "no other variant is both better and within the budget"
    if settings.goal == "size":
        ranked, best = sorted(others, key=lambda entry: entry.size_bytes), "the smallest"
    elif entries[0].speed is None:
        order = PREFERENCE.get(settings.target, ())
        ranked = sorted((entry for entry in others if entry.name in order), key=lambda entry: order.index(entry.name))
        best = f"speed was not measured here; the first of {', '.join(order)}, the usual order for {settings.target},"
        none = f"speed was not measured here, and none of {', '.join(order)} is there and within the budget"
    else:
        aim = _AIMS[settings.goal]
        ranked, best = sorted(others, key=lambda entry: -_gain(entry, aim).value), aim.best
    if ranked:
        return Choice(about="variant", value=ranked[0].name, reason=f"{best} within the budget: {ranked[0].reason}")
    return Choice(about="variant", value=REFERENCE, reason=none if len(entries) > 1 else entries[0].reason)


def measure_held_out(
    runners: Sequence[OnnxRunner], task: Classification, rows: Rows, validation: Drop, settings: Export
) -> tuple[HeldOut, list[Choice]]:
    """The final figure, on rows that no choice looked at; and what there is to say where it is over the budget.

    runners: fp32 and the chosen variant, or fp32 alone if that was chosen. validation: what the choice was made by.
    """
    stream = single_stream(runners, rows.inputs, len(task.labels), "export: held-out rows")
    answers = [task.decode(probabilities) for probabilities in stream.probabilities]
    metrics = [task.measure(rows.classes, predicted) for predicted in answers]
    found = HeldOut(task.drop(rows.classes, answers[0], answers[-1]), metrics[-1], metrics[0])
    if _counted(found.drop, settings) <= settings.max_drop or len(runners) == 1:
        return found, []
    said = f"the validation rows said {cost(validation)}, the held-out rows say {cost(found.drop)}"
    reason = f"{said}; the budget is {settings.max_drop:g}. The choice stands: it may not look at these rows"
    return found, [Choice(about="held-out rows", value="over the budget", reason=reason)]


def cost(drop: Drop) -> str:
    return f"{in_points(drop.points, drop.low, drop.high)} on {drop.rows} rows"


def as_details(found: HeldOut) -> dict[str, Any]:
    return {"drop": found.drop.as_json(), "metric": found.metric.as_json(), "fp32": found.fp32.as_json()}


def _verdict(entry: Entry, fp32_bytes: int, settings: Export, learnt_rounding: bool) -> tuple[bool, str]:
    if entry.name == REFERENCE:
        return True, "the reference that the others are measured against"
    if entry.not_finite:
        return False, f"answered {entry.not_finite} of {entry.drop.rows} rows with numbers that are not finite"
    if _is_float(entry.name) and entry.parity.max_abs_diff > TOLERANCE:
        return False, f"differs from PyTorch by {entry.parity.max_abs_diff:.1e}, tolerance {TOLERANCE:.0e}"
    if over := _over_the_budget(entry.drop, settings):
        can_learn = entry.name in VARIANTS and VARIANTS[entry.name].is_learnable and not learnt_rounding
        return False, f"{over}; {LAST_RESORT}" if can_learn else over
    is_better, gain = _better(entry, fp32_bytes, settings)
    if not is_better:
        return False, gain
    doubt = ", though these rows are too few to prove it" if _at_worst(entry.drop) > settings.max_drop else ""
    return True, f"{gain}; {cost(entry.drop)}, within the budget of {settings.max_drop:g}{doubt}"


def _is_float(variant: str) -> bool:
    return variant in VARIANTS and VARIANTS[variant].is_float


def _better(entry: Entry, fp32_bytes: int, settings: Export) -> tuple[bool, str]:
    """Whether it is surely better than fp32 in what is aimed at, in words."""
    if settings.goal == "size":
        share = f"{entry.size_bytes / fp32_bytes:.2f} of fp32's size"
        return entry.size_bytes < fp32_bytes, share if entry.size_bytes < fp32_bytes else f"not smaller: {share}"
    if entry.speed is None:
        return True, "its speed was not measured"
    aim = _AIMS[settings.goal]
    gain = _gain(entry, aim)
    words = f"{gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}] {aim.words}"
    return gain.low > 1, words if gain.low > 1 else f"not surely faster: {words}"


def _gain(entry: Entry, aim: _Aim) -> Estimate:
    assert entry.speed is not None, "speed is measured for all variants or for none"
    return aim.gain(entry.speed)


def _over_the_budget(drop: Drop, settings: Export) -> str | None:
    lost = _counted(drop, settings)
    if lost <= settings.max_drop:
        return None
    if settings.judge_by == "estimate":
        return f"{cost(drop)}, the budget is {settings.max_drop:g}"
    proof = f"{cost(drop)}, at worst {lost:.2f}; the budget is {settings.max_drop:g}"
    if _floor(drop) > settings.max_drop:
        proof += f", which cannot be proven on fewer than {_rows_to_prove(settings.max_drop)} rows"
    return proof


def _counted(drop: Drop, settings: Export) -> float:
    return drop.points if settings.judge_by == "estimate" else _at_worst(drop)


def _at_worst(drop: Drop) -> float:
    """The upper end of the interval. Where no row changed, the bootstrap sees no doubt, and this does."""
    return max(drop.high, _floor(drop))


def _floor(drop: Drop) -> float:
    """What three in so many rows may still have lost, in points (the rule of three)."""
    return 100 * 3 / drop.rows


def _rows_to_prove(max_drop: float) -> str:
    return f"{-(-300 // max_drop):.0f}" if max_drop else "infinitely many"
