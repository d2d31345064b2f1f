"""The plots of what was measured of the engines, drawn by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.benchmarking.page.drawing import (
    GREY,
    HUES,
    Point,
    colours,
    dashes,
    dressed,
    figure,
    log_axis,
    short,
    worth,
)
from tldeploy.benchmarking.page.engine_tables import clients_words
from tldeploy.benchmarking.report import Report, metric_words
from tldeploy.measuring.parts import BETWEEN, OUTSIDE, Parts
from tldeploy.measuring.scenarios import SingleStream

CURVE_POINTS = 250
# Of the parts of a step: from what waits to what computes.
_STEP_HUES = (("#e3b04b", "#b9d3c4", "#2f9a6c", "#8fbfa6"), ("#d9722b", "#b4cbe8", "#3b78d8", "#8fb3e6"))


def draw(report: Report, single: SingleStream) -> dict[str, Any]:
    """plotly figures, by the name that the page gives each."""
    names = [engine["name"] for engine in report["engines"]]
    look = _Look(names)
    figures = {
        "latency": _latency_curves(single, look),
        "throughput": _throughput(report, look),
    }
    if points := _points(report, look):
        metric = metric_words(report["engines"][0]["metric"]["name"])
        figures["tradeoff"] = worth(points, "p50 of one request, ms", metric)
    for name in ("p50", "p99"):
        levels = [level for engine in report["engines"] for level in engine["closed_loop"].values()]
        if any(level[f"{name}_ms"] for level in levels):
            figures[f"load-{name}"] = _under_load(report, look, f"{name}_ms")
    if any(engine.get("parts") for engine in report["engines"]):
        figures["parts"] = _parts(report)
    return figures


class _Look:
    def __init__(self, engines: Sequence[str]) -> None:
        self.colours, self.dashes = colours(engines), dashes(engines)

    def line(self, engine: str) -> dict[str, Any]:
        return {"color": self.colours[engine], "dash": self.dashes[engine], "width": 2.2}


def _latency_curves(single: SingleStream, look: _Look) -> Any:
    """Empirical distribution functions: a percentile is read off where a curve crosses its height."""
    height = {"tickformat": ".0%", "range": [0, 1.01]}
    made = figure("latency of one request, ms", "answered within", height=430, x=log_axis(), y=height)
    shares: NDArray[np.float64] = np.append(np.linspace(0.002, 0.998, CURVE_POINTS), 1.0)
    for engine, latency_ms in zip(single.engines, single.latency_ms, strict=True):
        made.add_scatter(
            x=np.quantile(latency_ms, shares, method="inverted_cdf").round(4).tolist(),
            y=shares.round(4).tolist(),
            name=engine,
            mode="lines",
            line={**look.line(engine), "shape": "hv"},
            hovertemplate="%{y:.1%} within %{x:.2f} ms",
        )
    return made


def _points(report: Report, look: _Look) -> list[Point]:
    """The task metric of each engine against its latency, where there were requests enough for a median."""
    points = []
    for engine in report["engines"]:
        p50_ms, score = engine["p50_ms"], engine["metric"]
        if p50_ms is None:
            continue
        low_ms, high_ms = (end or p50_ms for end in engine["p50_ms_interval"])
        y = (score["value"], score["low"], score["high"])
        name = engine["name"]
        points.append(Point(name, short(name), (p50_ms, low_ms, high_ms), y, look.colours[name]))
    return points


def _throughput(report: Report, look: _Look) -> Any:
    made = figure("concurrent clients", "rows a second", x={"type": "category"}, y={"rangemode": "tozero"})
    for engine in report["engines"]:
        levels = list(engine["throughput_per_s"])
        values = np.array(list(engine["throughput_per_s"].values()))
        rounds = [engine["closed_loop"][level]["rounds_per_s"] for level in levels]
        above = np.maximum([max(found) for found in rounds] - values, 0)
        below = np.maximum(values - [min(found) for found in rounds], 0)
        made.add_scatter(
            x=levels,
            y=values.tolist(),
            name=engine["name"],
            mode="lines+markers",
            line=look.line(engine["name"]),
            marker={"size": 7},
            error_y={"array": above.tolist(), "arrayminus": below.tolist(), "thickness": 1.2, "width": 3},
            hovertemplate="%{y:.0f} rows/s with %{x} clients",
        )
    return made


def _under_load(report: Report, look: _Look, percentile: str) -> Any:
    """A percentile of latency over rows a second: a line as the number of clients grows, diamonds for random arrivals.

    A trial that dropped arrivals is left out: its latencies are those of the requests that were sent.
    """
    words = percentile.removesuffix("_ms")
    made = figure("rows a second", f"{words} of latency, ms", x={"rangemode": "tozero"}, y=log_axis())
    for engine in report["engines"]:
        name, levels = engine["name"], engine["closed_loop"]
        made.add_scatter(
            x=[engine["throughput_per_s"][level] for level in levels],
            y=[levels[level][percentile] for level in levels],
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line=look.line(name),
            marker={"size": 7},
            customdata=[clients_words(level) for level in levels],
            hovertemplate=f"{words} %{{y:.2f}} ms at %{{x:.0f}} rows/s, %{{customdata}}",
        )
        trials = [trial for trial in (engine["server"] or {"trials": []})["trials"] if trial[percentile]]
        if whole := [trial for trial in trials if not trial["dropped"]]:
            made.add_scatter(
                x=[trial["answered_per_s"] for trial in whole],
                y=[trial[percentile] for trial in whole],
                name=f"{name}, at random",
                legendgroup=name,
                mode="markers",
                marker={"size": 9, "symbol": "diamond-open", "color": look.colours[name], "line": {"width": 1.6}},
                customdata=[trial["rate_per_s"] for trial in whole],
                hovertemplate=f"{words} %{{y:.2f}} ms at %{{customdata:.0f}} requests/s, at random",
            )
    return made


def _parts(report: Report) -> Any:
    """Stacked bars, a panel for each number of clients with a scale of its own: one client waits much less."""
    from plotly.subplots import make_subplots

    served = [engine for engine in report["engines"] if engine.get("parts")]
    levels = list(served[0]["parts"])
    panels = make_subplots(
        rows=len(levels), cols=1, vertical_spacing=0.32 / len(levels), subplot_titles=list(map(clients_words, levels))
    )
    made = dressed(panels, 80 + len(levels) * (60 + 38 * len(served)))
    made.update_layout(barmode="stack", bargap=0.3, margin={"t": 34})
    spent = {level: [Parts.from_json(engine["parts"][level]).by_name() for engine in served] for level in levels}
    names = list(dict.fromkeys(name for parts in spent[levels[0]] for name in parts))
    steps = list(dict.fromkeys(name.partition(":")[0] for name in names if name not in {OUTSIDE, BETWEEN}))
    for row, level in enumerate(levels, start=1):
        for name in names:
            made.add_bar(
                y=[engine["name"] for engine in served],
                x=[parts.get(name, 0) for parts in spent[level]],
                name=name,
                orientation="h",
                legendgroup=name,
                showlegend=row == 1,
                marker={"color": _part_colour(name, steps), "line": {"width": 0}},
                hovertemplate=f"{name}: %{{x:.2f}} ms",
                row=row,
                col=1,
            )
    made.update_xaxes(rangemode="tozero")
    made.update_xaxes(title_text="ms a request, on average", row=len(levels), col=1)
    made.update_yaxes(autorange="reversed", showgrid=False)
    made.update_annotations(x=0, xanchor="left", font={"size": 13})
    return made


def _part_colour(name: str, steps: Sequence[str]) -> str:
    if name in {OUTSIDE, BETWEEN}:
        return GREY if name == OUTSIDE else HUES["torch"][1]
    step, _, part = name.partition(": ")
    hues = _STEP_HUES[min(steps.index(step), 1)]
    return hues[("queue", "input", "infer", "output").index(part)]
