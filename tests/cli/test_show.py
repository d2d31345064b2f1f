from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tldeploy.artifacts import Choice, Manifest
from tldeploy.cli import show
from tldeploy.exporting.explain import Explained
from tldeploy.measuring.profiling import NodeTime
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


def test_what_was_said_of_the_rows_before_tuning_is_not_said_again() -> None:
    tuned = outcome("probe", probe=figures(0.7))
    found = Choice(about="repeated rows", value=3, reason="lines 4 and 5")
    with_finding = tuned.manifest.model_copy(update={"decisions": [*tuned.manifest.decisions, found]})
    assert "repeated rows" not in show.methods(replace(tuned, manifest=with_finding))
    assert "repeated rows: 3 (lines 4 and 5)" in show.methods(replace(tuned, manifest=with_finding, skipped=True))


def test_with_another_domain_the_score_is_shown_and_the_kept_one_marked() -> None:
    candidates = {"tuned": figures(0.7, score=0.25), "moved": figures(0.8, score=0.5), "oracle": figures(0.9)}
    shown = show.methods(outcome("moved", **candidates))
    head, _, *rows, choice = shown.splitlines()
    assert head.split("  ")[0] == "method"
    assert all(words in head for words in ("source validation", "held out", "label-free score", "seconds"))
    assert [row.split("  ")[0] for row in rows] == ["tuned", "moved *", "oracle"]
    assert [row.split()[-2] for row in rows] == ["0.250", "0.500", "1.000]"]
    assert choice == "method: moved (best of two)"


def scored(name: str, file: str | None, **measured: Any) -> dict[str, Any]:
    gain = {"value": 2.0, "low": 1.9, "high": 2.1}
    return {
        "name": name,
        "file": file,
        "size_bytes": 22_838_692,
        "parity": {"max_abs_diff": 3.1e-2},
        "metric": {"value": 0.819, "low": 0.772, "high": 0.865},
        "drop": {"points": 0.32, "low": -1.98, "high": 2.6, "agreement": 0.971},
        "p50_ms": 2.4,
        "speedup": gain,
        "throughput_speedup": gain,
        "load_ms": 141.2,
        "memory_mb": 61.25,
        **measured,
    }


def exported(*variants: dict[str, Any]) -> Outcome:
    held_out = {
        "drop": {"points": 0.21, "low": -0.4, "high": 0.8, "rows": 1854},
        "metric": {"value": 0.8, "low": 0.78, "high": 0.82},
    }
    choice = Choice(about="variant", value="int8-dynamic", reason="the fastest")
    details = {"chosen": "int8-dynamic", "variants": list(variants), "held_out": held_out}
    manifest = Manifest(kind="export", name="job", inputs="0", decisions=[choice], details=details)
    return Outcome("export", Path("onnx"), False, manifest)


def test_the_scorecard_fits_a_terminal_and_ends_with_the_held_out_figure() -> None:
    unmeasured = dict.fromkeys(("p50_ms", "speedup", "throughput_speedup", "load_ms", "memory_mb"))
    shown = show.scorecard(exported(scored("int8-dynamic", "int8-dynamic.onnx"), scored("bf16", None, **unmeasured)))
    head, _, int8, bf16, final, choice = shown.splitlines()
    assert max(map(len, (head, int8, bf16, final))) <= 150
    assert int8.split()[:8] == ["int8-dynamic", "*", "22.8", "3e-02", "0.819", "+0.32", "[-1.98,", "+2.60]"]
    assert int8.split()[-8:] == ["2.00", "[1.90,", "2.10]", "2.00", "[1.90,", "2.10]", "141", "61"]
    assert bf16.endswith("97.1"), "what was not measured is left empty"
    assert final == (
        "held-out rows: int8-dynamic 0.800 [0.780, 0.820], +0.21 points lost [-0.40, +0.80] on 1854 rows that no "
        "choice looked at"
    )
    assert choice == "variant: int8-dynamic (the fastest)"


def test_an_explanation_shows_time_and_error_before_and_after() -> None:
    where = [NodeTime("node", "MatMul", "CPUExecutionProvider", 0.1)] * 120
    before = Explained("fp32", 4.0, {"layer 0": 0.75, "head": 0.25}, {"MatMul": 1.0}, where, {})
    departures = {"layer 0": 0.031, "head": None}
    after = Explained("int8", 2.0, {"layer 0": 0.5, "head": 0.5}, {"MatMulInteger": 1.0}, where, departures)
    lines = show.explanation([before, after]).splitlines()
    assert lines[:2] == [
        "fp32: 4.00 ms a row in the graph, under the profiler; 120 nodes on CPUExecutionProvider",
        "int8: 2.00 ms a row in the graph, under the profiler; 120 nodes on CPUExecutionProvider",
    ]
    assert [line.split() for line in lines[2:]] == [
        ["group", "fp32", "ms", "fp32", "%", "int8", "ms", "int8", "%", "off", "fp32"],
        ["-------", "-------", "------", "-------", "------", "--------------"],
        ["layer", "0", "3.00", "75.0", "1.00", "50.0", "0.031"],
        ["head", "1.00", "25.0", "1.00", "50.0", "not", "comparable"],
        ["operator", "fp32", "ms", "fp32", "%", "int8", "ms", "int8", "%"],
        ["-------------", "-------", "------", "-------", "------"],
        ["MatMul", "4.00", "100.0"],
        ["MatMulInteger", "2.00", "100.0"],
    ]
    assert "int8" not in show.explanation([before])


def test_what_took_most_before_is_shown_although_it_is_gone_afterwards() -> None:
    where = [NodeTime("node", "MatMul", "CPUExecutionProvider", 0.1)] * 120
    before = Explained("fp32", 4.0, {"head": 1.0}, {"MatMul": 0.9, "Softmax": 0.1}, where, {})
    small = {f"Small{number}": 0.1 for number in range(10)}
    after = Explained("int8", 1.0, {"head": 1.0}, small, where, {"head": None})
    shown = show.explanation([before, after]).splitlines()
    operators = [line.split()[0] for line in shown[shown.index(next(s for s in shown if s.startswith("operator"))) :]]
    assert operators == ["operator", operators[1], "MatMul", "Softmax", *list(small)[:8], "…"]
    assert shown[-1] == "… and 2 more operators, with --json"
