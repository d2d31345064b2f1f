"""The plots of report.html, drawn by plotly: where each engine's time goes, what it carries, what it is worth.

Backgrounds are transparent and inks are left to report.css, so that one figure suits a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.benchmarking.report import Report, metric_words
from tldeploy.measuring.scenarios import SingleStream

CURVE_POINTS = 250
# Families share a hue, so that the eye finds torch, onnxruntime and Triton before it reads the legend.
_HUES: Mapping[str, Sequence[str]] = {
    "torch": ("#8b8f98", "#b0a999"),
    "onnxruntime": ("#86b6e8", "#4f8edb", "#2f6bd0", "#6f7fe0"),
    "triton": ("#e8833a", "#d0507f", "#b98a1d"),
}
_VARIANTS = ("#8b8f98", "#2f6bd0", "#e8833a", "#d0507f", "#2a9d73", "#b98a1d", "#6f7fe0", "#86b6e8")


def draw(report: Report, single: SingleStream) -> dict[str, str]:
    """The plots as HTML fragments, by the name that page.html gives each; plotly's script is not among them."""
    colours = _colours(single.engines)
    figures = {
        "latency": _latency_curves(single, colours),
        "throughput": _throughput(report, colours),
        "tradeoff": _metric_against_latency(report, colours),
        "calibration": _reliability(report),
    }
    if any(report["curves"].values()):
        figures["curves"] = _learning(report)
    if any(variant.get("p50_ms") for variant in report["variants"]):
        figures["variants"] = _variants(report)
    config = {"displayModeBar": False, "responsive": True}
    return {
        name: figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config)
        for name, figure in figures.items()
    }


def _colours(engines: Sequence[str]) -> dict[str, str]:
    colours: dict[str, str] = {}
    for engine in engines:
        family = next((name for name in _HUES if engine.startswith(name)), "torch")
        taken = sum(other.startswith(family) for other in colours)
        colours[engine] = _HUES[family][taken % len(_HUES[family])]
    return colours


def _figure(x_title: str, y_title: str, **axes: Any) -> Any:
    import plotly.graph_objects as go

    plain: dict[str, Any] = {"showline": False, "zeroline": False, "ticks": "", "title_standoff": 14}
    figure = go.Figure(layout={"template": "none"})
    figure.update_layout(
        height=400,
        margin={"l": 64, "r": 16, "t": 56, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1.04, "yanchor": "bottom", "title": None},
        hoverlabel={"font_size": 13},
    )
    figure.update_xaxes(title_text=x_title, **plain, **axes.get("x", {}))
    figure.update_yaxes(title_text=y_title, **plain, **axes.get("y", {}))
    return figure


def _latency_curves(single: SingleStream, colours: dict[str, str]) -> Any:
    """Empirical distribution functions: a percentile is read off where a curve crosses its height."""
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 3, 5)]
    log = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    height = {"tickformat": ".0%", "range": [0, 1.01]}
    figure = _figure("latency of one request, ms", "answered within", x=log, y=height)
    shares: NDArray[np.float64] = np.append(np.linspace(0.002, 0.998, CURVE_POINTS), 1.0)
    for engine, latency_ms in zip(single.engines, single.latency_ms, strict=True):
        figure.add_scatter(
            x=np.quantile(latency_ms, shares, method="inverted_cdf").round(4).tolist(),
            y=shares.round(4).tolist(),
            name=engine,
            mode="lines",
            line={"color": colours[engine], "width": 2.2, "shape": "hv"},
            hovertemplate="%{y:.1%} within %{x:.2f} ms",
        )
    return figure


def _throughput(report: Report, colours: dict[str, str]) -> Any:
    figure = _figure("concurrent clients", "rows a second", x={"type": "category"}, y={"rangemode": "tozero"})
    for engine in report["engines"]:
        levels = list(engine["throughput_per_s"])
        values = np.array(list(engine["throughput_per_s"].values()))
        rounds = [engine["closed_loop"][level]["rounds_per_s"] for level in levels]
        above = np.maximum([max(found) for found in rounds] - values, 0)
        below = np.maximum(values - [min(found) for found in rounds], 0)
        figure.add_scatter(
            x=levels,
            y=values.tolist(),
            name=engine["name"],
            mode="lines+markers",
            line={"color": colours[engine["name"]], "width": 2.2},
            marker={"size": 8},
            error_y={"array": above.tolist(), "arrayminus": below.tolist(), "thickness": 1.2, "width": 3},
            hovertemplate="%{y:.0f} rows/s with %{x} clients",
        )
    return figure


