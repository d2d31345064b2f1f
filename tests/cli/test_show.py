from __future__ import annotations

from pathlib import Path
from typing import Any

from tldeploy.artifacts import Choice, Manifest
from tldeploy.cli import show
from tldeploy.pipeline import Outcome


def outcome(kept: str, **metrics: dict[str, Any]) -> Outcome:
    choice = Choice(about="method", value=kept, reason="best of two")
    details = {"kept": kept}
    manifest = Manifest(kind="tune", name="job", inputs="0", metrics=metrics, decisions=[choice], details=details)
    return Outcome("tune", Path("tuned"), False, manifest)


def figures(value: float, **more: float) -> dict[str, Any]:
    metric = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"validation": metric, "test": metric, "seconds": 12.3, **more}


def test_methods_are_shown_with_their_intervals() -> None:
    shown = show.methods(outcome("probe", probe=figures(0.7), tuned=figures(0.8)))
    assert shown.splitlines()[2:] == [
        "probe   0.700 [0.600, 0.800]  0.700 [0.600, 0.800]       12",
        "tuned   0.800 [0.700, 0.900]  0.800 [0.700, 0.900]       12",
        "method: probe (best of two)",
    ]


def test_with_another_domain_the_score_is_shown_and_the_kept_one_marked() -> None:
    candidates = {"tuned": figures(0.7, score=0.25), "moved": figures(0.8, score=0.5), "oracle": figures(0.9)}
    shown = show.methods(outcome("moved", **candidates))
    head, _, *rows, choice = shown.splitlines()
    assert head.split("  ")[0] == "method"
    assert all(words in head for words in ("source validation", "held out", "label-free score", "seconds"))
    assert [row.split("  ")[0] for row in rows] == ["tuned", "moved *", "oracle"]
    assert [row.split()[-2] for row in rows] == ["0.250", "0.500", "1.000]"]
    assert choice == "method: moved (best of two)"
