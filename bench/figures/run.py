"""A recorded run of `tldeploy bench`: the scorecard of the export, and every engine."""

from __future__ import annotations

from typing import Any

from .table import interval, markdown, spread


def figures(report: dict[str, Any]) -> str:
    """The recorded run as Markdown: the machine, the scorecard and the engines."""
    machine = report["environment"]
    newest = machine["instructions"][-1] if machine["instructions"] else "plain x86_64"
    about = f"{machine['cpu']} ({newest}), {machine['cores']} cores; {report['rows']:,} held-out rows"
    return "\n\n".join([f"Measured on {about}:", variants(report), engines(report)]) + "\n"


def variants(report: dict[str, Any]) -> str:
    rows = [
        [
            entry["name"] + (" (chosen)" if entry["name"] == report["chosen"]["variant"] else ""),
            f"{entry['size_bytes'] / 1e6:.1f}",
            f"{entry['parity']['max_abs_diff']:.0e}",
            interval(entry["metric"]),
            f"{entry['drop']['points']:+.2f} [{entry['drop']['low']:+.2f}, {entry['drop']['high']:+.2f}]",
            spread(entry["speedup"]),
            spread(entry["throughput_speedup"]),
            f"{entry['load_ms']:.0f}",
            f"{entry['memory_mb']:.0f}",
        ]
        for entry in report["variants"]
    ]
    head = [
        "variant",
        "MB",
        "off PyTorch",
        "weighted F1, validation",
        "points lost",
        "times fp32",
        "in batches",
        "load ms",
        "RAM MB",
    ]
    return markdown(head, rows)


def engines(report: dict[str, Any]) -> str:
    levels = list(report["engines"][0]["throughput_per_s"])
    rows = [
        [
            engine["name"],
            *(f"{engine[f'p{share}_ms']:.1f}" for share in (50, 90, 99)),
            *(f"{engine['throughput_per_s'][level]:.0f}" for level in levels),
            interval(engine["metric"]),
            spread(engine["speedup"]),
        ]
        for engine in report["engines"]
    ]
    head = ["engine", "p50 ms", "p90", "p99", *(f"rows/s at {level}" for level in levels)]
    return markdown([*head, "weighted F1, held out", "times PyTorch"], rows)


def all_engines(report: dict[str, Any]) -> str:
    """The run of every engine: its latencies, also where all rows have one length and where several are one query, its
    batches, and what it costs."""
    tokens = next(iter(report["engines"][0]["fixed_shapes"]))
    query = report["engines"][0]["multi_stream"]["query_rows"]
    rows = [
        [
            engine["name"],
            *(f"{engine[f'p{share}_ms']:.1f}" for share in (50, 99)),
            f"{engine['fixed_shapes'][tokens]['p50_ms']:.1f}",
            f"{engine['multi_stream']['p50_ms']:.1f}",
            f"{engine['offline']['rows_per_s']:.0f}",
            f"{max(engine['throughput_per_s'].values()):.0f}",
            f"{engine['metric']['value']:.3f}",
            spread(engine["speedup"]),
            f"{engine['opening']['seconds']:.1f}",
            "" if engine["opening"]["memory_mb"] is None else f"{engine['opening']['memory_mb']:.0f}",
            f"{engine['opening']['size_bytes'] / 1e6:.0f}",
        ]
        for engine in report["engines"]
    ]
    head = [
        "engine",
        "p50 ms",
        "p99",
        f"p50, {tokens} tokens",
        f"p50, {query} rows",
        "rows/s, batches",
        "rows/s, best load",
        "weighted F1",
    ]
    table = markdown([*head, "times PyTorch", "opened in, s", "RAM MB", "MB"], rows)
    return f"{table}\n"


def said(report: dict[str, Any]) -> list[str]:
    """Of the run of every engine."""
    return [f"on {report['rows']:,} of the held-out rows"]
