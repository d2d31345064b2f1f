"""What cached features and batches of similar lengths are worth, out of cost.json."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .table import markdown


def page(report: dict[str, Any]) -> str:
    """The whole of cost.md."""
    rows = []
    for result in report["results"].values():
        cheap, dear = (
            statistics.median(run["processor_s"] for run in result["seconds"][name]) for name in ("cheap", "dear")
        )
        ratios = [_spread(result["ratios"][clock]) for clock in ("processor_s", "wall_s")]
        rows.append([f"{result['what']}: {result['about']}", f"{cheap:.1f}", f"{dear:.1f}", *ratios])
    about = (
        f"{report['environment']['cpu']}, {report['threads']} thread, pairs in turns; seconds are the processor's, "
        "medians; ratios: median [min, max]."
    )
    head = ["what, and on what", "with it, s", "without, s", "times as dear without", "by the wall clock"]
    return f"{about}\n\n{markdown(head, rows)}\n"


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
