"""The plots of what the stages recorded, and of what the reported engine's probabilities are worth, by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from tldeploy.benchmarking.page.drawing import BLUE, GREY, HUES, VARIANTS, Point, figure, worth
from tldeploy.benchmarking.report import Report, metric_words


def draw(report: Report) -> dict[str, Any]:
    """plotly figures, by the name that the page gives each."""
    figures = {"calibration": _reliability(report)}
    if any(report["curves"].values()):
        figures["curves"] = _learning(report)
    if measured := [found for found in report["variants"] if found.get("p50_ms") and found.get("metric")]:
        figures["variants"] = _variants(report, measured)
    return figures


def _reliability(report: Report) -> Any:
    """How often answers of a confidence are right; on the diagonal, probabilities mean what they say."""
    share = {"tickformat": ".0%", "range": [0, 1.02]}
    made = figure("confidence of the answer", "answers that are right", x=share, y=share)
    bins = report["reported"]["reliability"]
    made.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="as often as it says", line={"color": GREY, "dash": "dot"})
    made.add_scatter(
        x=[found["confidence"] for found in bins],
        y=[found["accuracy"] for found in bins],
        customdata=[found["rows"] for found in bins],
        mode="lines+markers",
        name=report["reported"]["engine"],
        line={"color": BLUE, "width": 2.2},
        marker={"size": [6 + 18 * (found["rows"] / report["rows"]) ** 0.5 for found in bins]},
        hovertemplate="%{y:.1%} right at %{x:.1%} confidence, %{customdata} rows",
    )
    return made


def _learning(report: Report) -> Any:
    """Every curve that tuning recorded, method by method; a click in the legend shows and hides one."""
    made = figure("step or epoch", "value")
    legend = {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "title": None, "font": {"size": 12}}
    made.update_layout(showlegend=True, legend=legend)
    drawn = 0
    for method, curves in report["curves"].items():
        for name, points in curves.items():
            made.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=f"{method}: {name}",
                mode="lines+markers" if len(points) < 30 else "lines",
                visible=True if "loss" in name else "legendonly",
                line={"width": 2, "color": (*HUES["onnxruntime"], *HUES["triton"])[drawn % 8]},
            )
            drawn += 1
    return made


def _variants(report: Report, measured: Sequence[dict[str, Any]]) -> Any:
    """The task metric against the latency of the graphs.

    The chosen one is a star, the kept ones are full, the refused ones hollow, with their reason under the pointer.
    """
    metric = metric_words(report["engines"][0]["metric"]["name"])
    chosen = report["chosen"]["variant"]
    points = []
    for at, found in enumerate(measured):
        symbol = "star" if found["name"] == chosen else "circle" if found.get("kept") else "circle-open"
        became = "chosen" if found["name"] == chosen else "kept" if found.get("kept") else "refused"
        points.append(
            Point(
                f"{found['name']}, {became}",
                found["name"],
                (found["p50_ms"],) * 3,
                (found["metric"]["value"], found["metric"]["low"], found["metric"]["high"]),
                VARIANTS[at % len(VARIANTS)],
                symbol,
                "<br>".join(wrap(escape(found.get("reason") or ""), 60)),
            )
        )
    return worth(points, "p50 of one row, ms", f"{metric}, validation rows")
