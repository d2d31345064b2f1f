"""Markdown tables, and how figures are written in their cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tldeploy.measuring.statistics import Estimate


def markdown(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def interval(metric: dict[str, Any]) -> str:
    """Of a task metric: three decimals."""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def spread(ratio: Estimate | dict[str, float]) -> str:
    found = ratio.as_json() if isinstance(ratio, Estimate) else ratio
    return f"{found['value']:z.2f} [{found['low']:z.2f}, {found['high']:z.2f}]"


def listed(values: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = values
    return f"{', '.join(most)} and {last}" if most else last
