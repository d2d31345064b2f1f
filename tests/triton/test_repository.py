"""Publishing: what lies in the repository afterwards, and what lies there when the publisher is killed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_export
from tldeploy import artifacts
from tldeploy.errors import ArtifactError, StorageError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.tasks import encoding
from tldeploy.triton import config, transaction
from tldeploy.triton.repository import all_published, golden, is_current, publish, published
from tldeploy.triton.transaction import recover, versions

NEEDED = {"python": {"model.py", "encoding.py", "tokenizer.json", "encoder.json"}, "onnxruntime": {"model.onnx"}}
ROOT = Path(__file__).parents[2]
STEPS = ("tiny.tokenize", "tiny.graph")


def check_loadable(repository: Path) -> None:
    """What a server needs of a repository: every listed version has its files, every pinned one is listed."""
    described = {path.parent.name: config.read(path) for path in repository.glob("*/config.pbtxt")}
    assert described.keys() == {path.name for path in repository.iterdir() if path.is_dir()}
    for folder, model in described.items():
        assert model.name == folder
        assert model.version_policy.specific.versions
        for version in model.version_policy.specific.versions:
            files = {path.name for path in (repository / folder / str(version)).iterdir()}
            assert files >= NEEDED.get(model.backend, {"tldeploy.json", "golden.json"})
        for step in model.ensemble_scheduling.step:
            assert step.model_version in described[step.model_name].version_policy.specific.versions


def served_versions(repository: Path, model: str) -> list[int]:
    return list(config.read(repository / model / "config.pbtxt").version_policy.specific.versions)


def test_the_first_publication_is_whole(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "triton_repo"
    publication = publish(tiny_export, repository, "tiny", Deploy())
    assert (publication.name, publication.version) == ("tiny", 1)
    check_loadable(repository)
    manifest = artifacts.load(repository / "tiny" / "1", "deploy")
    assert manifest.parents == {"export": artifacts.load(tiny_export, "export").sha256}
    assert manifest.details["models"] == ["tiny.tokenize", "tiny.graph", "tiny"]
    assert (repository / "tiny.graph" / "labels.txt").read_text().split() == manifest.labels
    assert golden(publication)[0] == json.loads((tiny_export / "golden.json").read_text())["rows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".triton_repo.lock", "triton_repo"]


def test_the_served_encoder_and_graph_are_the_exported_ones_byte_for_byte(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    step, graph = tmp_path / "repo" / "tiny.tokenize" / "1", tmp_path / "repo" / "tiny.graph" / "1"
    assert (step / "encoding.py").read_bytes() == Path(encoding.__file__).read_bytes()
    for file in ("tokenizer.json", "encoder.json"):
        assert (step / file).read_bytes() == (tiny_export / file).read_bytes()
    assert (graph / "model.onnx").read_bytes() == (tiny_export / "int8-dynamic.onnx").read_bytes()


def test_the_next_publication_goes_live_and_old_versions_are_pruned(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    for number in range(1, 5):
        assert publish(tiny_export, repository, "tiny", Deploy(keep_versions=2)).version == number
        check_loadable(repository)
    for model in ("tiny", *STEPS):
        assert versions(repository / model) == [3, 4]
    assert [served_versions(repository, model) for model in ("tiny", *STEPS)] == [[4], [3, 4], [3, 4]]


def test_versions_with_other_labels_are_kept_but_no_longer_served(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(tiny_export, repository, "tiny", Deploy())
    more = write_export(tmp_path / "more", labels=("a", "b", "c", "d"))
    publish(more, repository, "tiny", Deploy())
    check_loadable(repository)
    assert versions(repository / "tiny.graph") == [1, 2]
    assert [served_versions(repository, model) for model in STEPS] == [[2], [2]]


def test_what_is_current_need_not_be_published_again(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    assert not is_current(tiny_export, repository, "tiny", Deploy())
    publish(tiny_export, repository, "tiny", Deploy())
    assert is_current(tiny_export, repository, "tiny", Deploy())
    assert is_current(tiny_export, repository, "tiny", Deploy(repository="elsewhere"))
    assert not is_current(tiny_export, repository, "tiny", Deploy(max_batch_size=4))
    assert not is_current(write_export(tmp_path / "other", seed=1), repository, "tiny", Deploy())
    (repository / "tiny.graph" / "1" / "model.onnx").write_bytes(b"damaged")
    assert not is_current(tiny_export, repository, "tiny", Deploy())


def test_models_of_others_are_left_alone(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    (repository / "foreign" / "1").mkdir(parents=True)
    (repository / "foreign" / "config.pbtxt").write_text('name: "foreign"', encoding="utf-8")
    publish(tiny_export, repository, "tiny", Deploy())
    assert [publication.name for publication in all_published(repository)] == ["tiny"]
    assert (repository / "foreign" / "config.pbtxt").read_text() == 'name: "foreign"'


@pytest.mark.parametrize("name", ["", "a.b", "../up", "with space", "-x", "naïve"])
def test_names_that_triton_or_the_file_system_would_trip_over_are_refused(
    tiny_export: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="choose another name"):
        publish(tiny_export, tmp_path / "repo", name, Deploy())
    assert not (tmp_path / "repo").exists()


def test_a_path_with_spaces_is_refused(tiny_export: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without spaces"):
        publish(tiny_export, tmp_path / "my repo", "tiny", Deploy())


def test_a_damaged_export_leaves_the_old_version_live(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(tiny_export, repository, "tiny", Deploy())
    damaged = write_export(tmp_path / "damaged")
    (damaged / "int8-dynamic.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"int8-dynamic\.onnx has changed"):
        publish(damaged, repository, "tiny", Deploy())
    assert published(repository, "tiny").version == 1
    check_loadable(repository)


def test_asking_for_what_is_not_published_names_what_is(tiny_export: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        all_published(tmp_path / "nothing")
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    with pytest.raises(ArtifactError, match=r"published: tiny"):
        published(tmp_path / "repo", "other")


def test_a_second_publisher_waits_only_so_long(
    tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "LOCK_WAIT_S", 0.2)
    with (tmp_path / ".repo.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"\.repo\.lock has been held by others for 0 s"):
            publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    assert publish(tiny_export, tmp_path / "repo", "tiny", Deploy()).version == 1


def kill_publisher_at_every_change(export: Path, repository: Path, copies: Path) -> list[Path]:
    """Copies of the repository: in the first the publisher was killed at its first change, and so on."""
    script = Path(__file__).with_name("kill_publisher.py")
    command = [sys.executable, *(str(path) for path in (script, export, repository, copies))]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return [copies / str(number) / repository.name for number in range(1, int(run.stdout.split()[-1]) + 1)]


def test_a_publisher_killed_at_any_moment_leaves_a_repository_that_loads(tiny_export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    for _ in range(2):
        publish(tiny_export, repository, "tiny", Deploy(keep_versions=2))
    seen = []
    for copy in kill_publisher_at_every_change(tiny_export, repository, tmp_path / "copies"):
        check_loadable(copy)  # even for a server that knows nothing of tldeploy
        recover(copy)
        check_loadable(copy)
        version = published(copy, "tiny").version
        # Nothing of the old versions is gone before the commit point, nothing of the new one is missing after it.
        expected = [1, 2] if version == 2 else [2, 3]
        assert [versions(copy / model) for model in ("tiny", *STEPS)] == [expected] * 3
        assert publish(tiny_export, copy, "tiny", Deploy(keep_versions=2)).version == version + 1
        assert {path.name for path in copy.parent.iterdir()} == {"repo", ".repo.lock"}
        seen.append(version)
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
    assert len(seen) > 15


def test_a_first_publisher_killed_at_any_moment_leaves_a_repository_that_loads(
    tiny_export: Path, tmp_path: Path
) -> None:
    (tmp_path / "repo").mkdir()
    seen = []
    for copy in kill_publisher_at_every_change(tiny_export, tmp_path / "repo", tmp_path / "copies"):
        check_loadable(copy)
        recover(copy)
        check_loadable(copy)
        seen.append(len(all_published(copy)))
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
