"""What becomes of variants with given figures."""

from __future__ import annotations

from typing import Any

import pytest

from tldeploy.artifacts import Choice
from tldeploy.exporting.parity import Parity
from tldeploy.exporting.scorecard import Entry, Speed
from tldeploy.exporting.selection import PREFERENCE, choose, judge
from tldeploy.measuring.statistics import Estimate
from tldeploy.recipe import Export
from tldeploy.tasks.metrics import Drop, Metric

METRIC = Metric("weighted_f1", 0.8, 0.75, 0.85, 1000)
SAME = Estimate(1, 1, 1)


def entry(
    name: str,
    lost: float = 0.0,
    faster: Estimate = SAME,
    batches: Estimate = SAME,
    size: int = 100,
    *,
    doubt: float = 0.1,
    rows: int = 1000,
    off: float = 1e-6,
    not_finite: int = 0,
    measured: bool = True,
) -> Entry:
    speed = Speed(1.0, faster, 100.0, batches, 5.0, 10.0) if measured else None
    drop = Drop(lost, lost - doubt, lost + doubt, 0.99, rows)
    parity = Parity([(1, 7)], off, off, 1.0)
    return Entry(name, f"{name}.onnx", size, parity, METRIC, drop, not_finite, speed, {}, [])


def about(*others: Entry, measured: bool = True, **settings: Any) -> tuple[Choice, dict[str, tuple[bool, str]]]:
    """The choice among fp32 and others; and of each other whether it was kept, and why."""
    export = Export.model_validate(settings)
    entries = judge([entry("fp32", measured=measured), *others], export)
    assert entries[0].kept
    return choose(entries, export), {found.name: (found.kept, found.reason) for found in entries[1:]}


TWICE, ABOUT_AS_FAST, SLOWER = Estimate(2.0, 1.9, 2.1), Estimate(1.05, 0.98, 1.1), Estimate(0.6, 0.5, 0.7)


@pytest.mark.parametrize(
    ("other", "kept", "said"),
    [
        (entry("int8-dynamic", 0.4, TWICE), True, "2.00 [1.90, 2.10] times as fast as fp32; +0.40 points lost"),
        (entry("int8-dynamic", 0.6, TWICE), False, "+0.60 points lost [+0.50, +0.70] on 1000 rows, the budget is 0.5"),
        (entry("int8-dynamic", -0.2, ABOUT_AS_FAST), False, "not surely faster: 1.05 [0.98, 1.10]"),
        (entry("int8-dynamic", 0.1, SLOWER), False, "not surely faster: 0.60"),
        (entry("fused", 0.0, TWICE, off=1e-3), False, "differs from PyTorch by 1.0e-03, tolerance 1e-04"),
        (entry("int8-dynamic", 0.0, TWICE, off=1e-1), True, "within the budget of 0.5"),
        (entry("int8-dynamic", 0.0, TWICE, not_finite=3), False, "answered 3 of 1000 rows with numbers that are not"),
        (entry("int8-dynamic", 0.4, TWICE, doubt=0.2), True, "though these rows are too few to prove it"),
        (entry("int8-dynamic", 0.0, TWICE, rows=279), True, "though these rows are too few to prove it"),
    ],
)
def test_a_variant_is_kept_only_if_it_earns_it(other: Entry, kept: bool, said: str) -> None:
    choice, became = about(other)
    assert (became[other.name][0], choice.value) == (kept, other.name if kept else "fp32")
    assert said in became[other.name][1]


@pytest.mark.parametrize(
    ("other", "kept", "said"),
    [
        (entry("int8-dynamic", 0.1, TWICE, doubt=0.3), True, "within the budget"),
        (entry("int8-dynamic", 0.3, TWICE, doubt=0.3), False, "at worst 0.60; the budget is 0.5"),
        (entry("int8-dynamic", 0.0, TWICE, doubt=0.0, rows=600), True, "within the budget"),
        (entry("int8-dynamic", 0.0, TWICE, doubt=0.0, rows=599), False, "cannot be proven on fewer than 600 rows"),
    ],
)
def test_judged_by_the_interval_its_upper_end_must_be_within_the_budget(other: Entry, kept: bool, said: str) -> None:
    _, became = about(other, judge_by="interval")
    assert became["int8-dynamic"][0] == kept
    assert said in became["int8-dynamic"][1]


