"""What all plots share: plotly figures without ink of their own, colours of engines, names beside points.

Backgrounds are transparent and inks are left to page.css, so that one figure suits a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

HEIGHT = 400
GREY, BLUE = "#858a94", "#3b78d8"
# Families share a hue, so that the eye finds torch, onnxruntime and Triton before it reads a name. All of them have a
# contrast of 3 or more on light and on dark paper.
HUES: Mapping[str, Sequence[str]] = {
    "torch": ("#858a94", "#8d7f6d", "#7c8f86", "#957a8b"),
    "onnxruntime": ("#5f9fdb", "#3b78d8", "#6f74e0", "#2f8fa8", "#8a63d2"),
    "openvino": ("#2f9a6c", "#6f9a2f"),
    "triton": ("#d9722b", "#cf4f7f", "#a9801c"),
}
VARIANTS = (GREY, BLUE, "#d9722b", "#cf4f7f", "#2f9a6c", "#a9801c", "#6f74e0", "#2f8fa8")
DASHES = ("solid", "dash", "dot", "dashdot")
# Of the width, for names at the right of a plot; of a name's line, as a share of the height.
_NAMES, _LINE = 0.44, 0.066
_STROKES = {"dash": "dashed", "dot": "dotted", "dashdot": "dashed"}


@dataclass(frozen=True)
class Point:
    """A named point of a plot, with whiskers: values and their lower and upper ends. label: what stands beside it."""

    name: str
    label: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    colour: str
    symbol: str = "circle"
    hover: str = ""


def colours(engines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for engine in engines:
        family = next((name for name in HUES if engine.lower().startswith(name)), "torch")
        taken = sum(other.lower().startswith(family) for other in found)
        found[engine] = HUES[family][taken % len(HUES[family])]
    return found


def short(engine: str) -> str:
    """The name of an engine, as short as it stays clear: on a telephone it has a hundred pixels."""
    return engine.removeprefix("onnxruntime ").replace("http shared", "shared")


def dashes(engines: Sequence[str]) -> dict[str, str]:
    """Of the line of each engine: one that has to share its colour with another has a dash of its own."""
    taken: dict[str, int] = {}
    found = {}
    for engine, colour in colours(engines).items():
        found[engine] = DASHES[taken.get(colour, 0) % len(DASHES)]
        taken[colour] = taken.get(colour, 0) + 1
    return found


def figure(x_title: str, y_title: str, *, height: int = HEIGHT, **axes: Any) -> Any:
    import plotly.graph_objects as go

    made = dressed(go.Figure(layout={"template": "none"}), height)
    made.update_xaxes(title_text=x_title, **axes.get("x", {}))
    made.update_yaxes(title_text=y_title, **axes.get("y", {}))
    return made


def dressed(made: Any, height: int) -> Any:
    """A plotly figure with the looks that all have. Its legend is HTML, which wraps as the page does."""
    made.update_layout(
        template="none",
        height=height,
        margin={"l": 58, "r": 14, "t": 14, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13},
        showlegend=False,
        hoverlabel={"font_size": 13},
        dragmode=False,
    )
    plain = {"showline": False, "zeroline": False, "ticks": "", "title_standoff": 12, "automargin": True}
    made.update_xaxes(**plain)
    made.update_yaxes(**plain)
    return made


def as_html(figures: Mapping[str, Any]) -> dict[str, str]:
    """HTML fragments, by the name that the page gives each; plotly's script is not among them."""
    config = {"displayModeBar": False, "responsive": True}
    return {
        name: made.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config)
        + _legend(made)
        for name, made in figures.items()
    }


def _legend(made: Any) -> str:
    """What each colour is, where plotly's own legend is not drawn; empty where every point has its name."""
    lines = "" if made.layout.showlegend else "".join(_keys(made))
    return f'<ul class="legend">{lines}</ul>' if lines else ""


