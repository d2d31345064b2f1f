from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.errors import ArtifactError, StorageError


def write(folder: Path, content: str = "one", inputs: str = "abc") -> Manifest:
    with artifacts.writing(folder) as beside:
        (beside / "deep").mkdir()
        (beside / "deep" / "file.txt").write_text(content)
        return artifacts.seal(beside, Manifest(kind="tune", name="tiny", inputs=inputs))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path != folder]


def test_an_artifact_reads_back_as_it_was_sealed(tmp_path: Path) -> None:
    sealed = write(tmp_path / "tuned")
    assert artifacts.load(tmp_path / "tuned", "tune") == sealed
    assert list(sealed.files) == ["deep/file.txt"]
    assert leftovers(tmp_path / "tuned") == []


def test_a_failed_stage_leaves_the_old_artifact_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    old = write(folder)
    with pytest.raises(KeyboardInterrupt), artifacts.writing(folder) as beside:
        (beside / "half").write_text("half")
        raise KeyboardInterrupt
    assert artifacts.load(folder, "tune") == old
    assert leftovers(folder) == []


def test_a_new_artifact_replaces_all_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    write(folder)
    (folder / "stray").write_text("x")
    write(folder, "two")
    assert (folder / "deep" / "file.txt").read_text() == "two"
    assert not (folder / "stray").exists()


def test_a_kill_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    sealed = write(folder)
    folder.rename(folder.with_name(".tuned.replaced"))
    assert artifacts.load(folder, "tune") == sealed


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".tuned.writing-{gone.pid}").mkdir()
    (tmp_path / f".tuned.writing-{os.getppid()}").mkdir()
    write(tmp_path / "tuned")
    assert leftovers(tmp_path / "tuned") == [f".tuned.writing-{os.getppid()}"]


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    write(tmp_path / "tuned")
    (tmp_path / "tuned" / "deep" / "file.txt").write_text("two")
    with pytest.raises(ArtifactError, match=r"deep/file.txt has changed"):
        artifacts.load(tmp_path / "tuned", "tune")
    assert not artifacts.is_current(tmp_path / "tuned", "tune", "abc")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "deep" / "file.txt").unlink(), "is missing"),
        (lambda folder: (folder / "tldeploy.json").unlink(), "there is no tldeploy.json"),
        (lambda folder: (folder / "tldeploy.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "tldeploy.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "tldeploy.json").write_text('{"schema_version": 99}'), "schema version 99"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "tuned")
    damage(tmp_path / "tuned")
    with pytest.raises(ArtifactError, match=said):
        artifacts.load(tmp_path / "tuned", "tune")


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tuned")
    with pytest.raises(ArtifactError, match="it is a tune artifact"):
        artifacts.load(tmp_path / "tuned", "export")


def test_only_the_same_inputs_are_current(tmp_path: Path) -> None:
    write(tmp_path / "tuned", inputs="abc")
    assert artifacts.is_current(tmp_path / "tuned", "tune", "abc")
    assert not artifacts.is_current(tmp_path / "tuned", "tune", "abd")
    assert not artifacts.is_current(tmp_path / "elsewhere", "tune", "abc")


def test_the_manifest_hash_pins_content_and_ignores_key_order(tmp_path: Path) -> None:
    sealed = write(tmp_path / "tuned")
    assert sealed.sha256 != write(tmp_path / "tuned", "two").sha256
    reordered = dict(reversed(list(json.loads(sealed.model_dump_json()).items())))
    assert Manifest.model_validate(reordered).sha256 == sealed.sha256


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    with pytest.raises(StorageError, match="the disk is full"), artifacts.writing(folder) as beside:
        (beside / "a").write_text("a")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not folder.exists()
    assert leftovers(folder) == []


def test_a_full_disk_is_recognised_through_the_errors_of_libraries(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the disk is full"), artifacts.writing(tmp_path / "tuned"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        artifacts.write_file(tmp_path / "report.html", content)
        assert (tmp_path / "report.html").read_text() == content
    assert leftovers(tmp_path / "report.html") == []


def test_a_really_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    artifacts.write_file(small_disk / "report.html", "old")
    with pytest.raises(StorageError, match="the disk is full"):
        artifacts.write_file(small_disk / "report.html", b"x" * 40_000_000)
    assert [path.name for path in small_disk.iterdir()] == ["report.html"]
    assert (small_disk / "report.html").read_text() == "old"