def test_an_int8_variant_over_the_budget_points_to_the_last_resort_unless_it_was_tried() -> None:
    lost = [entry(name, 0.6, TWICE) for name in ("int8-dynamic", "int8-static", "int4-weights", "fused")]
    said = "the budget is 0.5; `tune.quantization_aware` trains the network for it"
    for learnt_rounding, pointed in ((False, {"int8-dynamic", "int8-static"}), (True, set())):
        found = judge([entry("fp32"), *lost], Export(), learnt_rounding)
        assert {one.name for one in found if one.reason.endswith(said)} == pointed


FAST_ALONE = entry("int8-dynamic", 0.1, Estimate(3, 2.9, 3.1), Estimate(1.5, 1.4, 1.6), size=30)
FAST_IN_BATCHES = entry("int8-static", 0.1, Estimate(2, 1.9, 2.1), Estimate(2.5, 2.4, 2.6), size=29)
SMALL_AND_SLOW = entry("int4-weights", 0.1, SLOWER, SLOWER, size=15)


@pytest.mark.parametrize(
    ("goal", "chosen", "kept", "said"),
    [
        ("latency", "int8-dynamic", {"int8-dynamic", "int8-static"}, "the fastest within the budget: 3.00"),
        (
            "throughput",
            "int8-static",
            {"int8-dynamic", "int8-static"},
            "the fastest in batches within the budget: 2.50 [2.40, 2.60] times as fast as fp32 in batches",
        ),
        (
            "size",
            "int4-weights",
            {"int8-dynamic", "int8-static", "int4-weights"},
            "the smallest within the budget: 0.15",
        ),
    ],
)
def test_the_goal_says_what_a_variant_must_be_better_in(goal: str, chosen: str, kept: set[str], said: str) -> None:
    choice, became = about(FAST_ALONE, FAST_IN_BATCHES, SMALL_AND_SLOW, goal=goal)
    assert choice.value == chosen
    assert said in choice.reason
    assert {name for name, (is_kept, _) in became.items() if is_kept} == kept


def test_for_size_a_file_that_is_no_smaller_is_refused() -> None:
    choice, became = about(entry("fused", 0.0, TWICE, TWICE, size=100), goal="size")
    assert (choice.value, became["fused"]) == ("fp32", (False, "not smaller: 1.00 of fp32's size"))
    assert choice.reason == "no other variant is both better and within the budget"


def test_without_the_targets_speed_the_first_within_the_budget_is_chosen_in_the_stated_order() -> None:
    names = ("int8-weights", "fp16", "fused")
    unmeasured = [entry(name, 0.6 if name == "fp16" else 0.1, measured=False) for name in names]
    choice, became = about(*unmeasured, measured=False, target="cuda")
    assert PREFERENCE["cuda"][:3] == ("fp16", "fused", "int8-weights")
    assert choice.value == "fused"
    assert choice.reason.startswith("speed was not measured here; the first of fp16, fused, int8-weights,")
    assert became["int8-weights"] == (
        True,
        "its speed was not measured; +0.10 points lost [+0.00, +0.20] on 1000 rows, within the budget of 0.5",
    )


def test_what_has_no_place_in_the_order_is_kept_and_not_said_to_be_over_the_budget() -> None:
    choice, became = about(entry("fused", measured=False), measured=False, target="tensorrt")
    assert (choice.value, became["fused"][0]) == ("fp32", True)
    assert choice.reason == "speed was not measured here, and none of int8-static, fp16 is there and within the budget"


def test_a_size_is_known_without_the_target() -> None:
    small, large = entry("int8-weights", size=30, measured=False), entry("fp16", size=50, measured=False)
    choice, _ = about(large, small, measured=False, target="cuda", goal="size")
    assert choice.value == "int8-weights"


def test_fp32_alone_is_the_reference() -> None:
    assert about()[0].reason == "the reference that the others are measured against"
