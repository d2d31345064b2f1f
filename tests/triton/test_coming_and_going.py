"""Servers that start and stop while others publish."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiny import answer
from tests.triton.test_running import ONE, ROW, live_answer
from tldeploy.errors import ServerError, StorageError
from tldeploy.triton import running
from tldeploy.triton.repository import golden, publish
from tldeploy.triton.server import Server
from tldeploy.triton.transaction import alone_with


def refuse_files(*given: object) -> None:
    raise OSError("No space left on device")


def test_a_server_that_stops_while_it_is_told_is_nobody_to_tell(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ["tiny.tokenize", "tiny.graph", "tiny"]
    monkeypatch.setattr(running, "REMOVED_WITHIN_S", 0.0)
    with running.held(server.repository, 0) as (told,):
        with monkeypatch.context() as patch, pytest.raises(ServerError, match="cannot be put before the server"):
            patch.setattr(running, "lay_out", refuse_files)
            told.try_out(models, 1, [server.repository])
        server.stop()
        assert told.folder.is_dir()
        told.try_out(models, 1, [server.repository])
        running.shutil.rmtree(told.folder)
        told.try_out(models, 1, [server.repository])
        told.settle(models)
    with running.held(server.repository, 0) as nobody:
        assert nobody == []
    assert not told.folder.exists()


def test_a_folder_that_no_server_describes_is_removed_when_it_is_old(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    folder = running.make_place(repository, "left")
    assert folder
    assert running.described(repository) == []
    assert folder.exists()
    os.utime(folder, (0, 0))
    assert running.described(repository) == []
    assert not folder.exists()


def test_nobody_publishes_while_a_server_starts_that_follows(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_now(starting: Server) -> None:
        with alone_with(starting.repository, "publish", wait_s=0):
            pass

    publish(exports["tiny"], tmp_path / "repo", "tiny", ONE)
    monkeypatch.setattr(Server, "_start", lambda starting: None)
    monkeypatch.setattr(Server, "_wait_until_ready", publish_now)
    with pytest.raises(StorageError, match="cannot publish"):
        Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0, follows=True).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".repo.lock", "repo"]


def test_a_private_server_that_is_overtaken_starts_again(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []

    def overtake(starting: Server) -> None:
        starts.append(starting.published[0].version)
        if len(starts) == 1:
            publish(exports["other"], starting.repository, "tiny", ONE)

    publish(exports["tiny"], tmp_path / "repo", "tiny", ONE)
    monkeypatch.setattr(Server, "_start", overtake)
    monkeypatch.setattr(Server, "_wait_until_ready", lambda starting: None)
    monkeypatch.setattr(Server, "_check_golden_answers", lambda starting: golden(starting.published[0]))
    with Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0):
        assert starts == [1, 2]


def test_a_server_without_a_place_beside_its_repository_still_serves(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(exports["tiny"], tmp_path / "repo", "tiny", ONE)
    monkeypatch.setattr(running, "folder_of", lambda repository, server: tmp_path / "nowhere" / "at all")
    said: list[str] = []
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with Server(tmp_path / "repo", **ports, follows=True, log=said.append) as server:
        assert server.running is None
        assert any("other versions are taken at a restart only" in line for line in said)
        assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