def _reliability(report: Report) -> Any:
    """How often answers of a confidence are right; on the diagonal, probabilities mean what they say."""
    share = {"tickformat": ".0%", "range": [0, 1.02]}
    figure = _figure("confidence of the answer", "answers that are right", x=share, y=share)
    bins = report["reported"]["reliability"]
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="as often as it says", line={"color": "#8b8f98", "dash": "dot"}
    )
    figure.add_scatter(
        x=[found["confidence"] for found in bins],
        y=[found["accuracy"] for found in bins],
        customdata=[found["rows"] for found in bins],
        mode="lines+markers",
        name=report["reported"]["engine"],
        line={"color": "#2f6bd0", "width": 2.2},
        marker={"size": [6 + 18 * (found["rows"] / report["rows"]) ** 0.5 for found in bins]},
        hovertemplate="%{y:.1%} right at %{x:.1%} confidence, %{customdata} rows",
    )
    return figure


def _learning(report: Report) -> Any:
    """Every curve that tuning recorded, method by method; a click in the legend shows and hides one."""
    figure = _figure("step or epoch", "value")
    for method, curves in report["curves"].items():
        for at, (name, points) in enumerate(curves.items()):
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=f"{method}: {name}",
                mode="lines+markers" if len(points) < 30 else "lines",
                visible=True if "loss" in name else "legendonly",
                line={"width": 2, "color": _HUES["onnxruntime"][at % 4]},
            )
    return figure


def _variants(report: Report) -> Any:
    """The task metric against the latency of the graphs; a line joins those that no other beats in both.

    The chosen one is a star, the kept ones are full, the refused ones hollow, with their reason under the pointer.
    """
    measured = [found for found in report["variants"] if found.get("p50_ms") and found.get("metric")]
    metric = metric_words(report["engines"][0]["metric"]["name"])
    axes: dict[str, Any] = {"x": {"rangemode": "tozero"}, "y": {"tickformat": ".3f"}}
    figure = _figure("p50 of one row, ms", f"{metric}, validation rows", **axes)
    front = pareto_front([(found["p50_ms"], found["metric"]["value"]) for found in measured])
    figure.add_scatter(
        x=[ms for ms, _ in front],
        y=[score for _, score in front],
        mode="lines",
        name="none is both faster and better",
        line={"color": "#8b8f98", "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )
    chosen = report["chosen"]["variant"]
    for at, found in enumerate(measured):
        symbol = "star" if found["name"] == chosen else "circle" if found.get("kept") else "circle-open"
        became = "chosen" if found["name"] == chosen else "kept" if found.get("kept") else "refused"
        score = found["metric"]
        figure.add_scatter(
            x=[found["p50_ms"]],
            y=[score["value"]],
            name=f"{found['name']}, {became}",
            mode="markers",
            marker={"symbol": symbol, "size": 16 if symbol == "star" else 12, "color": _VARIANTS[at % len(_VARIANTS)]},
            error_y={
                "array": [score["high"] - score["value"]],
                "arrayminus": [score["value"] - score["low"]],
                "thickness": 1.2,
                "width": 4,
            },
            customdata=["<br>".join(wrap(escape(found.get("reason") or ""), 60))],
            hovertemplate=f"{metric} %{{y:.3f}} at %{{x:.2f}} ms<br>%{{customdata}}",
        )
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (latency, metric) pairs those that none beats in one and equals in the other, from the fastest on."""
    front: list[tuple[float, float]] = []
    for latency, metric in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or metric > front[-1][1]:
            front.append((latency, metric))
    return front


def _metric_against_latency(report: Report, colours: dict[str, str]) -> Any:
    metric = metric_words(report["engines"][0]["metric"]["name"])
    figure = _figure("p50 of one request, ms", metric, x={"rangemode": "tozero"}, y={"tickformat": ".3f"})
    for engine in report["engines"]:
        p50_ms, score = engine["p50_ms"], engine["metric"]
        if p50_ms is None:
            continue
        low_ms, high_ms = (end or p50_ms for end in engine["p50_ms_interval"])
        figure.add_scatter(
            x=[p50_ms],
            y=[score["value"]],
            name=engine["name"],
            mode="markers",
            marker={"color": colours[engine["name"]], "size": 12},
            error_x={
                "array": [high_ms - p50_ms],
                "arrayminus": [p50_ms - low_ms],
                "thickness": 1.4,
                "width": 4,
            },
            error_y={
                "array": [score["high"] - score["value"]],
                "arrayminus": [score["value"] - score["low"]],
                "thickness": 1.4,
                "width": 4,
            },
            hovertemplate=f"{metric} %{{y:.3f}} at %{{x:.2f}} ms",
        )
    return figure
