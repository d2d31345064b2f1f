"""The tables of report.html, one function each, from the report alone."""

from __future__ import annotations

from typing import Any

from tldeploy.benchmarking.page.markup import EMPTY, Cell, number, table, with_interval, words
from tldeploy.benchmarking.report import REFERENCE, Report, metric_words, milliseconds, per_second
from tldeploy.benchmarking.scenarios import SHARES


def engines(report: Report) -> str:
    first = report["engines"][0]
    head = [
        "engine",
        *(_title(name) for name in SHARES),
        *(f"rows/s, {level} client{'s' if level != '1' else ''}" for level in first["throughput_per_s"]),
        metric_words(first["metric"]["name"]),
        f"times {REFERENCE}",
        f"labels as {REFERENCE}",
    ]
    rows = [
        [
            Cell(f"{words(engine['name']).markup} <small>{words(engine['provider']).markup}</small>"),
            *(_percentile(engine, name) for name in SHARES),
            *(number(value, per_second) for value in engine["throughput_per_s"].values()),
            _estimate(engine["metric"], "value", ".3f"),
            _estimate(engine["speedup"], "value", ".2f"),
            number(engine["agreement"], ".1%"),
        ]
        for engine in report["engines"]
    ]
    names = [engine["name"] for engine in report["engines"]]
    return table("engines", head, rows, names.index(report["reported"]["engine"]))


def scenarios(report: Report) -> str:
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
    return table("scenarios", head, rows)


def server(report: Report) -> str:
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
    return table("server", head, rows) if rows else ""


def scorecard(report: Report) -> str:
    """The export stage's variants, as far as its manifest says something of each."""
    metric = metric_words(report["engines"][0]["metric"]["name"])
    head = [
        "variant",
        "MB",
        "p50 ms",
        "times fp32",
        "times fp32, in batches",
        "load ms",
        "memory MB",
        metric,
        "points lost",
        "labels as fp32",
        "max difference from PyTorch",
        "",
        "why",
    ]
    rows = [
        [
            words(variant["name"]),
            number(variant.get("size_bytes"), lambda size: f"{size / 1e6:.1f}"),
            number(variant.get("p50_ms"), milliseconds),
            _estimate(variant.get("speedup"), "value", ".2f"),
            _estimate(variant.get("throughput_speedup"), "value", ".2f"),
            number(variant.get("load_ms"), milliseconds),
            number(variant.get("memory_mb"), ".1f"),
            _estimate(variant.get("metric"), "value", ".3f"),
            _estimate(variant.get("drop"), "points", "+.2f"),
            number((variant.get("drop") or {}).get("agreement"), ".1%"),
            number((variant.get("parity") or {}).get("max_abs_diff"), ".1e"),
            EMPTY if variant.get("kept") is None else words(_became(variant)),
            words(variant.get("reason") or ""),
        ]
        for variant in report["variants"]
    ]
    names = [variant["name"] for variant in report["variants"]]
    return table("scorecard", head, rows, _place(report["chosen"]["variant"], names))


def confusion(report: Report) -> str:
    """Rows are true classes, columns answered ones; the shade of a cell is its share of the true class."""
    rows = [
        [words(label), *(number(count, ",d", shade=count / max(sum(counts), 1)) for count in counts)]
        for label, counts in zip(report["labels"], report["reported"]["confusion"], strict=True)
    ]
    return table("confusion", ["true ↓  answered →", *report["labels"]], rows)


def classes(report: Report) -> str:
    rows = [
        [
            words(found["label"]),
            *(number(found[name], ".3f") for name in ("f1", "precision", "recall")),
            number(found["support"], ",d"),
        ]
        for found in report["reported"]["classes"]
    ]
    return table("classes", ["class", "F1", "precision", "recall", "rows"], rows)


def methods(report: Report) -> str:
    """With another domain, the label-free score that one was chosen by is a column of its own."""
    is_scored = any("score" in found for found in report["methods"].values())
    rows = [
        [
            words(method),
            _estimate(found.get("validation"), "value", ".3f"),
            _estimate(found.get("test"), "value", ".3f"),
            *([number(found.get("score"), ".3f")] if is_scored else []),
            number(found.get("seconds"), ".1f"),
        ]
        for method, found in report["methods"].items()
    ]
    kept = [choice["value"] for choice in report["decisions"] if choice["about"] == "method"]
    marked = _place(kept[0], list(report["methods"])) if kept else None
    head = ["method", f"{'source ' if is_scored else ''}validation rows", "held-out rows"]
    return table("methods", [*head, *(["label-free score"] if is_scored else []), "seconds"], rows, marked)


def decisions(report: Report) -> str:
    rows = [[words(choice[part]) for part in ("about", "value", "reason", "stage")] for choice in report["decisions"]]
    return table("decisions", ["about", "chosen", "because", "stage"], rows)


def environment(report: Report) -> str:
    rows = [[words(name), words(value)] for name, value in _lines(report["environment"])]
    return table("environment", ["what", "found"], rows)


def lineage(report: Report) -> str:
    rows = [[words(kind), words(digest)] for kind, digest in report["parents"].items()]
    return table("lineage", ["artifact", "sha256 of its manifest"], rows)


def _became(variant: dict[str, Any]) -> str:
    """Refused ones are deleted unless they were to be kept."""
    return "kept" if variant["kept"] else "refused" if variant.get("file") else "refused, deleted"


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


def _estimate(found: dict[str, Any] | None, name: str, show: str) -> Cell:
    return EMPTY if found is None else with_interval(found[name], found["low"], found["high"], show)


def _place(wanted: Any, names: list[str]) -> int | None:
    return names.index(wanted) if wanted in names else None


def _lines(values: dict[str, Any], place: str = "") -> list[tuple[str, Any]]:
    """Nested settings as lines `outer.inner`, a list of plain values as one line."""
    lines: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{place}{key}.")
        elif isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
            lines.append((f"{place}{key}", ", ".join(map(str, value)) or "none"))
        else:
            lines.append((f"{place}{key}", value))
    return lines
