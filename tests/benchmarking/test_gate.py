from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarking.job import HASHES, write_job
from tests.benchmarking.simulated import simulated
from tests.engine import Engine
from tldeploy import recipe
from tldeploy.benchmarking.bench import bench
from tldeploy.benchmarking.gate import Judged, judge, parse
from tldeploy.benchmarking.older import paired_drop, read_older
from tldeploy.benchmarking.report import Report
from tldeploy.errors import ArtifactError, UsageError

ROOT = Path(__file__).parent.parent.parent


def states(text: str, old: Report, new: Report, **how: Any) -> list[str]:
    return [found.state for found in judge(parse(text), old, new, **how)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("p99+10%", [("p99", 0.1)]),
        ("p99+10%,accuracy-0.5pt", [("p99", 0.1), ("accuracy", 0.5)]),
        (" p99.9+2.5% , throughput-5% ,", [("p99.9", 0.025), ("throughput", 0.05)]),
    ],
)
def test_conditions_are_read(text: str, read: list[tuple[str, float]]) -> None:
    assert [(found.metric, found.allowed) for found in parse(text)] == read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there are none"),
        ("p99", "'p99' is not a metric, a sign, a number and a unit"),
        ("p98+3%", r"'p98\+3%' is about 'p98', which is not measured"),
        ("p99-10%", r"'p99-10%' should be p99\+10%, as p99 gets worse by that"),
        ("accuracy-1%", "should be accuracy-1pt"),
        ("accuracy+1pt", "should be accuracy-1pt"),
        ("p50+x%,throughput+5%", r"'p50\+x%' is not .*; 'throughput\+5%' should be throughput-5%"),
    ],
)
def test_every_mistake_in_the_conditions_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"cannot read the conditions .*{said}"):
        parse(text)


def test_nothing_fails_when_nothing_changed() -> None:
    """With nothing allowed one run in forty may fail by chance, of 200 at most 12 (once in 500 times).

    So it is of one condition alone, and of four that are asked together.
    """
    alone = {"p50+0%": 0, "p99+0%": 0, "throughput-0%": 0, "accuracy-0pt": 0}
    together = 0
    for seed in range(200):
        old, new = simulated(seed), simulated(seed + 1000)
        for text in alone:
            alone[text] += states(text, old, new) == ["failed"]
        together += "failed" in states(",".join(alone), old, new)
    assert all(count <= 12 for count in alone.values()), alone
    assert together <= 12
    assert together < sum(alone.values()), "the four by themselves fail more often"
    assert all(states("p99+25%", simulated(seed), simulated(seed + 1000)) != ["failed"] for seed in range(20))


def test_intervals_are_wider_the_more_conditions_hold_together() -> None:
    old, new = simulated(1), simulated(2, slower=1.1)
    alone = [judge(parse(text), old, new)[0] for text in ("p99+10%", "throughput-5%", "accuracy-1pt")]
    together = judge(parse("p99+10%,throughput-5%,accuracy-1pt"), old, new)
    for sharp, wide in zip(alone, together, strict=True):
        assert sharp.change is not None
        assert wide.change is not None
        assert wide.change.value == sharp.change.value
        assert width(wide) > 1.2 * width(sharp), "the normal law has 1.22 times for three, Student's more"


def test_timings_that_are_not_judged_do_not_make_the_others_blunter() -> None:
    old, new = simulated(1), simulated(2, wrong=0.3)
    (alone,) = judge(parse("accuracy-1pt"), old, new)
    old["environment"] |= {"cores": 4}
    assert judge(parse("p50+1%,p99+1%,accuracy-1pt"), old, new)[2] == alone


def test_a_slowing_that_is_not_allowed_fails() -> None:
    found = [states("p50+5%", simulated(seed), simulated(seed + 1000, slower=1.15)) for seed in range(50)]
    assert found.count(["failed"]) >= 48
    found = [states("throughput-2%", simulated(seed), simulated(seed + 1000, slower=1.15)) for seed in range(50)]
    assert found.count(["failed"]) >= 48


def test_five_percent_are_found_where_there_are_rows_enough_to_see_them() -> None:
    """A median of 3,200 rows is known to about 1.3 %, so two of them differ by 5 % for sure."""
    runs = [(simulated(seed, rows=3200), simulated(seed + 1000, slower=1.05, rows=3200)) for seed in range(50)]
    assert sum(states("p50+0%", old, new) == ["failed"] for old, new in runs) >= 45
    assert sum(states("p50+10%", old, new) == ["passed"] for old, new in runs) >= 45


