"""What the stages decided and found before and around the run, one function a table, from the report alone."""

from __future__ import annotations

from typing import Any

from tldeploy.benchmarking.page.engine_tables import estimate
from tldeploy.benchmarking.page.markup import EMPTY, Table, number, words
from tldeploy.benchmarking.report import Report, flat, metric_words, milliseconds


def scorecard(report: Report) -> Table:
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
            estimate(variant.get("speedup"), "value", ".2f"),
            estimate(variant.get("throughput_speedup"), "value", ".2f"),
            number(variant.get("load_ms"), milliseconds),
            number(variant.get("memory_mb"), ".1f"),
            estimate(variant.get("metric"), "value", ".3f"),
            estimate(variant.get("drop"), "points", "+.2f"),
            number((variant.get("drop") or {}).get("agreement"), ".1%"),
            number((variant.get("parity") or {}).get("max_abs_diff"), ".1e"),
            EMPTY if variant.get("kept") is None else words(_became(variant)),
            words(variant.get("reason") or ""),
        ]
        for variant in report["variants"]
    ]
    names = [variant["name"] for variant in report["variants"]]
    return Table("scorecard", head, rows, _place(report["chosen"]["variant"], names))


def methods(report: Report) -> Table:
    """With another domain, the label-free score that one was chosen by is a column of its own."""
    is_scored = any("score" in found for found in report["methods"].values())
    rows = [
        [
            words(method),
            estimate(found.get("validation"), "value", ".3f"),
            estimate(found.get("test"), "value", ".3f"),
            *([number(found.get("score"), ".3f")] if is_scored else []),
            number(found.get("seconds"), ".1f"),
        ]
        for method, found in report["methods"].items()
    ]
    kept = [choice["value"] for choice in report["decisions"] if choice["about"] == "method"]
    marked = _place(kept[0], list(report["methods"])) if kept else None
    head = ["method", f"{'source ' if is_scored else ''}validation rows", "held-out rows"]
    return Table("methods", [*head, *(["label-free score"] if is_scored else []), "seconds"], rows, marked)


def decisions(report: Report) -> Table:
    rows = [[words(choice[part]) for part in ("about", "value", "reason", "stage")] for choice in report["decisions"]]
    return Table("decisions", ["about", "chosen", "because", "stage"], rows)


def environment(report: Report) -> Table:
    rows = [[words(name), words(value)] for name, value in flat(report["environment"])]
    return Table("environment", ["what", "found"], rows)


def lineage(report: Report) -> Table:
    rows = [[words(kind), words(digest)] for kind, digest in report["parents"].items()]
    return Table("lineage", ["artifact", "sha256 of its manifest"], rows)


def _became(variant: dict[str, Any]) -> str:
    """Refused ones are deleted unless they were to be kept."""
    return "kept" if variant["kept"] else "refused" if variant.get("file") else "refused, deleted"


def _place(wanted: Any, names: list[str]) -> int | None:
    return names.index(wanted) if wanted in names else None
