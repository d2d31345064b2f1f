"""What each scenario says of an engine, as the report has it. Percentiles that samples cannot carry are None.

One function a scenario: samples in, JSON out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.load.health import MOST_CPU, MOST_LATE
from tldeploy.measuring.scenarios import ClosedLoop, MultiStream, Offline, Server, SingleStream, Trial, neighbours
from tldeploy.measuring.statistics import percentiles

SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99, "p99_9_ms": 0.999}


def latencies(latency_ms: NDArray[np.float64], block: NDArray[np.int64], queued: bool = False) -> dict[str, Any]:
    """Each percentile with its interval; `needed`: how many samples it takes for both ends of it."""
    found = dict(zip(SHARES, percentiles(latency_ms, block, list(SHARES.values()), queued=queued), strict=True))
    return {
        **{name: percentile.found and percentile.found.value for name, percentile in found.items()},
        **{f"{name}_interval": percentile.interval for name, percentile in found.items()},
        "samples": len(latency_ms),
        "needed": {name: percentile.needed for name, percentile in found.items()},
    }


def closed_loop(load: ClosedLoop, engine: int) -> dict[str, Any]:
    """By number of clients. generator: whether the process that made the load kept up; None where threads made it.

    joules_per_request: of all that the machine drew meanwhile; None where it does not tell.
    """
    completed, elapsed_s = load.completed[engine], load.elapsed_s[engine]
    found = {}
    for at, clients in enumerate(load.concurrency):
        latency_ms = load.latencies_ms(engine, at)
        figures = latencies(latency_ms, neighbours(len(latency_ms)), queued=True)
        health, joules = load.health.get((engine, at)), load.joules[engine, at].sum()
        found[str(clients)] = {
            "rounds_per_s": (completed[at] / elapsed_s[at]).tolist(),
            **{name: figures[name] for name in ("p50_ms", "p99_ms", "samples")},
            "generator": health and health.as_json(),
            "joules_per_request": float(joules / completed[at].sum()) if np.isfinite(joules) else None,
        }
    return found


def multi_stream(run: MultiStream | None, engine: int) -> dict[str, Any] | None:
    return None if run is None else {"query_rows": run.query_rows, **latencies(run.query_ms[engine], run.block)}


def offline(run: Offline | None, engine: int) -> dict[str, Any] | None:
    return None if run is None else {"rows_per_s": run.rows_per_s(engine), "batch_rows": int(run.batch_rows[0])}


def fixed_shapes(runs: Mapping[int, SingleStream], engine: int) -> dict[str, Any]:
    """By tokens of a row."""
    return {str(tokens): latencies(run.latency_ms[engine], run.block) for tokens, run in runs.items()}


def server(run: Server | None, engine: str) -> dict[str, Any] | None:
    """The highest rate that kept the bound, and every trial by its rate; None for an engine that is no server."""
    if run is None or engine not in run.engines:
        return None
    place = run.engines.index(engine)
    trials = sorted((trial for trial in run.trials if trial.engine == place), key=lambda trial: trial.rate_per_s)
    return {
        "p99_bound_ms": run.bound_ms,
        "highest_rate_per_s": run.highest_rate(place),
        "trials": [_trial(trial, run.bound_ms) for trial in trials],
    }


def _trial(trial: Trial, bound_ms: float) -> dict[str, Any]:
    sent = trial.made.sent
    return {
        "rate_per_s": trial.rate_per_s,
        "answered_per_s": len(sent.due) / sent.elapsed_s,
        "keeps_bound": trial.keeps(bound_ms),
        "over_bound": int((sent.latency_ms > bound_ms).sum()) + sent.dropped,
        "dropped": sent.dropped,
        **latencies(sent.latency_ms, trial.block, queued=True),
        "generator": trial.made.health.as_json(),
    }


def generator_words(engine: str, scenarios: Mapping[str, Any]) -> str | None:
    """A sentence about an engine's load where the process that made it did not keep up; scenarios: of the engine."""
    rounds = [(f"{clients} clients", level["generator"]) for clients, level in scenarios["closed_loop"].items()]
    rounds += [
        (f"{trial['rate_per_s']:.0f}/s", trial["generator"])
        for trial in (scenarios["server"] or {"trials": []})["trials"]
    ]
    behind = [what for what, health in rounds if health is not None and not health["kept_up"]]
    if not behind:
        return None
    return (
        f"{engine}: at {', '.join(behind)} the figures are in part the load generator's: it used over {MOST_CPU:.0%} "
        f"of a core, or sent over {MOST_LATE:.0%} of the latency late; it may want a core, or a machine, of its own"
    )
