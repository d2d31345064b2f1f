"""Rolling back and verifying: what is live afterwards, what a kill leaves, and which files differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import ROWS, answer, write_export
from tests.triton.test_repository import ROOT, STEPS, check_loadable, served_versions
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.keeping import rollback, verify
from tldeploy.triton.lint.check import lint
from tldeploy.triton.repository import is_current, publish, published
from tldeploy.triton.server import Server
from tldeploy.triton.transaction import recover, versions

KEEP = Deploy(keep_versions=3)


@pytest.fixture(scope="module")
def other_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("other") / "onnx", seed=1)


@pytest.fixture
def repository(tiny_export: Path, other_export: Path, tmp_path: Path) -> Path:
    """Three versions of `tiny`; the second is of another network."""
    place = tmp_path / "repo"
    for export in (tiny_export, other_export, tiny_export):
        publish(export, place, "tiny", KEEP)
    return place


def intact(repository: Path) -> bool:
    return not any(version.damaged for version in verify(repository))


def test_the_version_before_the_live_one_is_made_live(repository: Path) -> None:
    assert rollback(repository, "tiny").version == 2
    check_loadable(repository)
    assert [served_versions(repository, model) for model in ("tiny", *STEPS)] == [[2], [1, 2], [1, 2]]
    assert versions(repository / "tiny") == [1, 2, 3]
    assert rollback(repository, "tiny").version == 1
    assert published(repository, "tiny").version == 1
    assert intact(repository)
    assert lint(repository).findings == ()
    assert sorted(path.name for path in repository.parent.iterdir()) == [".repo.lock", "repo"]


def test_rolling_forward_again_leaves_what_publishing_left(repository: Path, tiny_export: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    rollback(repository, "tiny", 1)
    assert not is_current(tiny_export, repository, "tiny", Deploy(keep_versions=2))
    rollback(repository, "tiny", 3)
    after = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    after.pop(repository / "tiny" / "configured.json")
    assert after == before
    assert is_current(tiny_export, repository, "tiny", KEEP)


def test_rolling_back_to_the_live_version_changes_nothing(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    assert rollback(repository, "tiny", 3).version == 3
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_the_next_publication_keeps_the_version_that_was_rolled_back_to(repository: Path, tiny_export: Path) -> None:
    rollback(repository, "tiny", 1)
    assert publish(tiny_export, repository, "tiny", Deploy(keep_versions=2)).version == 4
    check_loadable(repository)
    assert versions(repository / "tiny") == versions(repository / "tiny.graph") == [1, 4]
    assert rollback(repository, "tiny").version == 1
    assert intact(repository)


def test_other_labels_come_back_with_their_version(tiny_export: Path, tmp_path: Path) -> None:
    place = tmp_path / "repo"
    publish(tiny_export, place, "tiny", KEEP)
    publish(write_export(tmp_path / "more", labels=("a", "b", "c", "d")), place, "tiny", KEEP)
    rollback(place, "tiny")
    check_loadable(place)
    assert (place / "tiny.graph" / "labels.txt").read_text().split() == ["negative", "neutral", "positive"]
    assert [served_versions(place, model) for model in STEPS] == [[1], [1]]
    assert intact(place)
    assert lint(place).findings == ()


def test_what_is_not_kept_or_damaged_is_refused_and_the_live_version_stays(repository: Path) -> None:
    with pytest.raises(ArtifactError, match=r"it is not kept \(kept: 1, 2, 3\)"):
        rollback(repository, "tiny", 7)
    (repository / "tiny.graph" / "2" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"tiny.graph/2/model.onnx has changed"):
        rollback(repository, "tiny")
    with pytest.raises(ArtifactError, match="published: tiny"):
        rollback(repository, "other")
    assert published(repository, "tiny").version == 3
    rollback(repository, "tiny", 1)
    forward = "no version older than 1.*\n  fix: `tldeploy rollback tiny 2`, `tldeploy rollback tiny 3` goes forward"
    with pytest.raises(ArtifactError, match=forward):
        rollback(repository, "tiny")


def test_a_damaged_live_version_can_be_left(repository: Path) -> None:
    (repository / "tiny" / "3" / "golden.json").write_bytes(b"damaged")
    (repository / "tiny" / "3" / "tldeploy.json").write_bytes(b"damaged")
    assert rollback(repository, "tiny").version == 2
    check_loadable(repository)


def test_a_rollback_killed_at_any_moment_leaves_a_repository_that_loads(repository: Path, tmp_path: Path) -> None:
    script, copies = Path(__file__).with_name("kill_rollback.py"), tmp_path / "copies"
    command = [sys.executable, str(script), str(repository), str(copies)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seen = []
    for number in range(1, int(done.stdout.split()[-1]) + 1):
        copy = copies / str(number) / repository.name
        check_loadable(copy)  # even for a server that knows nothing of tldeploy
        recover(copy)
        check_loadable(copy)
        assert intact(copy)
        seen.append(published(copy, "tiny").version)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {2, 3}
    assert len(seen) > 8


def test_a_version_that_was_rolled_back_to_answers(repository: Path, other_export: Path) -> None:
    rollback(repository, "tiny")
    with (
        Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server,
        Client(url=server.http_url, model="tiny", protocol="http") as client,
    ):
        served = np.concatenate([client.predict([row]) for row in ROWS[:4]])
    np.testing.assert_allclose(served, answer(other_export, ROWS[:4]), atol=1e-6)


def test_every_version_is_verified_and_the_files_that_differ_are_named(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(found.version, found.live, found.damaged) for found in verify(repository)] == [
        (1, False, ()),
        (2, False, ()),
        (3, True, ()),
    ]
    assert execute(["verify", str(repository)]) == 0
    files = [line.partition("intact")[2].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert files == ["7", "7", "11, configurations too"]
    (repository / "tiny.graph" / "1" / "model.onnx").write_bytes(b"damaged")
    (repository / "tiny.tokenize" / "2" / "encoder.json").unlink()
    (repository / "tiny.graph" / "labels.txt").write_text("x\n")
    capsys.readouterr()
    assert execute(["verify", str(repository), "--json"]) == 5
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not found["intact"]
    files = {version["version"]: [damage.split()[0] for damage in version["damaged"]] for version in found["versions"]}
    assert files == {1: ["tiny.graph/1/model.onnx"], 2: ["tiny.tokenize/2/encoder.json"], 3: ["tiny.graph/labels.txt"]}


def test_a_manifest_or_configuration_that_cannot_be_read_is_damage(repository: Path) -> None:
    (repository / "tiny" / "1" / "tldeploy.json").write_text("{")
    (repository / "tiny" / "config.pbtxt").write_text("{")
    damaged = [len(found.damaged) for found in verify(repository)]
    assert damaged == [1, 1, 1]
    with pytest.raises(ArtifactError, match="no such folder"):
        verify(repository / "nowhere")


def test_the_verb_rolls_back(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["rollback", "tiny", "1", "--repository", str(repository), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert execute(["rollback", "tiny", "--repository", str(repository)]) == 5
