"""The report of a bench run: what was measured, as one JSON object, and as a table for a terminal.

1. `build_report` derives every figure from the raw samples and joins them with what the earlier stages recorded.
2. `headline` says the result in one sentence.
3. `render_table` shows the engines on a terminal.

`report.schema.json`, beside this file, describes the object: every field, its unit and its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from tldeploy.artifacts import Choice, Manifest
from tldeploy.benchmarking import SCHEMA_VERSION, scenarios
from tldeploy.benchmarking.disagreements import disagreements
from tldeploy.benchmarking.measured import Measured
from tldeploy.data.rows import Rows
from tldeploy.measuring.energy import find_meter
from tldeploy.measuring.noise import judge
from tldeploy.measuring.profiling import Placed
from tldeploy.measuring.statistics import speedup
from tldeploy.tables import aligned
from tldeploy.tasks.calibration import expected_calibration_error, reliability
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Classes, confusion, per_class

Report = dict[str, Any]

REFERENCE = "torch eager"
ON_A_TERMINAL = ("p50_ms", "p90_ms", "p99_ms")
SERVED_BY = {"triton http": "served by Triton over HTTP", "triton grpc": "served by Triton over gRPC"}


def build_report(
    name: str,
    task: Classification,
    rows: Rows,
    measured: Measured,
    placements: Sequence[list[Placed] | None],
    *,
    stages: Sequence[Manifest],
    own: Sequence[Choice],
    environment: dict[str, Any],
    parents: dict[str, str],
) -> Report:
    """Join the figures of this run with what the earlier stages recorded in their manifests.

    rows: those that were measured. placements: one an engine. stages: manifests of the kinds "tune" and "export".
    own: this stage's choices. parents: kind to manifest's sha256.
    """
    by_kind = {manifest.kind: manifest for manifest in stages}
    decisions = [(manifest.kind, choice) for manifest in stages for choice in manifest.decisions]
    decisions += [("bench", choice) for choice in own]
    predicted = {
        engine: task.decode(answers)
        for engine, answers in zip(measured.single.engines, measured.single.probabilities, strict=True)
    }
    engine = reported_engine(measured.single.engines, by_kind["export"].details["chosen"])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "task": task.name,
        "labels": task.labels,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": len(measured.truth),
        "rows_sha256": measured.rows_sha256,
        "noise": measured.noise.as_json(),
        "energy": find_meter().as_json(),
        "engines": [
            _engine(index, task, measured, predicted) | _calibration_and_parts(index, measured) | _placement(found)
            for index, found in enumerate(placements)
        ],
        "reported": _reported(engine, task, measured, predicted),
        "disagreements": disagreements(rows, measured.single, task.labels, reference(measured.single.engines), engine),
        "variants": by_kind["export"].details["variants"],
        "chosen": _chosen(by_kind["export"]),
        "held_out": by_kind["export"].details.get("held_out"),
        "methods": by_kind["tune"].metrics,
        "calibration": by_kind["tune"].details.get("calibration"),
        "curves": by_kind["tune"].details.get("curves", {}),
        "decisions": [{"stage": kind, **choice.model_dump(mode="json")} for kind, choice in decisions],
        "environment": environment,
        "parents": parents,
    }


def reported_engine(engines: Sequence[str], chosen: str) -> str:
    """What a person would have served: the engine that the headline and the confusion matrix speak of."""
    wanted = (*SERVED_BY, f"onnxruntime {chosen}")
    return next((engine for engine in wanted if engine in engines), engines[-1])


def reference(engines: Sequence[str]) -> str:
    """The engine that the others' labels are held against: PyTorch where it was run, else the first."""
    return REFERENCE if REFERENCE in engines else engines[0]


def _calibration_and_parts(index: int, measured: Measured) -> dict[str, Any]:
    """parts: by number of clients; None for an engine that is no server."""
    parts = {str(clients): found.as_json() for (place, clients), found in measured.parts.items() if place == index}
    ece = expected_calibration_error(measured.single.probabilities[index], measured.truth)
    return {"ece": ece, "parts": parts or None}


def _placement(found: list[Placed] | None) -> dict[str, Any]:
    return {"placement": found and [{**asdict(placed), "nodes": placed.nodes} for placed in found]}


