"""All scenarios of one bench run, over all engines, and their raw samples in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy import recipe
from tldeploy.artifacts import fingerprint
from tldeploy.data.rows import Rows
from tldeploy.errors import UsageError
from tldeploy.measuring.isolated import Opening
from tldeploy.measuring.noise import Noise, measure_noise
from tldeploy.measuring.parts import Parts, measure_parts
from tldeploy.measuring.scenarios import (
    ClosedLoop,
    MultiStream,
    Offline,
    Server,
    SingleStream,
    closed_loop,
    multi_stream,
    offline,
    server,
    single_stream,
)
from tldeploy.measuring.shapes import of_length
from tldeploy.runtime import Runner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Classes

MOST_FIXED_ROWS = 160


@dataclass(frozen=True)
class Measured:
    """One run over the engines. rows_sha256: of the rows and their classes. truth: int64 [rows]. providers, openings:
    one an engine. fixed: by tokens of a row. parts: of a request, by the place of a served engine and the number of
    clients. What was not run, or is not known, is None."""

    rows_sha256: str
    truth: Classes
    providers: tuple[str, ...]
    openings: tuple[Opening | None, ...]
    noise: Noise
    single: SingleStream
    load: ClosedLoop
    multi: MultiStream | None = None
    batched: Offline | None = None
    server: Server | None = None
    fixed: dict[int, SingleStream] | None = None
    parts: dict[tuple[int, int], Parts] = field(default_factory=dict)


def run_scenarios(
    settings: recipe.Bench, task: Classification, rows: Rows, runners: Sequence[Runner], reported: int
) -> Measured:
    """The noise floor first, of the runner at the place `reported`; then what the settings ask for.

    Raises UsageError or DataError for a length that rows cannot have, QualityError for a runner whose answers cannot be
    scored, and whatever error a runner raises.
    """
    classes, inputs = len(task.labels), rows.inputs
    shaped = {tokens: _shaped(tokens, task, inputs) for tokens in settings.tokens}
    noise = measure_noise(runners[reported], inputs, classes, "bench: an engine against itself")
    single = single_stream(runners, inputs, classes, "bench: one request at a time")
    load = closed_loop(runners, inputs, settings.concurrency, settings.seconds, "bench: concurrent clients")
    parts: dict[tuple[int, int], Parts] = {}
    if any(load.health):
        ends = sorted({1, max(settings.concurrency)})
        parts = measure_parts(runners, inputs, ends, settings.seconds, "bench: where the time goes")
    multi = batched = served = None
    if "multi-stream" in settings.scenarios:
        multi = multi_stream(runners, inputs, settings.query_rows, "bench: queries of some rows")
    if "offline" in settings.scenarios:
        batched = offline(runners, inputs, _lengths(task, inputs), "bench: all rows in batches")
    if "server" in settings.scenarios and any(load.health):
        carried = (load.completed.sum(axis=2) / load.elapsed_s.sum(axis=2)).max(axis=1).tolist()
        what = "bench: requests that arrive at random"
        served = server(runners, inputs, settings.p99_ms, settings.seconds, what, carried=carried, rates=settings.rates)
    fixed = {
        tokens: single_stream(runners, made, classes, f"bench: rows of {tokens} tokens")
        for tokens, made in shaped.items()
    }
    providers = tuple(runner.provider for runner in runners)
    openings = tuple(getattr(runner, "opening", None) for runner in runners)
    rows_sha256 = fingerprint([inputs, rows.classes.tolist()])
    return Measured(
        rows_sha256, rows.classes, providers, openings, noise, single, load, multi, batched, served, fixed, parts
    )


def save_samples(path: Path, run: Measured) -> None:
    """Every sample as an .npz, from which all figures can be derived again."""
    arrays: dict[str, NDArray[Any]] = {
        "engines": np.array(run.single.engines),
        "truth": run.truth,
        "latency_ms": run.single.latency_ms,
        "probabilities": run.single.probabilities,
        "block": run.single.block,
        "noise_latency_ms": run.noise.latency_ms,
        "noise_block": run.noise.block,
        "load_concurrency": np.array(run.load.concurrency),
        "load_completed": run.load.completed,
        "load_elapsed_s": run.load.elapsed_s,
        "load_latency_ms": run.load.latency_ms,
        "load_joules": run.load.joules,
    }
    if run.multi:
        arrays |= {"multi_query_ms": run.multi.query_ms, "multi_block": run.multi.block}
    if run.batched:
        arrays |= {f"offline_{name}": getattr(run.batched, name) for name in ("batch_ms", "batch_rows", "block")}
    if run.server:
        trials = run.server.trials
        arrays |= {
            "server_engines": np.array(run.server.engines),
            "server_engine": np.array([trial.engine for trial in trials]),
            "server_rate_per_s": np.array([trial.rate_per_s for trial in trials]),
            "server_requests": np.array([len(trial.made.sent.due) for trial in trials]),
            "server_dropped": np.array([trial.made.sent.dropped for trial in trials]),
        }
        for name in ("due", "sent", "answered"):
            arrays[f"server_{name}_s"] = np.concatenate([getattr(trial.made.sent, name) for trial in trials])
    for tokens, fixed in (run.fixed or {}).items():
        arrays |= {f"tokens_{tokens}_latency_ms": fixed.latency_ms, f"tokens_{tokens}_block": fixed.block}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _lengths(task: Classification, rows: Sequence[str]) -> Sequence[int] | None:
    """In tokens. Images have no length, and all of them decoded at once might not fit in memory."""
    return task.examples(rows).lengths if len(task.axes) > 1 else None


def _shaped(tokens: int, task: Classification, rows: Sequence[str]) -> list[str]:
    if len(task.axes) == 1:
        raise UsageError(f"measure rows of {tokens} tokens", "images have none", "leave bench.tokens out")
    some = [rows[row] for row in np.linspace(0, len(rows) - 1, min(len(rows), MOST_FIXED_ROWS)).astype(int).tolist()]
    return of_length(some, tokens, lambda texts: _lengths(task, texts) or [])
