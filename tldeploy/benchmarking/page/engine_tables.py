"""What was measured of the engines, one function a table, from the report alone."""

from __future__ import annotations

from typing import Any

from tldeploy.benchmarking.page.markup import EMPTY, Cell, Table, number, with_interval, words
from tldeploy.benchmarking.remarks import MOST_OPERATORS
from tldeploy.benchmarking.report import REFERENCE, Report, metric_words, milliseconds, per_second
from tldeploy.benchmarking.scenarios import SHARES
from tldeploy.measuring.parts import Parts

UNSURE = "unsure: too few requests"


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
    """What was measured besides single requests and concurrent clients; what was not run of an engine is left out."""
    first = report["engines"][0]
    shapes = list(first["fixed_shapes"])
    size = (first["multi_stream"] or {"query_rows": 0})["query_rows"]
    head = [
        "engine",
        *(f"query of {size} rows, {_title(name)}" for name in ("p50_ms", "p99_ms")),
        "rows/s in batches",
        f"highest rate/s, p99 within {_bound(report)}",
        *(f"{tokens} tokens, p50 ms" for tokens in shapes),
    ]
    rows = [
        [
            words(engine["name"]),
            *(_percentile(engine["multi_stream"] or {}, name) for name in ("p50_ms", "p99_ms")),
            number((engine["offline"] or {}).get("rows_per_s"), per_second),
            _highest(engine["server"]),
            *(_percentile(engine["fixed_shapes"][tokens], "p50_ms") for tokens in shapes),
        ]
        for engine in report["engines"]
    ]
    return Table("scenarios", head, [row for row in rows if any(cell.markup for cell in row[1:])])


def server(report: Report) -> Table:
    """Every trial of the Server scenario."""
    head = [
        "engine",
        "rate/s",
        "answered/s",
        "p50 ms",
        "p99 ms",
        f"over {_bound(report)}",
        "requests",
        "sent late, p99 ms",
    ]
    head += ["generator's share of a core", f"p99 within {_bound(report)}", "figures of"]
    rows = [
        [
            words(engine["name"]),
            *(number(trial[name], ".1f") for name in ("rate_per_s", "answered_per_s")),
            _percentile(trial, "p50_ms"),
            _percentile(trial, "p99_ms") if trial["p99_ms"] is not None else _needs(trial),
            *(number(trial[name], ",d") for name in ("over_bound", "samples")),
            number(trial["generator"]["late_ms"][1], ".2f"),
            number(trial["generator"]["cpu_share"], ".0%"),
            words("kept", "" if trial["p99_ms"] is not None else UNSURE) if trial["keeps_bound"] else words("not kept"),
            words("the server" if trial["generator"]["kept_up"] else "the generator"),
        ]
        for engine in report["engines"]
        for trial in (engine["server"] or {"trials": []})["trials"]
    ]
    return Table("server", head, rows)


def parts(report: Report) -> Table:
    """ms a request spent in each part, engine by engine and by the number of clients."""
    found = [
        (engine["name"], clients, Parts.from_json(part))
        for engine in report["engines"]
        for clients, part in (engine.get("parts") or {}).items()
    ]
    names = list(dict.fromkeys(name for _, _, part in found for name in part.by_name()))
    rows = [
        [
            words(engine, clients_words(clients)),
            *(number(part.by_name().get(name), ".2f") for name in names),
            number(part.all_ms, ".2f"),
            *(number(step.rows_per_run, ".2f") for step in part.steps[-1:]),
        ]
        for engine, clients, part in found
    ]
    return Table("parts", ["engine", *names, "all, ms", "rows in a run of the graph"], rows)


def opening(report: Report) -> Table:
    """What an engine costs before it answers, where that was measured, and until it answers as fast as it can."""
    rows = [
        [
            words(engine["name"]),
            number(cost.get("seconds"), ".2f"),
            number(cost.get("memory_mb"), ".0f"),
            number(cost.get("size_bytes"), lambda size: f"{size / 1e6:.1f}"),
            number(engine["warm_up"]["requests"], ",d"),
            number(engine["warm_up"]["seconds"], ".1f"),
            EMPTY if engine["warm_up"]["settled"] else words("never settled"),
        ]
        for engine in report["engines"]
        for cost in [engine.get("opening") or {}]
    ]
    head = ["engine", "opened in, s", "memory MB", "on disk MB", "warm-up, requests", "warm-up, s", ""]
    return Table("opening", head, rows)


def placement(report: Report) -> Table:
    """Which execution provider runs the nodes, and what it takes of the host's time; empty where nobody tells."""
    rows = [
        [
            words(engine["name"]),
            words(found["provider"]),
            number(found["nodes"], ",d"),
            number(found["share"], ".1%"),
            words(_operators(found["operators"], MOST_OPERATORS if at == 0 else None)),
        ]
        for engine in report["engines"]
        for at, found in enumerate(engine.get("placement") or [])
    ]
    return Table("placement", ["engine", "execution provider", "nodes", "of the host's time", "of which"], rows)


def _operators(nodes: dict[str, int], most: int | None) -> str:
    """The most frequent ones; None for all, which is said of what lies elsewhere than most of the graph."""
    named = [f"{operator} {count}" for operator, count in nodes.items()]
    return ", ".join([*named[:most], *(["…"] if most is not None and len(named) > most else [])])


def bound_ms(report: Report) -> float | None:
    """Of the p99 of requests at random; None where there were none."""
    found = [engine["server"]["p99_bound_ms"] for engine in report["engines"] if engine["server"]]
    return float(found[0]) if found else None


def clients_words(clients: str) -> str:
    return f"{clients} client{'s' if clients != '1' else ''}"


def _bound(report: Report) -> str:
    found = bound_ms(report)
    return "the bound" if found is None else f"{found:g} ms"


def _highest(server: dict[str, Any] | None) -> Cell:
    """The highest rate that kept the bound, with a doubt where its requests were too few to know a p99."""
    if server is None or (rate := server["highest_rate_per_s"]) is None:
        return EMPTY if server is None else words("none")
    trial = next(trial for trial in server["trials"] if trial["rate_per_s"] == rate)
    return number(rate, per_second, small="" if trial["p99_ms"] is not None else UNSURE)


def _needs(trial: dict[str, Any]) -> Cell:
    needed = f"needs {trial['needed']['p99_ms']:,}"
    return Cell(needed, needed, is_number=True)


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
