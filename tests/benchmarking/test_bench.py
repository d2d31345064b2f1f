from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarking.job import HASHES, write_job
from tests.engine import Engine
from tldeploy import artifacts, recipe
from tldeploy.benchmarking.bench import bench, lay_out
from tldeploy.errors import ArtifactError, DataError, QualityError
from tldeploy.measuring.isolated import Opening

SETTINGS = recipe.Bench(concurrency=[1, 2], seconds=0.02)


def engines() -> list[Engine]:
    return [
        Engine("torch eager", lambda n: n % 3, lambda n: 0.002),
        Engine("onnxruntime int8-dynamic", lambda n: n % 3 if n % 10 else 0, lambda n: 0.001),
    ]


def run(folder: Path, settings: recipe.Bench = SETTINGS, runners: list[Engine] | None = None) -> artifacts.Manifest:
    tuned, exported = write_job(folder, rows=60)
    out = folder / "bench"
    return bench(settings, "job", tuned, exported, runners or engines(), out=out, inputs="abc", parents=HASHES)


def test_the_artifact_holds_the_report_and_every_sample(tmp_path: Path) -> None:
    manifest = run(tmp_path)
    assert artifacts.load(tmp_path / "bench", "bench") == manifest
    assert artifacts.is_current(tmp_path / "bench", "bench", "abc")
    assert sorted(manifest.files) == ["report.html", "report.json", "report.md", "samples.npz"]
    assert manifest.parents == HASHES
    samples = np.load(tmp_path / "bench" / "samples.npz")
    assert samples["latency_ms"].shape == (2, 60)
    assert samples["probabilities"].shape == (2, 60, 3)
    assert samples["load_completed"].sum() == len(samples["load_latency_ms"])
    assert samples["noise_latency_ms"].shape == (2, 60)


def test_the_report_lies_beside_the_artifact_too(tmp_path: Path) -> None:
    run(tmp_path)
    for name in ("report.json", "report.html", "report.md"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "bench" / name).read_bytes()


def test_a_copy_that_an_interruption_left_out_is_laid_out_later(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.json").write_text("an older one")
    lay_out(tmp_path / "bench")
    for name in ("report.json", "report.html", "report.md"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "bench" / name).read_bytes()


def test_the_figures_of_the_report_are_those_of_the_samples(tmp_path: Path) -> None:
    run(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    samples = np.load(tmp_path / "bench" / "samples.npz")
    for index, engine in enumerate(report["engines"]):
        for share in (50, 90):
            expected = np.percentile(samples["latency_ms"][index], share, method="inverted_cdf")
            assert engine[f"p{share}_ms"] == expected
        assert engine["p99_ms"] is engine["p99_9_ms"] is None, "60 requests cannot carry them"
        assert engine["needed"]["p99_ms"] >= 368
        assert engine["needed"]["p99_9_ms"] >= 3688
        completed, elapsed_s = samples["load_completed"][index], samples["load_elapsed_s"][index]
        for at, level in enumerate(["1", "2"]):
            assert engine["throughput_per_s"][level] == pytest.approx(completed[at].sum() / elapsed_s[at].sum())
        right = samples["probabilities"][index].argmax(axis=1) == samples["truth"]
        assert (engine["metric"]["value"] == 1) == right.all()


def test_what_opening_an_engine_cost_is_reported_where_it_is_known(tmp_path: Path) -> None:
    measured, unknown = engines()
    measured.opening = Opening(seconds=2.5, memory_mb=484.0, size_bytes=90_869_772)  # type: ignore[attr-defined]
    run(tmp_path, runners=[measured, unknown])
    report = json.loads((tmp_path / "report.json").read_text())
    expected = {"seconds": 2.5, "memory_mb": 484.0, "size_bytes": 90_869_772}
    assert [engine["opening"] for engine in report["engines"]] == [expected, None]


def test_fewer_rows_are_taken_evenly(tmp_path: Path) -> None:
    manifest = run(tmp_path, recipe.Bench(concurrency=[1], seconds=0.01, rows=24))
    samples = np.load(tmp_path / "bench" / "samples.npz")
    assert samples["truth"].tolist() == [n % 3 for n in range(60) if n % 5 in (0, 2)], "two of every five"
    assert manifest.decisions[0].value == 24


def test_a_length_that_no_row_can_have_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    asked: list[int] = []
    engine = Engine("a", lambda number: asked.append(number) or 0)
    with pytest.raises(DataError, match="cannot make texts of 500 tokens"):
        run(tmp_path, recipe.Bench(tokens=[500]), [engine])
    assert asked == []


def test_an_engine_that_cannot_be_scored_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="cannot measure old"):
        run(tmp_path, runners=[Engine("old", lambda n: 0, classes=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "tuned"]


def test_an_artifact_that_was_changed_is_refused(tmp_path: Path) -> None:
    tuned, exported = write_job(tmp_path, rows=60)
    with (tuned / "test.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(ArtifactError, match=r"test\.jsonl has changed"):
        bench(SETTINGS, "job", tuned, exported, engines(), out=tmp_path / "bench", inputs="", parents=HASHES)
