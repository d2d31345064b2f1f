"""A version is checked by a real server before it is live; one that fails leaves everything as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import write_export
from tldeploy import artifacts
from tldeploy.errors import QualityError, ServerError, TldeployError
from tldeploy.recipe import Deploy
from tldeploy.triton import checking, config, repository
from tldeploy.triton.checking import check
from tldeploy.triton.keeping import rollback
from tldeploy.triton.repository import is_current, publish, published
from tldeploy.triton.server import Server

ONE = Deploy(keep_versions=1)


@pytest.fixture
def live(tiny_export: Path, tmp_path: Path) -> Path:
    publish(tiny_export, tmp_path / "repo", "tiny", ONE)
    return tmp_path / "repo"


@pytest.fixture(autouse=True)
def checked_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of the servers that checks have started; nothing of them may be left in shared memory."""
    ids: list[str] = []

    class Noted(Server):
        def __enter__(self) -> Server:
            ids.append(self.id)
            return super().__enter__()

    monkeypatch.setattr(checking, "Server", Noted)
    yield ids
    assert not [path for server_id in ids for path in Path("/dev/shm").glob(f"{server_id}-*")]


def everything_beside(place: Path) -> dict[str, bytes | None]:
    """What is in the repository's parent folder."""
    found = (path for path in place.parent.rglob("*") if "exports" not in path.parts)
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


def refused(place: Path, export: Path, error: type[TldeployError]) -> TldeployError:
    """The error of publishing with a check, after which nothing may have changed."""
    before = everything_beside(place)
    with pytest.raises(error) as caught:
        publish(export, place, "tiny", ONE, check=check)
    assert everything_beside(place) == before
    assert caught.value.asked == "publish version 2 of tiny"
    assert published(place, "tiny").version == 1
    return caught.value


def altered(export: Path, file: str, content: bytes) -> Path:
    """The export with another content of a file, sealed again as if it had been exported so."""
    (export / file).write_bytes(content)
    manifest = artifacts.read(export, "export")
    artifacts.seal(export, manifest)
    return export


def test_what_passes_is_live_and_says_that_it_was_checked(live: Path, tmp_path: Path) -> None:
    export = write_export(tmp_path / "exports" / "other", seed=1)
    publication = publish(export, live, "tiny", ONE, check=check)
    assert (publication.version, publication.manifest.details["checked"]) == (2, True)
    assert is_current(export, live, "tiny", ONE, checked=True)
    assert {path.name for path in tmp_path.iterdir()} == {"exports", "repo", ".repo.lock"}


def test_what_was_not_checked_is_not_current_for_who_wants_it_checked(live: Path, tiny_export: Path) -> None:
    assert published(live, "tiny").manifest.details["checked"] is False
    assert is_current(tiny_export, live, "tiny", ONE)
    assert not is_current(tiny_export, live, "tiny", ONE, checked=True)


def test_every_golden_row_counts(live: Path, tmp_path: Path) -> None:
    export = write_export(tmp_path / "exports" / "other", seed=1)
    golden = json.loads((export / "golden.json").read_text(encoding="utf-8"))
    golden["probabilities"][-1].reverse()
    error = refused(live, altered(export, "golden.json", json.dumps(golden).encode()), QualityError)
    assert f"for the golden row {golden['rows'][-1][:60]!r} it answers" in error.found
    assert error.exit_code == 8


def test_a_step_that_a_server_cannot_load_is_refused_in_its_words(live: Path, tmp_path: Path) -> None:
    export = altered(write_export(tmp_path / "exports" / "other"), "tokenizer.json", b'{"model": 1}')
    error = refused(live, export, ServerError)
    assert "a server of its own cannot serve it" in error.found
    assert "failed to load 'tiny.tokenize'" in error.found
    assert error.exit_code == 7


def test_a_configuration_that_does_not_fit_is_refused_by_lint(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_four(*given: object) -> object:
        described = right(*given)  # type: ignore[arg-type]
        described.output[0].dims[0] = 4
        return described

    right = config.graph_config
    monkeypatch.setattr(repository.config, "graph_config", for_four)
    error = refused(live, write_export(tmp_path / "exports" / "other"), QualityError)
    assert "tiny.graph/config.pbtxt" in error.found
    assert "(dims)" in error.found


def test_a_rollback_is_checked_too(live: Path, tmp_path: Path) -> None:
    publish(write_export(tmp_path / "exports" / "other", seed=1), live, "tiny", Deploy(keep_versions=2))
    assert rollback(live, "tiny", check=check).version == 1
    step = live / "tiny.tokenize" / "2" / "model.py"
    manifest = json.loads((live / "tiny" / "2" / "tldeploy.json").read_text(encoding="utf-8"))
    step.write_text("raise RuntimeError('changed')\n", encoding="utf-8")
    manifest["details"]["repository_files"]["tiny.tokenize/2/model.py"] = artifacts.file_sha256(step)
    (live / "tiny" / "2" / "tldeploy.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = everything_beside(live)
    with pytest.raises(ServerError, match="cannot publish version 2 of tiny: a server of its own"):
        rollback(live, "tiny", 2, check=check)
    assert everything_beside(live) == before
