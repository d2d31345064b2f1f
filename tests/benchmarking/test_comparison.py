from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarking.conftest import Job
from tldeploy.benchmarking.comparison import Change, Comparison, compare_runs
from tldeploy.benchmarking.older import Older, read_older
from tldeploy.benchmarking.page.comparing import (
    remarks,
    render_comparison,
    render_comparison_markdown,
    verdict,
    write_comparison,
)
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, UsageError

RECORDED = Path(__file__).parent.parent.parent / "bench" / "results"
SERVED = "triton http"


def changed(run: Older, engine: str = SERVED, slower: float = 1.0, floor: float = 0.02) -> Older:
    """The same run with one engine slower, and a noise floor that no machine had a hand in."""
    report: Any = copy.deepcopy(run.report)
    report["noise"]["floor"] = floor
    (found,) = (one for one in report["engines"] if one["name"] == engine)
    for name in ("p50_ms", "p99_ms"):
        found[name] = slower * 10
        found[f"{name}_interval"] = [slower * 9.9, slower * 10.1]
    for clients, loop in found["closed_loop"].items():
        loop["rounds_per_s"] = [rate / slower for rate in (99, 100, 101)]
        found["throughput_per_s"][clients] = 100 / slower
    return replace(run, report=report)


@pytest.fixture(scope="module")
def run(job: Job) -> Older:
    return read_older(job.folder / "report.json")


def of(found: Comparison, engine: str = SERVED) -> dict[str, Change]:
    return {change.of: change for change in found.changes if change.engine == engine}


def test_a_run_is_not_shown_to_differ_from_itself(run: Older) -> None:
    found = compare_runs(run, run)
    assert {change.verdict for change in found.changes} == {"not shown to differ"}
    assert all(change.value == (0 if change.unit == "points" else 1) for change in found.changes)
    assert [change.paired for change in found.changes if change.of == "accuracy"] == [True] * 3
    assert (found.same_rows, found.machine, found.environment, found.decisions) == (True, None, (), ())
    assert remarks(found)[0] == "both runs answered the same rows; the metric is compared row by row"
    assert verdict(found).startswith(f"Of {len(found.changes)} figures 0 got worse, 0 got better")


def test_what_got_slower_is_worse_and_the_other_way_round_better(run: Older) -> None:
    fast, slow = changed(run), changed(run, slower=1.5)
    worse, better = of(compare_runs(fast, slow)), of(compare_runs(slow, fast))
    for name in ("p50", "p99"):
        assert (worse[name].verdict, better[name].verdict) == ("worse", "better")
        assert (worse[name].old, worse[name].new) == (10, 15)
        assert worse[name].value == pytest.approx(1.5)
        assert better[name].value == pytest.approx(1 / 1.5)
        low, high = worse[name].interval
        assert low is not None
        assert high is not None
        assert 1.45 < low < 1.5 < high < 1.55
    assert (worse["throughput"].verdict, better["throughput"].verdict) == ("worse", "better")
    assert worse["throughput"].value == pytest.approx(1 / 1.5, rel=1e-3)
    assert better["throughput"].value == pytest.approx(1.5, rel=1e-3)
    assert worse["throughput"].interval[1] < 0.7  # type: ignore[operator]
    others = [change for change in compare_runs(fast, slow).changes if change.engine != SERVED]
    assert {change.verdict for change in others} == {"not shown to differ"}


@pytest.mark.parametrize("slower", [1.2, 1 / 1.2])
def test_a_latency_within_the_noise_floor_of_either_run_is_not_shown_to_differ(run: Older, slower: float) -> None:
    found = of(compare_runs(changed(run), changed(run, slower=slower, floor=0.25)))
    assert (found["p50"].verdict, found["p50"].floor) == ("not shown to differ", 0.25)
    assert found["throughput"].floor is None


def test_an_end_of_an_interval_that_one_run_does_not_know_is_none(run: Older) -> None:
    old = changed(run)
    (engine,) = (one for one in old.report["engines"] if one["name"] == SERVED)
    engine["p99_ms_interval"] = [9.9, None]
    low, high = of(compare_runs(old, changed(run)))["p99"].interval
    assert low is None
    assert high is not None


