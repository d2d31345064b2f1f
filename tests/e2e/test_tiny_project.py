"""The whole command line on a small made-up job: what happens when things go wrong in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_project import FETCH, write_index, write_project
from tldeploy import artifacts, pipeline, serving
from tldeploy.errors import ArtifactError, DataError, QualityError, StorageError
from tldeploy.triton import repository

STAGES = {"tune": "tuned", "export": "onnx", "bench": "bench"}


def tldeploy(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tldeploy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("job") / "tiny")
    done = tldeploy("run", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
    return folder


def test_a_run_leaves_every_artifact_and_the_report(project: Path) -> None:
    for kind, folder in STAGES.items():
        assert artifacts.load(project / folder, kind).name == "tiny"
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


def test_a_bench_that_is_worse_than_an_older_one_exits_with_8(project: Path, tmp_path: Path) -> None:
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


def test_a_bench_of_two_generations_is_refused(project: Path) -> None:
    recipe = project / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    recipe.write_text(before.replace("test: 0.3", "test: 0.3\n  seed: 1"), encoding="utf-8")
    try:
        pipeline.tune(project)
        with pytest.raises(ArtifactError, match="the export artifact was made from another tune artifact"):
            pipeline.bench(project)
        pipeline.export(project)
        with pytest.raises(ArtifactError, match="the deploy artifact was made from another export artifact"):
            pipeline.bench(project)
    finally:
        recipe.write_text(before, encoding="utf-8")
        pipeline.run(project)


def test_a_changed_recipe_redoes_only_what_depends_on_it(project: Path) -> None:
    recipe = project / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    recipe.write_text(before.replace("seconds: 0.3", "seconds: 0.2"), encoding="utf-8")
    try:
        assert {outcome.stage: outcome.skipped for outcome in pipeline.run(project)} == {
            "tune": True,
            "export": True,
            "deploy": True,
            "bench": False,
        }
    finally:
        recipe.write_text(before, encoding="utf-8")


def test_settings_found_by_measuring_are_published_and_stay_until_the_recipe_says_otherwise(project: Path) -> None:
    recipe = project / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    tuned = ("deploy", project, "--tune", "--min-latency", "--tune-minutes", "0.05")
    try:
        done = tldeploy(*tuned, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        found, served = told["tuning"], repository.published(project / "triton_repo", "tiny").manifest.details
        assert told["version"] == served["version"]
        assert served["tuning"] == found
        assert {name: served["settings"][name] for name in found["chosen"]} == found["chosen"]
        assert found["goal"] == {"aim": "latency", "p99_ms": None}
        assert found["rows"] == "the 70 validation rows"
        assert serving.lint(project / "triton_repo").findings == ()

        again = tldeploy(*tuned)
        assert "serving: unchanged, kept" in again.stderr
        assert f"why: {found['reason']}" in again.stdout
        assert pipeline.deploy(project).skipped, "a deploy without --tune keeps what was found"

        recipe.write_text(before.replace("repository: triton_repo", "repository: triton_repo\n  instances: 2"))
        outcome = pipeline.deploy(project)
        assert outcome.manifest.details["settings"]["instances"] == 2
        assert outcome.manifest.details["tuning"] is None

        unreachable = tldeploy("deploy", project, "--tune", "--p99", "0.001ms", "--tune-minutes", "0.01")
        assert unreachable.returncode == QualityError.exit_code
        assert "with 1 client p99 is" in unreachable.stderr
        assert repository.published(project / "triton_repo", "tiny").version == outcome.manifest.details["version"]
    finally:
        recipe.write_text(before, encoding="utf-8")
        shutil.rmtree(project / "serving", ignore_errors=True)


# Where each run is stopped, how, and which stages it finds finished by the runs before it.
INTERRUPTIONS = [
    ("tune: ", signal.SIGINT, []),
    ("fine-tuning", signal.SIGTERM, []),
    ("export: graphs", signal.SIGINT, []),
    ("export: variants", signal.SIGTERM, ["tune"]),
    ("deploy: ", signal.SIGINT, ["tune"]),
    ("bench: one request", signal.SIGINT, ["tune", "export"]),
]


def test_a_run_interrupted_in_every_stage_goes_on_from_the_last_finished_one(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    for until, stop, finished in INTERRUPTIONS:
        code, said = interrupted(folder, until, stop)
        assert code == 130, said
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert [path.name for path in folder.iterdir() if ".writing-" in path.name] == []
        assert [stage for stage in ("tune", "export", "deploy") if f"{stage}: unchanged, kept" in said] == finished
    assert [outcome.skipped for outcome in pipeline.run(folder)] == [True, True, True, False]


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_project(tmp_path / "tiny")
    write_index(tmp_path / "index", monkeypatch)
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(FETCH)
    before = sorted(path.name for path in folder.iterdir())
    code, said = interrupted(folder, "fetch: ", signal.SIGINT)
    assert (code, "Traceback" in said) == (130, False)
    assert sorted(path.name for path in folder.iterdir()) == before
    fetched = pipeline.fetch(folder)
    assert fetched is not None
    assert list(fetched.manifest.files) == ["deep/rows.csv"]


def interrupted(folder: Path, until: str, stop: signal.Signals) -> tuple[int, str]:
    """Run the whole job, stop it at the first line of progress that begins so; its exit code and all it said."""
    command = [sys.executable, "-m", "tldeploy", "run", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        said = ""
        for line in running.stderr:
            said += line
            if line.startswith(until) and "unchanged" not in line:
                running.send_signal(stop)
                break
        said += running.stderr.read()
        return running.wait(timeout=60), said


@pytest.mark.parametrize("stage", ["tune", "export", "deploy", "bench"])
def test_a_full_disk_is_one_clear_message_in_every_stage(small_disk: Path, stage: str) -> None:
    folder = write_project(small_disk / "tiny")
    stages = ["tune", "export", "deploy", "bench"]
    for earlier in stages[: stages.index(stage)]:
        getattr(pipeline, earlier)(folder)
    free = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * max(free.f_bavail * free.f_frsize - 20_000, 0))
    full = tldeploy(stage, folder)
    assert full.returncode == StorageError.exit_code, full.stderr
    assert "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    ballast.unlink()
    getattr(pipeline, stage)(folder)


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    with (folder / "reviews.csv").open("ab") as stream:
        stream.write(b"caf\xe9,positive\n")
    done = tldeploy("run", folder)
    assert done.returncode == DataError.exit_code
    assert "it is not utf-8: byte 0xe9 on line 402" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["backbone", "recipe.yaml", "reviews.csv"]
