"""How often the regression gate errs, out of gate.json."""

from __future__ import annotations

from typing import Any

from .table import listed, markdown

ANY = "any of them"


def page(report: dict[str, Any]) -> str:
    """The whole of gate.md."""
    slowings = sorted({run["slower"] for run in report["results"]})
    rows = []
    for text, count in dict.fromkeys((run["text"], run["rows"]) for run in report["results"]):
        found = _found(report, text, count)
        for condition in next(iter(found.values())):
            cells = [f"{found[slower][condition]:.1f}%" if slower in found else "" for slower in slowings]
            rows.append([f"any, `{text}`" if condition == ANY else f"`{condition}`", f"{count:,}", *cells])
    head = ["condition", "rows", "as fast", *(f"{slower - 1:.0%} slower" for slower in slowings[1:])]
    return f"Of {report['runs']} simulated runs each, the share that failed.\n\n{markdown(head, rows)}\n"


def summary(report: dict[str, Any]) -> str:
    """bench/README.md's table: how often each condition on speed failed."""
    usual = report["results"][-1]["text"]
    slowings = sorted({run["slower"] for run in report["results"]})
    conditions = [condition for condition in usual.split(",") if not condition.startswith("accuracy")]
    rows = [
        [f"`{condition}`", f"{count:,}", *(f"{found[slower][condition]:g} %" for slower in slowings)]
        for condition in conditions
        for count in _counts(report)
        for found in [_found(report, usual, count)]
    ]
    head = ["condition", "rows", "as fast", *(f"{100 * (slower - 1):.0f} % slower" for slower in slowings[1:])]
    return markdown(head, rows) + "\n"


def said(report: dict[str, Any]) -> list[str]:
    """In bench/README.md."""
    strict = report["results"][0]["text"]
    shares = [f"{_found(report, strict, count)[1.0][ANY]:g} % with {count:,} rows" for count in _counts(report)]
    return [f"{report['runs']} for each figure", f"(`{strict}`)", f"failed by mistake in {listed(shares)}"]


def said_outside(report: dict[str, Any]) -> list[str]:
    """In README.md."""
    strict, usual = report["results"][0]["text"], report["results"][-1]["text"]
    mistakes = [_found(report, strict, count)[1.0][ANY] for count in _counts(report)]
    slow = {count: _found(report, usual, count)[1.2] for count in _counts(report)}
    least, middle, most = slow
    assert all(found["p50+5%"] == 100 for found in slow.values())
    return [
        f"Of {report['runs']} simulated runs without a change, with four conditions of which none allows anything, "
        f"{min(mistakes):g} to {max(mistakes):g} % fail; of those that are 20 % slower, `p50+5%` finds all, and "
        f"`p99+10%` {slow[least]['p99+10%']:g} % with {least:,} rows, {slow[middle]['p99+10%']:g} % with {middle:,} "
        f"and {slow[most]['p99+10%']:g} % with {most:,}"
    ]


def _counts(report: dict[str, Any]) -> list[int]:
    return sorted({run["rows"] for run in report["results"]})


def _found(report: dict[str, Any], text: str, rows: int) -> dict[float, dict[str, float]]:
    """By slowing and condition, in percent of the runs."""
    return {
        run["slower"]: {condition: 100 * count / report["runs"] for condition, count in run["failed"].items()}
        for run in report["results"]
        if (run["text"], run["rows"]) == (text, rows)
    }
