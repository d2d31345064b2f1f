from __future__ import annotations

import copy
import json
from dataclasses import fields
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from tests.benchmarking.conftest import HOSTILE, Job
from tests.benchmarking.job import HASHES
from tldeploy.benchmarking.remarks import remarks, render_server
from tldeploy.benchmarking.report import headline, milliseconds, render_table, weakest_class
from tldeploy.exporting.scorecard import Entry, Speed

SCHEMA: dict[str, Any] = json.loads(
    files("tldeploy.benchmarking").joinpath("report.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_report_follows_the_schema(job: Job) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(job.report)] == []


def test_the_schema_describes_every_field(job: Job) -> None:
    assert set(SCHEMA["properties"]) == set(job.report)
    assert set(SCHEMA["$defs"]["engine"]["properties"]) == set(job.report["engines"][0])
    assert set(SCHEMA["properties"]["variants"]["items"]["properties"]) == set(job.report["variants"][2])


def test_the_schema_describes_every_field_that_a_variant_gets() -> None:
    every = {field.name for field in (*fields(Entry), *fields(Speed))} - {"golden", "speed"}
    assert set(SCHEMA["properties"]["variants"]["items"]["properties"]) == every


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("engines", 0, "p50_ms"), "fast"),
        (("engines", 0, "metric", "value"), 1.2),
        (("engines", 0, "speedup"), 2.0),
        (("engines", 0, "throughput_per_s"), {"many": 3.0}),
        (("parents", "tune"), "not a hash"),
        (("variants", 2, "throughput_speedup"), 2.1),
        (("variants", 2, "providers"), {"CPUExecutionProvider": 1.5}),
        (("held_out",), {"drop": None}),
        (("chosen",), {"variant": "fp32"}),
        (("extra",), 1),
    ],
)
def test_the_schema_refuses_what_is_wrong(job: Job, place: tuple[Any, ...], wrong: Any) -> None:
    report: Any = copy.deepcopy(job.report)
    inner = report
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = wrong
    assert not VALIDATOR.is_valid(report)


