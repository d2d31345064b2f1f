"""The whole command line on a small made-up job: what happens when things go wrong in the middle."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_project import FETCH, QUICK, RECIPE, write_index, write_project
from tldeploy import artifacts, pipeline, serving
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, DataError, QualityError, StorageError
from tldeploy.triton import repository

Done = subprocess.CompletedProcess[str]
STAGES = {"tune": "tuned", "export": "onnx", "deploy": "triton_repo", "bench": "bench"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole job with nothing left out; tests that change something take a copy of it."""
    folder = write_project(tmp_path_factory.mktemp("job") / "tiny")
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert execute(["run", str(folder), "--json"]) == 0
    assert json.loads(told.getvalue().splitlines()[-1])
    return folder


def copied(project: Path, folder: Path, recipe: str, without: tuple[str, ...] = ()) -> Path:
    """The finished job with another recipe, less the artifacts of some stages."""
    left_out = [STAGES[stage] for stage in without]
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".cache", *left_out))
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder


@pytest.fixture
def tldeploy(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A command line in this process; processes are for signals."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = execute([str(argument) for argument in arguments])
        return Done(arguments, code, *capsys.readouterr())

    return run


def test_a_run_leaves_every_artifact_and_the_report(project: Path) -> None:
    for kind in ("tune", "export", "bench"):
        assert artifacts.load(project / STAGES[kind], kind).name == "tiny"
    assert (project / "report.html").stat().st_size > 0
    assert {path.name for path in (project / "triton_repo").iterdir()} >= {"tiny", "tiny.graph", "tiny.tokenize"}


def test_what_is_served_is_traced_to_the_recipe_verified_and_without_findings(project: Path) -> None:
    links = serving.trace("tiny", repository=project / "triton_repo").links
    assert [link.what for link in links] == [
        *("graph", "deploy", "export", "tune"),
        *("rows, train", "rows, validation", "rows, test", "rows, calibration", "recipe"),
    ]
    assert {link.state for link in links} == {"intact"}
    assert [version.damaged for version in serving.verify(project / "triton_repo")] == [()]
    assert serving.lint(project / "triton_repo").findings == ()


def test_a_bench_that_is_worse_than_an_older_one_exits_with_8(
    project: Path, tmp_path: Path, tldeploy: Callable[..., Done]
) -> None:
    """Against itself nothing is worse; against a run that was ten times as fast, the latency is.

    So much is allowed that the width of the interval, which is the machine's, decides nothing.
    """
    conditions = ("--fail-on", "p50+300%,accuracy-0.5pt", "--json")
    same = tldeploy("bench", project, "--against", project / "report.json", *conditions)
    assert same.returncode == 0, same.stderr
    assert [found["state"] for found in json.loads(same.stdout.splitlines()[-1])["conditions"]] == ["passed", "passed"]
    report = json.loads((project / "report.json").read_text(encoding="utf-8"))
    for engine in report["engines"]:
        engine["p50_ms"] /= 10
        engine["p50_ms_interval"] = [end and end / 10 for end in engine["p50_ms_interval"]]
    (tmp_path / "faster.json").write_text(json.dumps(report), encoding="utf-8")
    worse = tldeploy("bench", project, "--against", tmp_path / "faster.json", *conditions)
    assert worse.returncode == 8, worse.stderr
    changes = json.loads(worse.stdout.splitlines()[-1])["comparison"]["changes"]
    assert {change["verdict"] for change in changes if change["of"] == "p50"} == {"worse"}
    assert (project / "comparison.html").is_file()
    assert (project / "comparison.md").is_file()
    latency, accuracy = json.loads(worse.stdout.splitlines()[-1])["conditions"]
    assert (latency["state"], accuracy["state"]) == ("failed", "unsure")
    assert latency["worse_by"]["value"] == pytest.approx(9)


def test_a_bench_of_two_generations_is_refused(project: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("test: 0.3", "test: 0.3\n  seed: 1").replace("tune:\n", "tune:\n  methods: [fine-tuning]\n")
    folder = copied(project, tmp_path / "tiny", recipe)
    pipeline.tune(folder)
    with pytest.raises(ArtifactError, match="the export artifact was made from another tune artifact"):
        pipeline.bench(folder)
    pipeline.export(folder, variants=["fp32"])
    with pytest.raises(ArtifactError, match="the deploy artifact was made from another export artifact"):
        pipeline.bench(folder)


def test_a_changed_recipe_redoes_only_what_depends_on_it(project: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("engines: [onnxruntime, triton-http]", "engines: [onnxruntime]\n  scenarios: []")
    folder = copied(project, tmp_path / "tiny", recipe)
    assert {outcome.stage: outcome.skipped for outcome in pipeline.run(folder)} == {
        "tune": True,
        "export": True,
        "deploy": True,
        "bench": False,
    }


def test_settings_found_by_measuring_are_published_and_stay_until_the_recipe_says_otherwise(
    project: Path, tmp_path: Path, tldeploy: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where lengths are merged a worker is started twice for each of the many settings that are tried.
    monkeypatch.setattr("tldeploy.triton.server.merges_lengths", lambda repository: False)
    folder = copied(project, tmp_path / "tiny", RECIPE)
    tuned = ("deploy", folder, "--no-check", "--tune", "--min-latency", "--tune-minutes", "0.05")
    done = tldeploy(*tuned, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found, served = told["tuning"], repository.published(folder / "triton_repo", "tiny").manifest.details
    assert told["version"] == served["version"]
    assert served["tuning"] == found
    assert {name: served["settings"][name] for name in found["chosen"]} == found["chosen"]
    assert found["goal"] == {"aim": "latency", "p99_ms": None}
    assert found["rows"] == "the 70 validation rows"
    assert serving.lint(folder / "triton_repo").findings == ()

    again = tldeploy(*tuned)
    assert "serving: unchanged, kept" in again.stderr
    assert f"why: {found['reason']}" in again.stdout
    assert pipeline.deploy(folder, check=False).skipped, "a deploy without --tune keeps what was found"

    instances = RECIPE.replace("repository: triton_repo", "repository: triton_repo\n  instances: 2")
    (folder / "recipe.yaml").write_text(instances, encoding="utf-8")
    outcome = pipeline.deploy(folder, check=False)
    assert outcome.manifest.details["settings"]["instances"] == 2
    assert outcome.manifest.details["tuning"] is None

    unreachable = tldeploy("deploy", folder, "--tune", "--p99", "0.001ms", "--tune-minutes", "0.01")
    assert unreachable.returncode == QualityError.exit_code
    assert "with 1 client p99 is" in unreachable.stderr
    assert repository.published(folder / "triton_repo", "tiny").version == outcome.manifest.details["version"]


# Where each run is stopped, how, and which stages it finds finished by the runs before it.
INTERRUPTIONS = [
    ("tune: ", "SIGINT", []),
    ("fine-tuning", "SIGTERM", []),
    ("export: graphs", "SIGINT", []),
    ("export: variants", "SIGTERM", ["tune"]),
    ("deploy: ", "SIGINT", ["tune"]),
    ("bench: one request", "SIGINT", ["tune", "export"]),
]


def test_a_run_interrupted_in_every_stage_goes_on_from_the_last_finished_one(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny", QUICK)
    stops = json.dumps([stop[:2] for stop in INTERRUPTIONS])
    command = [sys.executable, str(Path(__file__).with_name("stopped_runs.py")), str(folder), stops]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for run, (_, _, finished) in zip(json.loads(done.stdout), INTERRUPTIONS, strict=True):
        said = run["said"]
        assert run["code"] == 130, said
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert run["half_written"] == []
        assert [stage for stage in ("tune", "export", "deploy") if f"{stage}: unchanged, kept" in said] == finished
    assert [outcome.skipped for outcome in pipeline.run(folder)] == [True, True, True, False]


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_project(tmp_path / "tiny", RECIPE + FETCH)
    write_index(tmp_path / "index", monkeypatch)
    before = sorted(path.name for path in folder.iterdir())
    command = [sys.executable, "-m", "tldeploy", "run", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("fetch: ")
        running.send_signal(signal.SIGINT)
        assert "Traceback" not in running.stderr.read()
        assert running.wait(timeout=60) == 130
    assert sorted(path.name for path in folder.iterdir()) == before
    fetched = pipeline.fetch(folder)
    assert fetched is not None
    assert list(fetched.manifest.files) == ["deep/rows.csv"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_clear_message_in_every_stage(
    project: Path, small_disk: Path, tldeploy: Callable[..., Done], stage: str
) -> None:
    stages = tuple(STAGES)
    folder = copied(project, small_disk / "tiny", QUICK, without=stages[stages.index(stage) :])
    free = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * max(free.f_bavail * free.f_frsize - 20_000, 0))
    full = tldeploy(stage, folder)
    assert full.returncode == StorageError.exit_code, full.stderr
    assert "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    ballast.unlink()
    assert not getattr(pipeline, stage)(folder).skipped


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path, tldeploy: Callable[..., Done]) -> None:
    folder = write_project(tmp_path / "tiny")
    with (folder / "reviews.csv").open("ab") as stream:
        stream.write(b"caf\xe9,positive\n")
    done = tldeploy("run", folder)
    assert done.returncode == DataError.exit_code
    assert "it is not utf-8: byte 0xe9 on line 402" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["backbone", "recipe.yaml", "reviews.csv"]
