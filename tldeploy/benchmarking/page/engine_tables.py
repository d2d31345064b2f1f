"""What was measured of the engines, one function a table, from the report alone."""

from __future__ import annotations

from typing import Any

from tldeploy.benchmarking.page.markup import EMPTY, Cell, Table, number, with_interval, words
from tldeploy.benchmarking.report import REFERENCE, Report, metric_words, milliseconds, per_second
from tldeploy.benchmarking.scenarios import SHARES
from tldeploy.measuring.parts import BETWEEN, OUTSIDE


def engines(report: Report) -> Table:
    first = report["engines"][0]
    head = [
        "engine",
        *(_title(name) for name in SHARES),
        *(f"rows/s, {clients_words(level)}" for level in first["throughput_per_s"]),
        metric_words(first["metric"]["name"]),
        f"times {REFERENCE}",
        f"labels as {REFERENCE}",
    ]
    rows = [
        [
            words(engine["name"], engine["provider"]),
            *(_percentile(engine, name) for name in SHARES),
            *(number(value, per_second) for value in engine["throughput_per_s"].values()),
            estimate(engine["metric"], "value", ".3f"),
            estimate(engine["speedup"], "value", ".2f"),
            number(engine["agreement"], ".1%"),
        ]
        for engine in report["engines"]
    ]
    names = [engine["name"] for engine in report["engines"]]
    return Table("engines", head, rows, names.index(report["reported"]["engine"]))


def scenarios(report: Report) -> Table:
    """What was measured besides single requests and concurrent clients; columns of what was not run are left out."""
    first = report["engines"][0]
    shapes = list(first["fixed_shapes"])
    size = (first["multi_stream"] or {"query_rows": 0})["query_rows"]
    head = [
        "engine",
        *(f"query of {size} rows, {_title(name)}" for name in ("p50_ms", "p99_ms")),
        "rows/s in batches",
        "highest rate/s within the bound",
        *(f"{tokens} tokens, p50 ms" for tokens in shapes),
        "warm-up, requests",
        "warm-up, s",
        "",
    ]
    rows = [
        [
            words(engine["name"]),
            *(_percentile(engine["multi_stream"] or {}, name) for name in ("p50_ms", "p99_ms")),
            number((engine["offline"] or {}).get("rows_per_s"), per_second),
            number((engine["server"] or {}).get("highest_rate_per_s"), per_second),
            *(_percentile(engine["fixed_shapes"][tokens], "p50_ms") for tokens in shapes),
            number(engine["warm_up"]["requests"], ",d"),
            number(engine["warm_up"]["seconds"], ".1f"),
            EMPTY if engine["warm_up"]["settled"] else words("never settled"),
        ]
        for engine in report["engines"]
    ]
    return Table("scenarios", head, rows)


def server(report: Report) -> Table:
    """Every trial of the Server scenario."""
    head = ["engine", "rate/s", "answered/s", "p50 ms", "p99 ms", "over the bound", "requests", "sent late, p99 ms"]
    head += ["generator's share of a core", "bound", "figures of"]
    rows = [
        [
            words(engine["name"]),
            *(number(trial[name], ".1f") for name in ("rate_per_s", "answered_per_s")),
            *(_percentile(trial, name) for name in ("p50_ms", "p99_ms")),
            *(number(trial[name], ",d") for name in ("over_bound", "samples")),
            number(trial["generator"]["late_ms"][1], ".2f"),
            number(trial["generator"]["cpu_share"], ".0%"),
            words("kept" if trial["keeps_bound"] else "not kept"),
            words("the server" if trial["generator"]["kept_up"] else "the generator"),
        ]
        for engine in report["engines"]
        for trial in (engine["server"] or {"trials": []})["trials"]
    ]
    return Table("server", head, rows)


def parts(report: Report) -> Table:
    """ms a request spent in each part, engine by engine and by the number of clients."""
    found = [
        (engine["name"], clients, part)
        for engine in report["engines"]
        for clients, part in (engine.get("parts") or {}).items()
    ]
    names = list(dict.fromkeys(name for _, _, part in found for name in parts_by_name(part)))
    rows = [
        [
            words(engine, clients_words(clients)),
            *(number(parts_by_name(part).get(name), ".2f") for name in names),
            number(part["all_ms"], ".2f"),
            *(number(step["rows_per_run"], ".2f") for step in part["steps"][-1:]),
        ]
        for engine, clients, part in found
    ]
    return Table("parts", ["engine", *names, "all, ms", "rows in a run of the graph"], rows)


def opening(report: Report) -> Table:
    """What an engine costs before it answers, where the run measured it."""
    rows = [
        [
            words(engine["name"]),
            number(cost.get("seconds"), ".2f"),
            number(cost.get("memory_mb"), ".0f"),
            number(cost.get("size_bytes"), lambda size: f"{size / 1e6:.1f}"),
        ]
        for engine in report["engines"]
        if (cost := engine.get("opening"))
    ]
    return Table("opening", ["engine", "opened in, s", "memory MB", "on disk MB"], rows)


def parts_by_name(part: dict[str, Any]) -> dict[str, float]:
    """ms of each part of a request, in the order in which it meets them."""
    steps = {
        f"{step['name']}: {name}": step[f"{name}_ms"]
        for step in part["steps"]
        for name in ("queue", "input", "infer", "output")
    }
    return {OUTSIDE: part["outside_ms"], **steps, BETWEEN: part["between_ms"]}


def clients_words(clients: str) -> str:
    return f"{clients} client{'s' if clients != '1' else ''}"


def _percentile(engine: dict[str, Any], name: str) -> Cell:
    """Empty where the samples cannot carry it; without the interval where they give it no upper end."""
    if (interval := engine.get(f"{name}_interval")) is None:
        return EMPTY
    low, high = interval
    if high is None:
        return number(engine[name], milliseconds)
    return with_interval(engine[name], low, high, milliseconds)


def _title(name: str) -> str:
    return name.removesuffix("_ms").replace("_", ".") + " ms"


def estimate(found: dict[str, Any] | None, name: str, show: str) -> Cell:
    return EMPTY if found is None else with_interval(found[name], found["low"], found["high"], show)