def _keys(made: Any) -> Iterator[str]:
    for trace in made.data:
        if trace.showlegend is False:
            continue
        if trace.type == "bar":
            kind, colour, stroke = "bar", trace.marker.color, "solid"
        elif trace.mode == "markers":
            kind = "diamond" if trace.marker.symbol == "diamond-open" else "dot"
            colour, stroke = trace.marker.color, "solid"
        else:
            kind, colour, stroke = "line", trace.line.color, _STROKES.get(trace.line.dash, "solid")
        yield f'<li class="{kind}" style="--colour:{colour};--stroke:{stroke}">{escape(trace.name)}</li>'


def log_axis() -> dict[str, Any]:
    """A logarithmic axis whose ticks are plain numbers."""
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (latency, metric) pairs those that none beats in one and equals in the other, from the fastest on."""
    front: list[tuple[float, float]] = []
    for latency, metric in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or metric > front[-1][1]:
            front.append((latency, metric))
    return front


def worth(points: Sequence[Point], x_title: str, y_title: str) -> Any:
    """A metric against latency: every point named, and the front of those that none beats in both."""
    low, high = min(point.y[1] for point in points), max(point.y[2] for point in points)
    room = 0.06 * max(high - low, 0.01)
    right = max(point.x[2] for point in points)
    axes: dict[str, Any] = {
        "x": {"range": [0, right / (1 - _NAMES)], "tickvals": _ticks(right)},
        "y": {"range": [low - room, high + room], "tickformat": ".3f"},
    }
    made = figure(x_title, y_title, **axes)
    front = pareto_front([(point.x[0], point.y[0]) for point in points])
    made.add_scatter(
        x=[x for x, _ in front],
        y=[y for _, y in front],
        mode="lines",
        name="none is both faster and better",
        line={"color": GREY, "dash": "dot", "width": 1.6, "shape": "hv"},
        hoverinfo="skip",
    )
    for point in points:
        made.add_scatter(
            x=[point.x[0]],
            y=[point.y[0]],
            name=point.name,
            mode="markers",
            marker={"color": point.colour, "size": 16 if point.symbol == "star" else 11, "symbol": point.symbol},
            error_x=_whiskers(point.x),
            error_y=_whiskers(point.y),
            showlegend=False,
            customdata=[point.hover],
            hovertemplate=f"%{{y:.3f}} at %{{x:.2f}} ms{'<br>%{customdata}' if point.hover else ''}",
        )
    _name(made, points, right, (low - room, high + room))
    return made


def _name(made: Any, points: Sequence[Point], right: float, span: tuple[float, float]) -> None:
    """Names in a column at the right, as high as their points where there is room, each led to its point by a line.

    Whatever the points do, names do not meet each other.
    """
    line = _LINE * (span[1] - span[0])
    ordered = sorted(points, key=lambda point: (-point.y[0], -point.x[0]))
    places = apart([point.y[0] for point in ordered], line, span[0] + line / 2, span[1] - line / 2)
    for point, y in zip(ordered, places, strict=True):
        made.add_annotation(
            x=point.x[0],
            y=point.y[0],
            ax=1.06 * right,
            ay=y,
            axref="x",
            ayref="y",
            text=escape(point.label),
            xanchor="left",
            align="left",
            font={"size": 11.5},
            arrowcolor=point.colour,
            arrowwidth=1,
            arrowhead=0,
            standoff=7,
            opacity=1,
        )


def apart(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Falling places, each as near to the wanted one as the others, `least` away, let it be; within low .. high."""
    step = min(least, (high - low) / max(len(wanted) - 1, 1))
    steps = step * np.arange(len(wanted))
    # Isotonic regression: pool neighbours that would be too near, and give them their mean.
    pools: list[list[float]] = []
    for value in np.asarray(wanted) + steps:
        pools.append([float(value)])
        while len(pools) > 1 and np.mean(pools[-2]) < np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    flat = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    found: list[float] = (np.clip(flat, low + steps[-1], high) - steps).tolist()
    return found


def _ticks(right: float) -> list[float]:
    """Round places from 0 to where the names begin."""
    steps = (digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5))
    step = next(step for step in steps if right / step <= 6)
    return [step * at for at in range(int(right / step) + 1)]


def _whiskers(ends: tuple[float, float, float]) -> dict[str, Any]:
    value, low, high = ends
    return {"array": [high - value], "arrayminus": [value - low], "thickness": 1.2, "width": 4}
