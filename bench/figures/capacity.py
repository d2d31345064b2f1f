"""How many replicas, out of the recorded run of `tldeploy bench`: by hand, and as `tldeploy capacity` says it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tldeploy.benchmarking.capacity import footing, plan
from tldeploy.benchmarking.older import read_older
from tldeploy.cli.capacity import RATES

from .table import markdown

BOUND_MS, COST_PER_HOUR, RATE, SHARE = 50.0, 0.10, 1000, 0.6
ENGINE = "triton http"


def table(file: Path) -> str:
    """That of `tldeploy capacity models/review-sentiment --p99 50ms --cost-per-hour 0.10`, had the recorded report been
    the last of that model."""
    found = footing(read_older(file).report, BOUND_MS)
    rows = [
        [
            f"{planned.rate_per_s:,.0f}",
            f"{planned.replicas:,}",
            f"{planned.utilisation:.0%}",
            "-" if planned.wait_ms is None else f"{planned.wait_ms:.2f}",
            f"{planned.utilisation_one_lost:.0%}",
            "-" if planned.wait_ms_one_lost is None else f"{planned.wait_ms_one_lost:.2f}",
            f"{planned.cost_per_million:.2f}",
        ]
        for planned in (plan(found, rate, COST_PER_HOUR) for rate in RATES)
    ]
    head = ["requests/s", "replicas", "busy", "wait ms", "one lost: busy", "wait ms", "cost per million"]
    about = (
        f"{found.engine}, p99 within {found.bound_ms:g} ms, {found.rate_per_s:.0f} requests a second a replica "
        f"({found.scenario}, {found.level}), {COST_PER_HOUR:.2f} an hour each:"
    )
    return f"{about}\n\n{markdown(head, rows)}\n"


def example(report: dict[str, Any]) -> str:
    """Each number of clients: what a replica does at SHARE of its slowest round, and how many RATE takes."""
    rows = []
    engine = _engine(report)
    for clients, loop in engine["closed_loop"].items():
        planned = SHARE * min(loop["rounds_per_s"])
        rates = [f"{engine['throughput_per_s'][clients]:.0f}", f"{min(loop['rounds_per_s']):.0f}"]
        wait = "" if loop["p99_ms"] is None else f"{loop['p99_ms']:.1f}"
        rows.append([clients, *rates, wait, f"{planned:.0f}", f"{math.ceil(RATE / planned)} + 1"])
    head = ["clients", "rows/s", "slowest round", "p99 ms", f"{SHARE:.0%}".replace("%", " %")]
    return markdown([*head, f"replicas for {RATE:,} rows/s"], rows) + "\n"


def said(report: dict[str, Any]) -> list[str]:
    server = _engine(report)["server"]
    kept = server["highest_rate_per_s"]
    replicas = math.ceil(RATE / kept)
    return [
        f"kept {server['p99_bound_ms']:g} ms up to {kept:.0f} a second only",
        f"no more than {kept:.0f} may be planned for: {replicas} replicas and one more, {2 * (replicas + 1)} cores",
    ]


def _engine(report: dict[str, Any]) -> dict[str, Any]:
    (engine,) = (engine for engine in report["engines"] if engine["name"] == ENGINE)
    return dict(engine)