def test_a_speedup_is_over_torch_and_agreement_counts_its_labels(job: Job) -> None:
    torch, int8, served = job.report["engines"]
    assert torch["speedup"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert torch["agreement"] == 1.0
    assert int8["speedup"]["low"] > served["speedup"]["high"] > 1
    assert int8["agreement"] == served["agreement"] == 54 / 60


def test_what_is_no_server_has_no_rate_and_no_generator(job: Job) -> None:
    for engine in job.report["engines"][:2]:
        assert engine["server"] is None
        assert {level["generator"] for level in engine["closed_loop"].values()} == {None}
    assert all(level["generator"]["kept_up"] for level in job.report["engines"][2]["closed_loop"].values())


def test_the_server_scenario_says_what_theory_does(job: Job) -> None:
    """M/M/1 with 500 a second: at 40 the p99 is ln(100) / 460 s = 10 ms, at 490 it is 460 ms."""
    found = job.report["engines"][2]["server"]
    light, heavy = found["trials"]
    assert (found["p99_bound_ms"], found["highest_rate_per_s"]) == (100, 40)
    low, high = light["p99_ms_interval"]
    assert low < 1000 * np.log(100) / 460 < high
    assert (light["over_bound"], light["dropped"]) == (0, 0)
    assert heavy["over_bound"] > 0.01 * heavy["samples"]
    assert heavy["p99_ms"] > 100
    assert not heavy["keeps_bound"]
    shown = render_server(job.report).splitlines()
    assert shown[2].startswith("triton http")
    assert shown[-1] == "triton http: p99 within 100 ms up to 40.0 requests a second"
    report = copy.deepcopy(job.report)
    report["engines"][2]["server"]["trials"][0] |= {"samples": 90, "p99_ms": None, "p99_ms_interval": None}
    assert render_server(report).endswith("40.0 requests a second; 90 requests are too few to be sure of it")


def test_every_scenario_that_was_asked_for_is_in_the_report(job: Job) -> None:
    for engine in job.report["engines"]:
        assert engine["multi_stream"]["query_rows"] == engine["offline"]["batch_rows"] == 8
        assert engine["multi_stream"]["samples"] == 8
        assert list(engine["fixed_shapes"]) == ["1"]
        assert engine["fixed_shapes"]["1"]["samples"] == 60


def test_a_difference_inside_the_noise_is_said_to_be_none(job: Job) -> None:
    report = copy.deepcopy(job.report)
    assert report["noise"]["engine"] == "triton http"
    assert all(engine["verdict"]["differ"] for engine in report["engines"][1:]), "four times and twice as fast"
    assert not any("inside the noise" in said for said in remarks(report))
    report["engines"][1] |= {"speedup": {"value": 1.01, "low": 0.99, "high": 1.03}}
    report["engines"][1]["verdict"] = {"differ": False, "more_rounds": 1200}
    said = "onnxruntime int8-dynamic: 1.010 times PyTorch is inside the noise; to tell needs about 1,200 more rounds"
    assert any(remark.startswith(said) for remark in remarks(report))


def test_what_was_not_warm_and_load_that_was_not_kept_up_are_said(job: Job) -> None:
    report = copy.deepcopy(job.report)
    assert "load on triton http came from a process of its own, which kept up with it" in remarks(report)
    served = report["engines"][2]
    served["warm_up"] = {"requests": 300, "seconds": 12.0, "settled": False}
    served["closed_loop"]["4"]["generator"] |= {"cpu_share": 0.95, "kept_up": False}
    served["server"]["trials"][1]["generator"]["kept_up"] = False
    said = "\n".join(remarks(report))
    assert "triton http: still getting faster after 300 requests of warm-up (12.0 s)" in said
    assert (
        "triton http: at 4 clients, 490/s the figures are in part the load generator's: it used over 80% of a core"
        in said
    )
    assert "which kept up" not in said


def test_the_metric_is_that_of_the_answers(job: Job) -> None:
    torch, int8, served = job.report["engines"]
    assert torch["metric"]["value"] == 1
    assert int8["metric"] == served["metric"]
    assert int8["metric"]["value"] == pytest.approx(0.9, abs=0.01)
    assert int8["metric"]["rows"] == 60


def test_the_confusion_matrix_counts_true_classes_by_rows(job: Job) -> None:
    reported = job.report["reported"]
    assert reported["engine"] == "triton http"
    assert reported["confusion"] == [[18, 2, 0], [0, 18, 2], [2, 0, 18]]
    for found in reported["classes"]:
        assert (found["precision"], found["recall"], found["f1"], found["support"]) == (0.9, 0.9, 0.9, 20)


def test_what_earlier_stages_recorded_is_passed_on(job: Job) -> None:
    assert [variant["name"] for variant in job.report["variants"]] == ["fp32", "fused", "int8-dynamic"]
    assert job.report["held_out"]["drop"]["points"] == 0.2
    assert job.report["chosen"] == {"variant": "int8-dynamic", "reasons": ["the fastest within the budget"]}
    assert list(job.report["methods"]) == ["feature-extraction", "fine-tuning"]
    assert [choice["stage"] for choice in job.report["decisions"]] == ["tune", "export", "bench", "bench"]
    assert job.report["parents"] == HASHES
    assert job.report["labels"][1] == HOSTILE


def test_the_headline_says_the_result_in_words(job: Job) -> None:
    report = copy.deepcopy(job.report)
    report["engines"][2] |= {"p50_ms": 4.123, "speedup": {"value": 2.44, "low": 2.3, "high": 2.6}}
    report["engines"][2]["metric"] |= {"value": 0.7821, "low": 0.7604, "high": 0.8}
    assert headline(report) == (
        "int8-dynamic, served by Triton over HTTP: weighted F1 0.782 [0.760, 0.800], p50 4.12 ms, "
        "2.4 [2.3, 2.6] times as fast as PyTorch"
    )
    report["reported"]["engine"] = "torch eager"
    assert headline(report).startswith("torch eager: weighted F1 1.000")
    assert "PyTorch" not in headline(report)


def test_the_weakest_class_is_named(job: Job) -> None:
    report = copy.deepcopy(job.report)
    report["reported"]["classes"][1] |= {
        "label": "neutral",
        "f1": 0.3,
        "precision": 0.5,
        "recall": 0.2,
        "support": 1140,
    }
    assert weakest_class(report) == "weakest class: neutral, F1 0.300, precision 0.500, recall 0.200, of 1,140 rows"


def test_where_every_class_is_answered_right_none_is_called_weak(job: Job) -> None:
    report = copy.deepcopy(job.report)
    for entry in report["reported"]["classes"]:
        entry["f1"] = 1.0
    assert weakest_class(report) == "no class is weakest: each has an F1 of 1"


def test_without_torch_there_is_no_speedup(job: Job) -> None:
    report = copy.deepcopy(job.report)
    for engine in report["engines"]:
        engine |= {"speedup": None, "agreement": None}
    assert VALIDATOR.is_valid(report)
    assert "PyTorch" not in headline(report)
    assert render_table(report).splitlines()[2].endswith(" -")


def test_the_terminal_table_is_aligned_and_has_the_reports_figures(job: Job) -> None:
    head, rule, *rows = render_table(job.report).splitlines()
    assert head.split("  ")[0] == "engine"
    assert "rows/s @1  rows/s @4" in head
    assert set(rule) == {"-", " "}
    assert len(rows) == 3
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}
    for row, engine in zip(rows, job.report["engines"], strict=True):
        cells = [cell for cell in row.split("  ") if cell]
        assert cells[0].strip() == engine["name"]
        assert cells[2].strip() == milliseconds(engine["p50_ms"])
        assert cells[-1].strip().startswith(f"{engine['speedup']['value']:.2f} [")


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.12"), (9.876, "9.88"), (12.34, "12.3"), (1234.5, "1234")])
def test_milliseconds_are_short(value: float, text: str) -> None:
    assert milliseconds(value) == text