def _engine(index: int, task: Classification, measured: Measured, predicted: dict[str, Classes]) -> dict[str, Any]:
    single, load = measured.single, measured.load
    latency_ms = single.latency_ms[index]
    completed, elapsed_s = load.completed[index], load.elapsed_s[index]
    levels = [str(number) for number in load.concurrency]
    answers, opening = predicted[single.engines[index]], measured.openings[index]
    reference = single.engines.index(REFERENCE) if REFERENCE in single.engines else None
    against: dict[str, Any] = {"speedup": None, "verdict": None, "agreement": None}
    if reference is not None:
        gain = speedup(latency_ms, single.latency_ms[reference], single.block)
        against = {
            "speedup": gain.as_json(),
            "verdict": asdict(judge(gain, int(single.block[-1]) + 1, measured.noise)),
            "agreement": float((answers == predicted[REFERENCE]).mean()),
        }
    return {
        "name": single.engines[index],
        "provider": measured.providers[index],
        "opening": opening and opening.as_json(),
        "warm_up": single.warm_up[index].as_json(),
        **scenarios.latencies(latency_ms, single.block),
        "throughput_per_s": dict(zip(levels, (completed.sum(axis=1) / elapsed_s.sum(axis=1)).tolist(), strict=True)),
        "closed_loop": scenarios.closed_loop(load, index),
        "multi_stream": scenarios.multi_stream(measured.multi, index),
        "offline": scenarios.offline(measured.batched, index),
        "server": scenarios.server(measured.server, single.engines[index]),
        "fixed_shapes": scenarios.fixed_shapes(measured.fixed or {}, index),
        "metric": task.measure(measured.truth, answers).as_json(),
        **against,
    }


def _reported(engine: str, task: Classification, measured: Measured, predicted: dict[str, Classes]) -> dict[str, Any]:
    """Where one engine's answers are right and wrong, and whether its probabilities say so.

    The confusion matrix (true class by predicted), each class, and the reliability of the answers.
    """
    truth, probabilities = measured.truth, measured.single.probabilities[measured.single.engines.index(engine)]
    counts = confusion(truth, predicted[engine], len(task.labels))
    return {
        "engine": engine,
        "confusion": counts.tolist(),
        "classes": per_class(counts, task.labels),
        "ece": expected_calibration_error(probabilities, truth),
        "reliability": [found._asdict() for found in reliability(probabilities, truth)],
    }


def _chosen(exported: Manifest) -> dict[str, Any]:
    """The variant that was exported for serving, and why."""
    chosen = exported.details["chosen"]
    reasons = [choice.reason for choice in exported.decisions if choice.value == chosen]
    return {"variant": chosen, "reasons": reasons}


HOW_TO_READ = (
    "rows/s @4: with 4 clients, each asking again as soon as it is answered. x torch: the median over rows of the\n"
    "ratio on the same row, so not the quotient of the p50 columns."
)


def headline(report: Report) -> str:
    """The result in one sentence: what answers, how well, how fast."""
    engine = reported(report)
    metric, gain = engine["metric"], engine["speedup"]
    who = engine["name"]
    if who in SERVED_BY:
        who = f"{report['chosen']['variant']}, {SERVED_BY[who]}"
    said = [
        f"{who}: {metric_words(metric['name'])} {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]",
        f"p50 {milliseconds(engine['p50_ms'])} ms",
    ]
    if gain and engine["name"] != REFERENCE:
        said.append(f"{gain['value']:.1f} [{gain['low']:.1f}, {gain['high']:.1f}] times as fast as PyTorch")
    return ", ".join(said)


def weakest_class(report: Report) -> str:
    """The class that is answered worst, which a metric over all classes can hide."""
    found = min(report["reported"]["classes"], key=lambda entry: entry["f1"])
    if found["f1"] == 1:
        return "no class is weakest: each has an F1 of 1"
    return (
        f"weakest class: {found['label']}, F1 {found['f1']:.3f}, precision {found['precision']:.3f}, "
        f"recall {found['recall']:.3f}, of {found['support']:,} rows"
    )


def reported(report: Report) -> dict[str, Any]:
    """The row of the engine that the report speaks of."""
    rows: dict[str, dict[str, Any]] = {engine["name"]: engine for engine in report["engines"]}
    return rows[report["reported"]["engine"]]


def flat(values: dict[str, Any], place: str = "") -> list[tuple[str, Any]]:
    """Nested settings as lines `outer.inner`, a list of plain values as one line."""
    lines: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += flat(value, f"{place}{key}.")
        elif isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
            lines.append((f"{place}{key}", ", ".join(map(str, value)) or "none"))
        else:
            lines.append((f"{place}{key}", value))
    return lines


def metric_words(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1")


def milliseconds(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash for what samples could not carry."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def per_second(value: float) -> str:
    """Whole numbers; a digit after the point for small ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def render_table(report: Report) -> str:
    """The engines as an aligned plain-text table; numbers to the right."""
    levels = list(report["engines"][0]["throughput_per_s"])
    metric = metric_words(report["engines"][0]["metric"]["name"])
    head = ["engine", "provider", "p50 ms", "p90 ms", "p99 ms"]
    head += [*(f"rows/s @{level}" for level in levels), f"{metric} [95 %]", "x torch [95 %]"]
    table = []
    for engine in report["engines"]:
        score, gain = engine["metric"], engine["speedup"]
        table.append(
            [
                engine["name"],
                engine["provider"],
                *(milliseconds(engine[name]) for name in ON_A_TERMINAL),
                *(per_second(engine["throughput_per_s"][level]) for level in levels),
                f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]",
                f"{gain['value']:.2f} [{gain['low']:.2f}, {gain['high']:.2f}]" if gain else "-",
            ]
        )
    return aligned(head, table, left=2)
