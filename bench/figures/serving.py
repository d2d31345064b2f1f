"""What serving adds to a graph, out of serving.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from tldeploy.measuring.statistics import Estimate, ratio_of_rounds

from .table import markdown, spread

PROTOCOLS = ("http", "grpc", "shared memory")
ALONE, IN_BATCHES = "in-process, one at a time", "in-process, in batches of 8"
SERVED, OFF = "served", "served, batching off"
SERVED_FIGURES = ("p50_ms", "p99_ms", "rows_at_a_time")


def page(report: dict[str, Any]) -> str:
    """The whole of serving.md."""
    results = report["results"]
    rounds = len(next(iter(results.values()))["engines"][SERVED]["rate"])
    about = (
        f"{report['environment']['cpu']}; the graph on one core and one thread, all else on another; unpinned, all of "
        "them and the graph's threads, one a core, where the kernel puts them. Medians of "
        f"{rounds} interleaved rounds; ratios are geometric means with their 95 % interval."
    )
    return "\n\n".join([about, *(_subject(name, result) for name, result in results.items())]) + "\n"


def _subject(name: str, result: dict[str, Any]) -> str:
    rows = []
    for engine, taken in result["engines"].items():
        others = [spread(_times(result, engine, base)) for base in (OFF, ALONE)]
        served = [f"{np.median(taken[what]):.1f}" if what in taken else "" for what in SERVED_FIGURES]
        rows.append([engine, f"{_rate(result, engine):.0f}", *others, *served])
    head = [f"{name}, {result['clients']} clients", "rows/s", "times batching off", "times one at a time"]
    load = markdown([*head, "p50 ms", "p99 ms", "rows at a time"], rows)
    parts = result["parts"]["http"]
    lines = [[part, *(f"{_ms(result, protocol, part):.2f}" for protocol in PROTOCOLS)] for part in parts]
    return f"{load}\n\n{markdown([f'{name}, one client, ms of a request', *PROTOCOLS], lines)}"


def summary(report: dict[str, Any]) -> str:
    """bench/README.md's table: texts with many clients."""
    result = report["results"]["text"]
    rows = [
        [
            {IN_BATCHES: "in-process, batches of 8 of similar lengths, all rows known beforehand"}.get(engine, engine),
            f"{_rate(result, engine):.0f}",
            *("1" if engine == base else spread(_times(result, engine, base)) for base in (OFF, ALONE)),
        ]
        for engine in (SERVED, OFF, ALONE, IN_BATCHES)
    ]
    return markdown(["", "rows/s", "times batching off", "times in-process, one at a time"], rows) + "\n"


def said(report: dict[str, Any]) -> list[str]:
    text, unpinned, images = (report["results"][name] for name in ("text", "text-unpinned", "images"))
    whole = [_ms(text, protocol, "all") for protocol in PROTOCOLS]
    graph = [_ms(text, protocol, "graph: infer") for protocol in PROTOCOLS]
    tokenize = [_ms(text, protocol, "tokenize: infer") for protocol in PROTOCOLS]
    queues = [_ms(text, protocol, "tokenize: queue") + _ms(text, protocol, "graph: queue") for protocol in PROTOCOLS]
    output = sorted(_ms(text, protocol, "graph: output") for protocol in PROTOCOLS)
    return [
        f"served rows are {spread(_times(unpinned, SERVED, OFF))} times those with batching off and "
        f"{spread(_times(unpinned, SERVED, ALONE))} times in-process ones",
        f"With one client a request takes {whole[0]:.1f} ms over HTTP, {whole[1]:.1f} over gRPC and {whole[2]:.1f} by "
        "shared memory",
        f"Of these the graph's worker takes {_range(graph, '.1f')}, tokenizing {_range(tokenize, '.1f')}, the queues "
        f"{_range(queues, '.2f')}",
        f"In-process a row takes {1000 / _rate(text, ALONE):.1f} ms in a closed loop",
        f"counted as the graph's output: {output[0]:.1f} to {output[-1]:.1f} ms",
        f"{_rate(images, SERVED):.0f} rows a second served, batching off and in-process alike "
        f"({spread(_times(images, SERVED, OFF))} and {spread(_times(images, SERVED, ALONE))} times)",
        f"Decoding takes {_ms(images, 'http', 'decode: infer'):.0f} of the {_ms(images, 'http', 'all'):.0f} ms",
    ]


def _times(result: dict[str, Any], engine: str, base: str) -> Estimate:
    return ratio_of_rounds(result["engines"][engine]["rate"], result["engines"][base]["rate"])


def _rate(result: dict[str, Any], engine: str) -> float:
    return float(np.median(result["engines"][engine]["rate"]))


def _ms(result: dict[str, Any], protocol: str, part: str) -> float:
    return float(np.median(result["parts"][protocol][part]))


def _range(values: list[float], form: str) -> str:
    ends = sorted({format(value, form) for value in values}, key=float)
    return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