def test_a_slowing_that_is_allowed_does_not_fail_and_one_that_might_be_more_is_unsure() -> None:
    old = simulated(1)
    assert states("p50+20%", old, simulated(2, slower=1.1)) == ["passed"]
    (found,) = judge(parse("p99+10%"), old, simulated(2, slower=1.1))
    assert found.state == "unsure"
    assert found.change is not None
    assert found.change.low < 0.1 < found.change.high


def test_a_loss_of_accuracy_fails_when_it_is_sure() -> None:
    assert states("accuracy-0.5pt", simulated(1), simulated(2, wrong=0.4)) == ["failed"]
    assert states("accuracy-0.5pt", simulated(1), simulated(2, wrong=0.21)) == ["unsure"]
    assert states("accuracy-0.5pt", simulated(1), simulated(2, wrong=0.0)) == ["passed"]


def test_a_change_within_the_noise_floor_does_not_fail() -> None:
    old, new = simulated(1), simulated(2, slower=1.15)
    assert states("p50+5%", old, new) == ["failed"]
    loud = simulated(2, slower=1.15, noise_floor=0.3)
    (found,) = judge(parse("p50+5%"), old, loud)
    assert found.state == "unsure"
    assert found.said.endswith("noise floor 30.0%")


def test_timings_of_another_machine_are_not_judged_unless_told() -> None:
    old, new = simulated(1), simulated(2, slower=2, wrong=0.4)
    old["environment"] |= {"cpu": "Intel Xeon", "cores": 4}
    latency, accuracy = judge(parse("p99+10%,accuracy-0.5pt"), old, new)
    assert (latency.state, accuracy.state) == ("not judged", "failed")
    assert latency.said == (
        "timings of two machines cannot be compared: cpu Intel Xeon then, AMD EPYC now; cores 4 then, 2 now"
    )
    assert states("p99+10%", old, new, any_machine=True) == ["failed"]


def test_a_percentile_that_a_report_lacks_is_no_pass() -> None:
    with pytest.raises(UsageError, match=r"cannot judge p99\.9\+1%: the older report has no p99\.9: it needs \d,\d"):
        judge(parse("p99.9+1%"), simulated(1), simulated(2))


def test_reports_of_the_first_schema_can_be_compared_with() -> None:
    """They have no noise floor, no p95, and both ends of every interval."""
    old = read_older(ROOT / "bench" / "results" / "epyc-2-cores" / "review-sentiment.json").report
    new = copy.deepcopy(old)
    (engine,) = (one for one in new["engines"] if one["name"] == new["reported"]["engine"])
    engine["p50_ms"] *= 2
    engine["p50_ms_interval"] = [2 * end for end in engine["p50_ms_interval"]]
    assert states("p50+10%,p99+10%,throughput-50%", old, new)[:2] == ["failed", "unsure"]
    with pytest.raises(UsageError, match=r"the older report has no p95"):
        judge(parse("p95+10%"), old, new)


def test_answers_to_the_same_rows_are_compared_row_by_row(tmp_path: Path) -> None:
    """One wrong answer more in 240, on top of 24 that both have wrong: nothing that two intervals could tell."""
    reports = []
    for name, wrong in (("old", 10), ("new", 9)):
        folder = tmp_path / name
        folder.mkdir()
        tuned, exported = write_job(folder, rows=240)
        engine = Engine("onnxruntime int8-dynamic", lambda n, wrong=wrong: (n + (n % wrong == 0)) % 3)  # type: ignore[misc]
        settings = recipe.Bench(concurrency=[1], seconds=0.01)
        bench(settings, "job", tuned, exported, [engine], out=folder / "bench", inputs="", parents=HASHES)
        reports.append(json.loads((folder / "report.json").read_text()))
    older, newer = (read_older(tmp_path / name / "report.json") for name in ("old", "new"))
    drop = paired_drop(older, newer, "onnxruntime int8-dynamic")
    assert drop is not None
    (sharp,), (blunt,) = (judge(parse("accuracy-0.5pt"), *reports, paired=found) for found in (drop, None))
    assert "row by row on 240 rows" in sharp.said
    assert "from both intervals" in blunt.said
    assert width(sharp) < width(blunt)
    other = replace(newer, report={**reports[1], "rows_sha256": "0" * 64})
    assert paired_drop(older, other, "onnxruntime int8-dynamic") is None
    assert paired_drop(older, newer, "torch eager") is None
    (tmp_path / "old" / "bench" / "samples.npz").unlink()
    without = read_older(tmp_path / "old" / "report.json")
    assert paired_drop(without, newer, "onnxruntime int8-dynamic") is None


def width(found: Judged) -> float:
    assert found.change is not None
    return found.change.high - found.change.low


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("{}", "not the report"), ("[1]", "not the report")],
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(ArtifactError, match=f"cannot compare with .*{said}"):
        read_older(tmp_path / "report.json")
