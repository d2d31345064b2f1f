"""The main job on real data and real weights, through the real server: what the README promises, checked row by row.

`pytest -m proof` asks the server every held-out row; without it, ROWS of them, taken evenly.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tldeploy import artifacts, pipeline
from tldeploy.data.rows import Rows
from tldeploy.recipe import Deploy
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.triton import Client, Protocol
from tldeploy.tasks import load_task
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

pytestmark = pytest.mark.timeout(1800)  # it trains a real network, on whatever machine this is

ROOT = Path(__file__).parent.parent.parent
NAME = "review-sentiment"
ROWS, BENCHED, HELD_OUT = 200, 100, 1854


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's recipe, run in an empty folder, with three variants that are all kept.

    Two epochs of fine-tuning are enough for the published figure. The bench is cut short: a tenth of the seconds,
    BENCHED rows, up to 4 clients, and no requests at random.
    """
    folder = tmp_path_factory.mktemp("work") / "models" / NAME
    folder.mkdir(parents=True)
    recipe = (ROOT / "models" / NAME / "recipe.yaml").read_text(encoding="utf-8")
    short = f"  concurrency: [1, 4]\n  seconds: 0.3\n  rows: {BENCHED}\n  scenarios: []"
    tuned = "  methods: [fine-tuning]\n  epochs: 2\n"
    for whole, cut in (
        (r"  concurrency: \[1, 4, 16\]\n  seconds: 3 .*", short),
        (r"  methods: .*\n  keep: .*\n  epochs: 3\n", tuned),
    ):
        recipe, found = re.subn(whole, cut, recipe)
        assert found == 1
    three = "export:\n  variants: [fp32, fused, int8-dynamic]\n  keep_all: true\n"
    (folder / "recipe.yaml").write_text(recipe.replace("export:\n", three), encoding="utf-8")
    stages = [outcome.stage for outcome in pipeline.run(folder)]
    assert stages == ["fetch", "tune", "export", "deploy", "bench"]
    return folder


@pytest.fixture(scope="module")
def report(job: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job / "report.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def int8(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export artifact with int8-dynamic as the chosen variant, whatever this machine finds fastest."""
    exported = tmp_path_factory.mktemp("int8") / "onnx"
    shutil.copytree(job / "onnx", exported)
    manifest = artifacts.load(exported, "export")
    runner = OnnxRunner(exported / "int8-dynamic.onnx", load_task(manifest.task, exported, manifest.labels))
    rows = json.loads((exported / "golden.json").read_text(encoding="utf-8"))["rows"]
    golden = {"rows": rows, "probabilities": [runner.predict([row])[0].tolist() for row in rows]}
    (exported / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    details = manifest.details | {"chosen": "int8-dynamic"}
    artifacts.seal(exported, manifest.model_copy(update={"details": details}))
    return exported


@pytest.fixture(scope="module")
def server(int8: Path) -> Iterator[Server]:
    repository = int8.parent / "triton_repo"
    publish(int8, repository, NAME, Deploy())
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running


def test_the_report_keeps_to_the_schema_that_the_package_ships(report: dict[str, Any]) -> None:
    schema = json.loads(files("tldeploy.benchmarking").joinpath("report.schema.json").read_text(encoding="utf-8"))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(report)) == []


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
    assert all(set(engine["throughput_per_s"]) == {"1", "4"} for engine in report["engines"])


def test_fine_tuning_reaches_the_published_figure_on_the_held_out_reviews(job: Path, report: dict[str, Any]) -> None:
    tuned = artifacts.load(job / "tuned", "tune")
    held_out = tuned.metrics["fine-tuning"]["test"]
    assert (held_out["name"], held_out["rows"]) == ("weighted_f1", HELD_OUT)
    assert held_out["value"] >= 0.77
    floats = {"torch eager", "onnxruntime fp32", "onnxruntime fused"}
    metrics = [engine["metric"] for engine in report["engines"] if engine["name"] in floats]
    assert [metric["rows"] for metric in metrics] == [BENCHED] * 3
    assert len({metric["value"] for metric in metrics}) == 1


def test_the_served_metric_is_that_of_the_chosen_variant(report: dict[str, Any]) -> None:
    value = {engine["name"]: engine["metric"]["value"] for engine in report["engines"]}
    chosen = value[f"onnxruntime {report['chosen']['variant']}"]
    assert (value["triton http"], value["triton grpc"]) == (chosen, chosen)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("asked", [ROWS, pytest.param(HELD_OUT, marks=pytest.mark.proof)])
def test_int8_served_by_triton_equals_onnxruntime_on_held_out_rows(
    job: Path, int8: Path, server: Server, protocol: Protocol, asked: int
) -> None:
    manifest = artifacts.load(int8, "export")
    task = load_task(manifest.task, int8, manifest.labels)
    rows = Rows.load(job / "tuned" / "test.jsonl")
    assert len(rows) == HELD_OUT
    texts = rows.take(np.arange(asked) * HELD_OUT // asked).inputs
    runner = OnnxRunner(int8 / "int8-dynamic.onnx", task)
    expected = np.concatenate([runner.predict([text]) for text in texts])
    url = server.http_url if protocol == "http" else server.grpc_url
    with Client(url=url, model=NAME, protocol=protocol) as client:
        served = np.concatenate([client.predict([text]) for text in texts])
        labels = [client.classify([text])[0][0].label for text in texts]
    np.testing.assert_array_equal(task.decode(served), task.decode(expected))
    np.testing.assert_allclose(served, expected, atol=1e-6)
    assert labels == [manifest.labels[number] for number in task.decode(expected)]


@pytest.mark.proof
def test_int8_is_as_good_as_fp32_on_every_held_out_row(job: Path, int8: Path) -> None:
    manifest = artifacts.load(int8, "export")
    task = load_task(manifest.task, int8, manifest.labels)
    rows = Rows.load(job / "tuned" / "test.jsonl")
    runners = [OnnxRunner(int8 / f"{name}.onnx", task) for name in ("fp32", "int8-dynamic")]
    fp32, quantized = (np.concatenate([runner.predict([text]) for text in rows.inputs]) for runner in runners)
    assert task.drop(rows.classes, task.decode(fp32), task.decode(quantized)).points <= 0.5


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
