"""What `tldeploy deploy --tune` found, goal by goal, out of fitting.json."""

from __future__ import annotations

from typing import Any

from tldeploy.cli.show import fitted_rows
from tldeploy.triton.fitting.goals import Goal

from .table import markdown


def page(report: dict[str, Any]) -> str:
    """The whole of fitting.md."""
    machine = report["environment"]
    about = (
        f"{report['model']} on {machine['cpu']}, {machine['cores']} cores, which the server and its clients share. * "
        "is what was chosen. The rows with a last column were measured anew, the recipe's settings twice: theirs is "
        "what the second time was of the first. The others are as they were last seen in the race."
    )
    return "\n\n".join([about, *map(_goal, report["results"].values())]) + "\n"


def _goal(result: dict[str, Any]) -> str:
    about = f"**{Goal(**result['goal'])}**"
    if not result["candidates"]:
        return f"{about}: refused, nothing is published. {result['reason']}."
    head, *rows = fitted_rows(result)
    return f"{about}, {result['seconds']:.0f} s. {result['reason']}.\n\n{markdown(head, rows)}"
