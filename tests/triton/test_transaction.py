"""What is put back when a publication is refused after its commit point, by a server or by the file system."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_export
from tests.triton.test_repository import check_loadable
from tldeploy.errors import ServerError, TldeployError
from tldeploy.recipe import Deploy
from tldeploy.triton import keeping, running, transaction
from tldeploy.triton.lint.check import lint
from tldeploy.triton.repository import publish, published
from tldeploy.triton.transaction import alone_with, recover, versions

ONE, TWO = Deploy(keep_versions=1), Deploy(keep_versions=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another export, with another label file."""
    return write_export(tmp_path_factory.mktemp("exports") / "other", labels=("a", "b", "c", "d"), seed=1)


@pytest.fixture
def repository(tiny_export: Path, tmp_path: Path) -> Path:
    """Version 2 of `tiny` is live, version 1 is kept."""
    for _ in range(2):
        publish(tiny_export, tmp_path / "repo", "tiny", TWO)
    return tmp_path / "repo"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def beside(repository: Path) -> set[str]:
    return {path.name for path in repository.parent.iterdir() if path.name.startswith(".repo")}


class Killed(BaseException):
    pass


class Refusing:
    """A server that refuses to settle, and by whose fault the publisher dies when it takes the server back."""

    def serves(self, *given: Any) -> bool:
        return False

    def try_out(self, models: Sequence[str], version: int, places: Sequence[Path]) -> None:
        if len(places) == 1:
            raise Killed

    def settle(self, models: Sequence[str]) -> None:
        raise ServerError("serve it", "the server refuses it", "look")


def test_what_a_killed_publisher_had_put_back_stays(
    repository: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refusing(*given: Any) -> Iterator[list[Any]]:
        yield [Refusing()]

    before = contents(repository)
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(running, "held", refusing)
            publish(other, repository, "tiny", TWO)
    recover(repository)
    assert contents(repository) == before
    assert beside(repository) == {".repo.lock", ".repo.withdrawn"}  # the number is not given again


def fail_at(change: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let the `change`-th rename, link or removal fail as on a full disk; the list has them all."""
    seen: list[str] = []
    for name in ("replace", "rename", "link", "unlink", "rmdir"):
        original = getattr(os, name)

        def call(*given: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == change:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*given, **options)

        patch.setattr(os, name, call)
    return seen


def test_a_file_system_that_refuses_one_change_leaves_all_or_nothing(
    repository: Path, other: Path, tmp_path: Path
) -> None:
    change, outcomes, is_over = 0, set(), False
    while not is_over:
        change += 1
        copy = tmp_path / str(change) / "repo"
        shutil.copytree(repository, copy)
        before = contents(copy)
        with pytest.MonkeyPatch.context() as patch:
            seen = fail_at(change, patch)
            try:
                publish(other, copy, "tiny", TWO)
                refused = False
            except TldeployError:
                refused = True
            is_over = len(seen) < change
        outcomes.add(refused)
        recover(copy)
        check_loadable(copy)
        version = published(copy, "tiny").version
        if refused and version == 2:
            assert contents(copy) == before
        assert not any(found.damaged for found in keeping.verify(copy) if found.live), change
        assert beside(copy) == {".repo.lock"}
        assert publish(other, copy, "tiny", ONE).version == version + 1
    assert outcomes == {True, False}
    assert change > 15


def test_a_file_system_without_hard_links_gets_copies(
    repository: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    checked: list[list[int]] = []
    publish(other, repository, "tiny", TWO, check=lambda candidate: checked.append(versions(candidate / "tiny.graph")))
    assert checked == [[3]]
    assert published(repository, "tiny").version == 3
    check_loadable(repository)


def test_a_version_folder_that_is_in_the_way_is_replaced(
    repository: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_version = transaction._place_version

    def meet_another(staged: Path, model: Path, *given: Any) -> None:
        (model / "3").mkdir()
        (model / "3" / "left").touch()
        place_version(staged, model, *given)

    monkeypatch.setattr(transaction, "_place_version", meet_another)
    assert publish(other, repository, "tiny", TWO).version == 3
    assert not [*repository.glob("*/3/left")]
    check_loadable(repository)


LEFT = {".repo.candidate", ".repo.retired", ".repo.staging"}


def test_what_a_killed_command_left_goes_with_the_next_one(repository: Path) -> None:
    for look in (recover, keeping.verify, lint, publish_nothing):
        for name in LEFT:
            (repository.parent / name / "1").mkdir(parents=True)
        look(repository)
        assert beside(repository) == {".repo.lock"}


def publish_nothing(repository: Path) -> None:
    with alone_with(repository, "look"):
        pass


def test_what_a_command_that_runs_needs_stays(repository: Path) -> None:
    with alone_with(repository, "look"):
        for name in LEFT:
            (repository.parent / name).mkdir()
        recover(repository)
        assert beside(repository) == {".repo.lock", *LEFT}