def test_samples_that_are_damaged_are_named(run: Older, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(run.report), encoding="utf-8")
    (tmp_path / "samples.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ArtifactError, match=r"samples\.npz is damaged"):
        read_older(tmp_path / "report.json")


def test_a_file_in_the_place_of_the_folder_is_named(run: Older, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        write_comparison(compare_runs(run, run), tmp_path / "file")


def test_other_rows_are_said_and_nothing_is_paired(run: Older) -> None:
    other = replace(run, report={**run.report, "rows_sha256": "0" * 64})
    found = compare_runs(run, other)
    assert found.same_rows is False
    assert not any(change.paired for change in found.changes)
    assert remarks(found)[0].endswith("not row by row: the runs answered different rows")


def test_without_samples_it_is_said_that_there_are_none(run: Older) -> None:
    found = compare_runs(run, Older(run.report))
    assert remarks(found)[0].endswith("one of them kept no samples (samples.npz) beside its report")


def test_timings_of_another_machine_are_shown_and_not_judged(run: Older) -> None:
    environment = {**run.report["environment"], "cpu": "another", "packages": {"torch": "9.9"}}
    other = changed(replace(run, report={**run.report, "environment": environment}), slower=2)
    found = compare_runs(changed(run), other)
    assert {change.verdict for change in found.changes if change.of != "accuracy"} == {"not judged"}
    assert of(found)["accuracy"].verdict == "not shown to differ"
    assert of(found)["p50"].value == pytest.approx(2)
    differing = {difference.of: difference.new for difference in found.environment}
    assert differing["cpu"] == "another"
    assert differing["packages.torch"] == "9.9"
    assert of(compare_runs(changed(run), other, any_machine=True))["p50"].verdict == "worse"


def test_engines_of_one_run_only_and_other_decisions_are_named(run: Older) -> None:
    report: Any = copy.deepcopy(run.report)
    report["engines"][1]["name"] = "openvino"
    report["decisions"][0] |= {"value": "lora"}
    found = compare_runs(run, replace(run, report=report))
    assert (found.gone, found.added) == (("onnxruntime int8-dynamic",), ("openvino",))
    assert [(one.of, one.old, one.new) for one in found.decisions] == [("tune: method", "fine-tuning", "lora")]
    assert "only the older run has onnxruntime int8-dynamic" in remarks(found)


def test_reports_of_the_first_schema_can_be_compared_and_shown() -> None:
    old = read_older(RECORDED / "epyc-2-cores" / "review-sentiment.json")
    found = compare_runs(old, old)
    assert found.same_rows is None
    assert {change.of for change in found.changes} == {"p50", "p99", "throughput", "accuracy"}
    assert all(change.floor is None for change in found.changes)
    assert remarks(found)[0].endswith("one of the reports does not say which rows it is of")
    assert verdict(found) in render_comparison(found)
    text = render_comparison_markdown(found)
    assert sum(line.startswith(f"| {SERVED} (") for line in text.splitlines()) == 4


def test_reports_of_the_second_schema_can_be_compared_with(run: Older, tmp_path: Path) -> None:
    """They have neither parts, nor every ECE, nor the rows that engines disagree on."""
    report: Any = copy.deepcopy(run.report) | {"schema_version": 2}
    del report["disagreements"]
    for engine in report["engines"]:
        del engine["ece"], engine["parts"]
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    found = compare_runs(read_older(tmp_path / "report.json"), run)
    assert (found.same_rows, len(found.changes)) == (True, len(compare_runs(run, run).changes))
    assert {change.verdict for change in found.changes} == {"not shown to differ"}
    newer = report | {"schema_version": 4}
    (tmp_path / "report.json").write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(ArtifactError, match="a newer tldeploy wrote it"):
        read_older(tmp_path / "report.json")


def test_the_verb_writes_both_files_and_prints_what_changed(
    job: Job, run: Older, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(changed(run, slower=1.5).report), encoding="utf-8")
    before = tmp_path / "before.json"
    before.write_text(json.dumps(changed(run).report), encoding="utf-8")
    assert execute(["compare", str(before), str(slower), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "× 1.500" in shown
    assert "figures 3 got worse, 0 got better" in shown
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["comparison.html", "comparison.md"]
    assert execute(["compare", str(before), str(slower), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    worse = [(change["engine"], change["of"]) for change in found["changes"] if change["verdict"] == "worse"]
    assert worse == [(SERVED, "p50"), (SERVED, "p99"), (SERVED, "throughput")]
    assert execute(["compare", str(before), str(tmp_path / "none.json")]) == 5
