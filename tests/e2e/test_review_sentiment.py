"""The main job on real data and real weights, through the real server: what the README promises, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tldeploy import artifacts, pipeline
from tldeploy.data.rows import Rows
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.triton import Client
from tldeploy.tasks import load_task
from tldeploy.triton.server import Server

ROOT = Path(__file__).parent.parent.parent
NAME = "review-sentiment"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's recipe, run in an empty folder; only the throughput part is cut short."""
    folder = tmp_path_factory.mktemp("work") / "models" / NAME
    folder.mkdir(parents=True)
    recipe = (ROOT / "models" / NAME / "recipe.yaml").read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.replace("bench:\n", "bench:\n  seconds: 0.5\n"), encoding="utf-8")
    stages = [outcome.stage for outcome in pipeline.run(folder)]
    assert stages == ["fetch", "tune", "export", "deploy", "bench"]
    return folder


@pytest.fixture(scope="module")
def report(job: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job / "report.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def server(job: Path) -> Iterator[Server]:
    with Server(job.parent.parent / "triton_repo", http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running


def test_the_report_keeps_to_the_schema_that_the_package_ships(report: dict[str, Any]) -> None:
    schema = json.loads(files("tldeploy.benchmarking").joinpath("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)


def test_every_engine_is_in_the_report_with_what_really_ran(report: dict[str, Any]) -> None:
    providers = {engine["name"]: engine["provider"] for engine in report["engines"]}
    assert list(providers) == [
        "torch eager",
        "onnxruntime fp32",
        "onnxruntime fused",
        "onnxruntime int8-dynamic",
        "triton http",
        "triton grpc",
    ]
    assert {providers[name] for name in providers if name.startswith("onnxruntime")} == {"CPUExecutionProvider"}
    assert all("Triton 2." in providers[name] for name in providers if name.startswith("triton"))
    assert all(set(engine["throughput_per_s"]) == {"1", "4", "16"} for engine in report["engines"])


def test_fp32_reaches_the_published_figure_on_the_held_out_reviews(report: dict[str, Any]) -> None:
    for engine in report["engines"]:
        if engine["name"] in {"torch eager", "onnxruntime fp32", "onnxruntime fused"}:
            assert engine["metric"]["name"] == "weighted_f1"
            assert engine["metric"]["rows"] == 1854
            assert engine["metric"]["value"] >= 0.77


def test_int8_served_by_triton_is_within_half_a_point_of_fp32(report: dict[str, Any]) -> None:
    value = {engine["name"]: engine["metric"]["value"] for engine in report["engines"]}
    assert report["chosen"]["variant"] == "int8-dynamic"
    assert value["triton http"] >= value["onnxruntime fp32"] - 0.005
    assert value["triton grpc"] >= value["onnxruntime fp32"] - 0.005


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_served_answers_equal_in_process_ones_on_every_held_out_row(job: Path, server: Server, protocol: str) -> None:
    manifest = artifacts.load(job / "onnx", "export")
    task = load_task(manifest.task, job / "onnx", manifest.labels)
    rows = Rows.load(job / "tuned" / "test.jsonl")
    runner = OnnxRunner(job / "onnx" / f"{manifest.details['chosen']}.onnx", task)
    expected = np.concatenate([runner.predict([text]) for text in rows.texts])
    url = server.http_url if protocol == "http" else server.grpc_url
    with Client(url=url, model=NAME, protocol=protocol) as client:  # type: ignore[arg-type]  # from parametrize
        served = np.concatenate([client.predict([text]) for text in rows.texts])
        labels = [client.classify([text])[0][0].label for text in rows.texts]
    assert len(served) == 1854
    np.testing.assert_array_equal(task.decode(served), task.decode(expected))
    np.testing.assert_allclose(served, expected, atol=1e-6)
    assert labels == [manifest.labels[number] for number in task.decode(expected)]


def test_the_report_page_stands_alone(job: Path) -> None:
    page = (job / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert 'src="http' not in page
    assert "review-sentiment" in page


def test_a_second_run_has_nothing_to_do(job: Path) -> None:
    assert [outcome.skipped for outcome in pipeline.run(job)] == [True] * 5


def test_lineage_goes_from_the_report_back_to_the_data(job: Path, report: dict[str, Any]) -> None:
    fetched, tuned, exported = (
        artifacts.load(job / folder, kind)
        for folder, kind in (("data", "fetch"), ("tuned", "tune"), ("onnx", "export"))
    )
    assert tuned.parents == {"fetch": fetched.sha256}
    assert exported.parents == {"tune": tuned.sha256}
    assert report["parents"]["export"] == exported.sha256
