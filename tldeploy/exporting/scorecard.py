"""The scorecard: every variant measured on the same validation rows in one interleaved run.

1. One row at a time, which gives the answers that are scored and the latency; then batches of similar lengths. Where
   rows are few they are asked again and again: of a handful of samples no interval could say what is surely faster.
2. Loading, in processes of their own.
3. A profile of each session: which provider really computed.

What follows from it, selection.py says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.data.rows import Rows
from tldeploy.exporting.parity import Parity
from tldeploy.exporting.storage import parts
from tldeploy.exporting.targets import Place
from tldeploy.measuring.loading import measure_loading
from tldeploy.measuring.profiling import profile, provider_shares, sample
from tldeploy.measuring.scenarios import BATCH, FEWEST_BLOCKS, SingleStream, offline, single_stream
from tldeploy.measuring.statistics import Estimate, quantiles, speedup
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Drop, Metric

GOLDEN_ROWS = 8
ENOUGH = BATCH * FEWEST_BLOCKS  # requests, so that there are enough batches too


@dataclass(frozen=True)
class Speed:
    """p50_ms, speedup: one row at a time, tokenizing or decoding it included. rows_per_s, throughput_speedup: all rows
    in batches of eight. Both speed-ups are over fp32. load_ms, memory_mb: see measuring/loading.py."""

    p50_ms: float
    speedup: Estimate
    rows_per_s: float
    throughput_speedup: Estimate
    load_ms: float
    memory_mb: float


@dataclass(frozen=True)
class Entry:
    """One variant's row of the scorecard. metric, drop: on validation rows, the drop against fp32.

    file: None once it is deleted. size_bytes: the file, with its external data. not_finite: rows answered with
    something that is no number. speed: None where the target is not on this machine. providers: the share of the
    host's time for the nodes of each, which on a GPU is that of launching. kept: it may be served; reason: why, or why
    not.
    """

    name: str
    file: str | None
    size_bytes: int
    parity: Parity
    metric: Metric
    drop: Drop
    not_finite: int
    speed: Speed | None
    providers: dict[str, float]
    golden: list[list[float]]
    kept: bool = False
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Flat, so that a figure is found by its name alone; the golden samples have a file of their own."""
        everything = asdict(self)
        del everything["golden"]
        speed = everything.pop("speed") or dict.fromkeys(Speed.__dataclass_fields__)
        return everything | speed


def measure_variants(
    files: Sequence[Path],
    runners: Sequence[OnnxRunner],
    parities: Sequence[Parity],
    task: Classification,
    rows: Rows,
    place: Place,
) -> list[Entry]:
    """One entry a file; the first is the fp32 reference."""
    asked = again_and_again(rows.inputs)
    stream = single_stream(runners, asked, len(task.labels), "export: variants", refuse=False)
    answers = stream.probabilities[:, : len(rows)]
    predicted = [task.decode(probabilities) for probabilities in answers]
    speeds = [None] * len(files) if place.why_not_there else _speeds(files, runners, task, asked, place, stream)
    some = sample(rows.inputs, task)
    return [
        Entry(
            name=file.stem,
            file=file.name,
            size_bytes=sum(part.stat().st_size for part in parts(file)),
            parity=parity,
            metric=task.measure(rows.classes, predicted[at]),
            drop=task.drop(rows.classes, predicted[0], predicted[at]),
            not_finite=int((~np.isfinite(answers[at])).any(axis=1).sum()),
            speed=speeds[at],
            providers=provider_shares(profile(file, some, place.provider)),
            golden=answers[at][:GOLDEN_ROWS].tolist(),
        )
        for at, (file, parity) in enumerate(zip(files, parities, strict=True))
    ]


def again_and_again(inputs: Sequence[str]) -> list[str]:
    """All rows as often as it takes to have ENOUGH requests."""
    return [*inputs] * -(-ENOUGH // len(inputs))


def _speeds(
    files: Sequence[Path],
    runners: Sequence[OnnxRunner],
    task: Classification,
    asked: Sequence[str],
    place: Place,
    stream: SingleStream,
) -> list[Speed | None]:
    # Images have no length, and all of them decoded at once might not fit in memory.
    lengths = task.examples(asked).lengths if len(task.axes) > 1 else None
    batched = offline(runners, asked, lengths, "export: batches")
    loadings = measure_loading(files, task.encode(asked[:1]), place.provider)
    return [
        Speed(
            p50_ms=quantiles(stream.latency_ms[at], stream.block, [0.5])[0].value,
            speedup=speedup(stream.latency_ms[at], stream.latency_ms[0], stream.block),
            rows_per_s=batched.rows_per_s(at),
            throughput_speedup=speedup(batched.batch_ms[at], batched.batch_ms[0], batched.block),
            load_ms=loading.load_ms,
            memory_mb=loading.memory_mb,
        )
        for at, loading in enumerate(loadings)
    ]
