"""The scorecard: every variant measured on the same validation rows in one interleaved run, and the one to serve.

A variant earns its place if its float graph agrees with PyTorch, its task metric is within the budget of fp32's, and it
is faster than fp32 in this run. Of those that do, the fastest is chosen; where none does, fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tldeploy.artifacts import Choice
from tldeploy.data.rows import Rows
from tldeploy.exporting.parity import TOLERANCE, Parity
from tldeploy.exporting.variants import REFERENCE, VARIANTS
from tldeploy.measuring.scenarios import single_stream
from tldeploy.measuring.statistics import Estimate, quantiles, speedup
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Drop, Metric

GOLDEN_ROWS = 8


@dataclass(frozen=True)
class Entry:
    """One variant's row of the scorecard. metric, drop: on validation rows, the drop against fp32.

    p50_ms: one row at a time, tokenizing or decoding it included. speedup: over fp32.
    """

    name: str
    file: str
    size_bytes: int
    parity: Parity
    metric: Metric
    drop: Drop
    p50_ms: float
    speedup: Estimate
    kept: bool
    reason: str
    golden: list[list[float]]

    def as_json(self) -> dict[str, Any]:
        everything = asdict(self)
        del everything["golden"]
        return everything


def measure_variants(
    files: Sequence[Path], parities: Sequence[Parity], task: Classification, rows: Rows, max_drop: float
) -> list[Entry]:
    """One entry a file; the first is the fp32 reference. max_drop: points of the task metric."""
    runners = [OnnxRunner(file, task) for file in files]
    stream = single_stream(runners, rows.inputs, len(task.labels), "export: variants")
    predicted = [task.decode(probabilities) for probabilities in stream.probabilities]
    entries = []
    for index, (file, parity) in enumerate(zip(files, parities, strict=True)):
        drop = task.drop(rows.classes, predicted[0], predicted[index])
        faster = speedup(stream.latency_ms[index], stream.latency_ms[0], stream.block)
        kept, reason = _verdict(file.stem, parity, drop, faster, max_drop)
        entries.append(
            Entry(
                name=file.stem,
                file=file.name,
                size_bytes=file.stat().st_size,
                parity=parity,
                metric=task.measure(rows.classes, predicted[index]),
                drop=drop,
                p50_ms=quantiles(stream.latency_ms[index], stream.block, [0.5])[0].value,
                speedup=faster,
                kept=kept,
                reason=reason,
                golden=stream.probabilities[index][:GOLDEN_ROWS].tolist(),
            )
        )
    for runner in runners:
        runner.close()
    return entries


def choose(entries: Sequence[Entry]) -> Choice:
    """The fastest variant that earned its place, and why."""
    best = max((entry for entry in entries if entry.kept), key=lambda entry: entry.speedup.value)
    refused = "; ".join(f"{entry.name}: {entry.reason}" for entry in entries if not entry.kept)
    if best.name == REFERENCE:
        reason = f"no other variant is both faster and within the budget ({refused})" if refused else best.reason
    else:
        reason = f"the fastest within the budget: {best.reason}" + (f" (refused: {refused})" if refused else "")
    return Choice(about="variant", value=best.name, reason=reason)


def _verdict(name: str, parity: Parity, drop: Drop, faster: Estimate, max_drop: float) -> tuple[bool, str]:
    if name == REFERENCE:
        return True, "the reference that the others are measured against"
    cost = f"{drop.points:+.2f} points lost [{drop.low:+.2f}, {drop.high:+.2f}] on {drop.rows} validation rows"
    speed = f"{faster.value:.2f} [{faster.low:.2f}, {faster.high:.2f}] times as fast as fp32"
    if VARIANTS[name].is_float and parity.max_abs_diff > TOLERANCE:
        return False, f"differs from PyTorch by {parity.max_abs_diff:.1e}, tolerance {TOLERANCE:.0e}"
    if drop.points > max_drop:
        return False, f"{cost}, the budget is {max_drop:g}"
    if faster.low <= 1:
        return False, f"not surely faster: {speed}"
    # Where no row changed, the bootstrap sees no doubt; three in so many rows may still have (the rule of three).
    largest = max(drop.high, 100 * 3 / drop.rows)
    doubt = ", though these rows are too few to prove it" if largest > max_drop else ""
    return True, f"{speed}; {cost}, within the budget of {max_drop:g}{doubt}"
