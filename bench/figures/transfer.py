"""Accuracy against examples, out of the transfer.<recipe>.json of a machine: a table and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .table import markdown

PER_CLASS = (10, 50, 200)
COLOURS = {"frozen": "#4f8edb", "partly frozen": "#2f9e6e", "fine-tuned": "#e8833a", "from scratch": "#8b8f98"}
METHODS = tuple(COLOURS)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 300, 52, 16, 58, 44


def page(reports: Sequence[dict[str, Any]]) -> str:
    """The whole of transfer.md: a section a network."""
    return "\n".join(map(_section, reports))


def _section(report: dict[str, Any]) -> str:
    test = len(report["records"][0]["answers"])
    about = (
        f"{report['environment']['cpu']}, {report['threads']} thread; images at {report['image_size']} pixels, batches "
        f"of {report['batch_size']}, no augmentation; {report['precision']}. {test:,} held-out images. Brackets: the "
        "lowest and highest of the seeds; with one seed, for F1, the 95 % bootstrap interval over images. Learning "
        "rates were set beforehand and not searched."
    )
    return f"## {report['network']}\n\n{about}\n\n{_table(report)}\n"


def _table(report: dict[str, Any]) -> str:
    """One row a method and number of images. With one seed the interval is the bootstrap's over test images."""
    rows = []
    for method in METHODS:
        for per_class, some in _cells(report["records"], method):
            scores = [one["accuracy"] for one in some]
            f1 = [one["weighted_f1"] for one in some]
            values = [one["value"] for one in f1]
            low, high = (f1[0]["low"], f1[0]["high"]) if len(some) == 1 else (min(values), max(values))
            first = some[0]
            rows.append(
                [
                    method,
                    str(per_class),
                    str(len(some)),
                    f"{statistics.fmean(scores):.3f}"
                    + (f" [{min(scores):.3f}, {max(scores):.3f}]" if len(some) > 1 else ""),
                    f"{statistics.fmean(values):.3f} [{low:.3f}, {high:.3f}]",
                    str(first.get("steps", "")),
                    f"{first['learning_rate']:g}" if "learning_rate" in first else "L-BFGS",
                ]
            )
    head = ["what learns", "images a class", "seeds", "accuracy", "weighted F1", "steps", "learning rate"]
    return markdown(head, rows)


def _cells(records: list[dict[str, Any]], method: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """A method's records by images a class, as far as there are any."""
    chosen = [record for record in records if record["method"] == method]
    found = [(per_class, [one for one in chosen if one["per_class"] == per_class]) for per_class in PER_CLASS]
    return [(per_class, some) for per_class, some in found if some]


def plot(reports: Sequence[dict[str, Any]]) -> str:
    """Accuracy over images a class, one panel a network, as SVG that needs no script; whiskers: the seeds' range."""
    size = f'width="{WIDTH * len(reports)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(reports)} {HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    panels = "".join(_panel(report, WIDTH * place) for place, report in enumerate(reports))
    backdrop = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{backdrop}\n{panels}</svg>\n'


def _panel(report: dict[str, Any], shift: int) -> str:
    parts = [f'<text x="{LEFT}" y="18" font-weight="600">{report["network"]}: accuracy, held-out images</text>']
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(f'<path d="M{LEFT} {_y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{_y(tick) + 4:.1f}" text-anchor="end" fill="#555">{tick:g}</text>')
    for per_class in PER_CLASS:
        place = f'x="{_x(per_class):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text {place} text-anchor="middle" fill="#555">{per_class}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" fill="#555">images a class</text>')
    for place, (method, colour) in enumerate(COLOURS.items()):
        points = []
        for per_class, some in _cells(report["records"], method):
            scores = [one["accuracy"] for one in some]
            across, up = _x(per_class), _y(statistics.fmean(scores))
            points.append(f"{across:.1f},{up:.1f}")
            parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}"/>')
            whisker = f"M{across:.1f} {_y(min(scores)):.1f}V{_y(max(scores)):.1f}"
            parts.append(f'<path d="{whisker}" stroke="{colour}" stroke-width="1.5"/>')
        line = " ".join(points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + place * 88}" y="40" fill="{colour}">{method}</text>')
    inside = "\n".join(parts)
    return f'<g transform="translate({shift} 0)">\n{inside}\n</g>\n'


def _x(per_class: float) -> float:
    share = math.log(per_class / PER_CLASS[0]) / math.log(PER_CLASS[-1] / PER_CLASS[0])
    return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20)


def _y(accuracy: float) -> float:
    return HEIGHT - BOTTOM - accuracy * (HEIGHT - TOP - BOTTOM)
