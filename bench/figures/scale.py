"""How time and memory grow, out of scale.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.measuring.statistics import Estimate, mean_of_rounds, ratio_of_rounds

from .table import markdown, spread

# What is expected of a pass over rows.
LAWS = {
    "tune: read, split, look for faults": "n log n",
    "tune: tokenize": "1",
    "tune: all rows through a tiny network": "1",
    "export: choose 256 rows to calibrate on": "n log n",
    "export: metric and loss, with intervals": "n log n",
    "bench: send every row alone, in no time": "1",
    "bench: statistics of six engines": "n log n",
    "bench: report.html": "1",
    "bench: samples.npz": "1",
}


def slope(sizes: Sequence[float], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exponent of values [..., sizes] as a power of the sizes, by least squares of the logarithms."""
    x = np.log(np.asarray(sizes, dtype=np.float64))
    x -= x.mean()
    found: NDArray[np.float64] = (np.log(values) @ x) / (x @ x)
    return found


def exponent(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> Estimate:
    """The mean over rounds of the slope that each gives with all its sizes. rounds: ms [sizes, rounds]."""
    return mean_of_rounds(slope(sizes, np.array(rounds).T))


def page(report: dict[str, Any]) -> str:
    """scale.md."""
    about = (
        f"{report['environment']['cpu']}, one thread, geometric means of interleaved rounds. Exponent: of the time as "
        "a power of what grows, with its 95 % interval; last step: between the two largest sizes; theory: the exponent "
        "that the counted operations of the matrix products have over the same sizes, or what is expected."
    )
    return "\n\n".join([about, summary(report["results"]), *map(details, report["results"].values())]) + "\n"


def summary(results: dict[str, Any]) -> str:
    """One line a sweep and engine."""
    lines = []
    for result in results.values():
        for engine, found in result["engines"].items():
            sizes = found.get("sizes") or result["sizes"]
            typical = [ratio_of_rounds(rounds, 1).value for rounds in found["rounds_ms"]]
            last = exponent(sizes[-2:], found["rounds_ms"][-2:])
            law = f"{slope(sizes, np.array(result['law'])):.2f}" if "law" in result else LAWS[engine]
            lines.append(
                [
                    f"{result['grows']}: {engine}",
                    f"{sizes[0]:,} to {sizes[-1]:,}",
                    f"{number(typical[0])} to {number(typical[-1])}",
                    spread(exponent(sizes, found["rounds_ms"])),
                    spread(last),
                    law,
                    f"{found['peak_mb'][0]:.0f} to {found['peak_mb'][-1]:.0f}" if "peak_mb" in found else "",
                ]
            )
    return markdown(["what grows", "from, to", "ms", "exponent", "last step", "theory", "peak MB"], lines)


def details(result: dict[str, Any]) -> str:
    """Every size of a sweep: the ms that it took, with their interval, and the peak of memory where it was measured."""
    rows = []
    for engine, found in result["engines"].items():
        sizes = found.get("sizes") or result["sizes"]
        peaks = found.get("peak_mb") or [None] * len(sizes)
        for size, rounds, peak in zip(sizes, found["rounds_ms"], peaks, strict=True):
            ms = ratio_of_rounds(rounds, 1)
            took = f"{number(ms.value)} [{number(ms.low)}, {number(ms.high)}]"
            rows.append([engine, f"{size:,}", took, "" if peak is None else f"{peak:.0f}"])
    return markdown([result["grows"], "size", "ms", "peak MB"], rows)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def overview(report: dict[str, Any]) -> str:
    """bench/README.md's table: a line a sweep of graphs, both engines in it."""
    rows = []
    for result in report["results"].values():
        if "law" not in result:
            continue
        fp32, int8 = (result["engines"][name] for name in ("fp32", "int8-dynamic"))
        least, most = (ratio_of_rounds(fp32["rounds_ms"][at], 1).value for at in (0, -1))
        rows.append(
            [
                result["grows"],
                f"{result['sizes'][0]:,} to {result['sizes'][-1]:,}",
                f"{number(least)} to {number(most)}",
                *(spread(exponent(result["sizes"], found["rounds_ms"])) for found in (fp32, int8)),
                f"{slope(result['sizes'], np.array(result['law'])):.2f}",
                *(f"{found['peak_mb'][0]:.0f} to {found['peak_mb'][-1]:.0f}" for found in (fp32, int8)),
            ]
        )
    head = ["what grows", "from, to", "fp32 ms", "fp32", "int8-dynamic", "theory", "fp32 peak MB", "int8 peak MB"]
    return markdown(head, rows) + "\n"


def said(report: dict[str, Any]) -> list[str]:
    results = report["results"]
    length, width, rows, written = (results[name] for name in ("length", "hidden", "rows", "report"))
    fp32, int8 = (
        exponent(length["sizes"][-2:], length["engines"][name]["rounds_ms"][-2:]).value
        for name in ("fp32", "int8-dynamic")
    )
    theory = float(slope(length["sizes"][-2:], np.array(length["law"][-2:])))
    narrow, wide = (
        width["law"][at] / ratio_of_rounds(width["engines"]["fp32"]["rounds_ms"][at], 1).value / 1e6 for at in (0, -1)
    )
    grown = {name: _grown(found) for name, found in (rows["engines"] | written["engines"]).items()}
    took = {name: ratio_of_rounds(found["rounds_ms"][-1], 1).value / 1000 for name, found in written["engines"].items()}
    last = _grown(written["engines"]["bench: statistics of six engines"], steps=2)
    return [
        f"From {length['sizes'][-2]} to {length['sizes'][-1]} tokens time grows with {fp32:.2f} (int8: {int8:.2f}), "
        f"and the operations with {theory:.2f}",
        f"({narrow:.0f} Gop/s at {width['sizes'][0]} in fp32, {wide:.0f} at {width['sizes'][-1]})",
        f"reading, splitting and looking for faults with {grown['tune: read, split, look for faults']}",
        f"tokenizing with {grown['tune: tokenize']}",
        f"a network's pass with {grown['tune: all rows through a tiny network']}",
        f"took {took['bench: statistics of six engines']:.1f} s of statistics, {took['bench: report.html']:.1f} s for "
        f"report.html and {took['bench: samples.npz']:.1f} s for samples.npz",
        f"Its last step was {last}",
    ]


def _grown(found: dict[str, Any], steps: int = 0) -> str:
    """The exponent over the last so many sizes; 0: over all."""
    return spread(exponent(found["sizes"][-steps:], found["rounds_ms"][-steps:]))
