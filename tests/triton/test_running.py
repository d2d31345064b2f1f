"""A server that runs takes what is published, rolled back or refused, without losing a request."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import MAX_LENGTH, ROWS, answer, make_tokenizer
from tests.triton.asking import Log, asking
from tests.triton.test_repository import check_loadable
from tests.triton.test_server import owner
from tldeploy.cli import show
from tldeploy.errors import RequestError, ServerError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import AsyncClient, Client
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.triton import running
from tldeploy.triton.canary import lifecycle
from tldeploy.triton.following import Follower
from tldeploy.triton.keeping import rollback, verify
from tldeploy.triton.locks import locked
from tldeploy.triton.repository import publish, published
from tldeploy.triton.running import Running
from tldeploy.triton.server import Server
from tldeploy.triton.transaction import recover, versions
from tldeploy.triton.watch import Watch
from tldeploy.triton.workers import Workers

ONE, TWO = Deploy(keep_versions=1), Deploy(keep_versions=2)
ROW = ROWS[0]
MORE_LABELS = ("a", "b", "c", "d")


def one_of(log: Log, exports: dict[str, Path], *names: str) -> bool:
    """Whether every answer is that of one of these exports, and each of them has answered."""
    right = {name: answer(exports[name], [ROW])[0].tolist() for name in names}
    seen = set()
    for asked in log.requests:
        fits = [name for name, expected in right.items() if list(asked.answer) == pytest.approx(expected, abs=1e-5)]
        if not fits:
            return False
        seen.update(fits)
    return seen == set(names)


def live_answer(server: Server) -> list[float]:
    with Client(server.http_url, model="tiny") as client:
        found: list[float] = client.predict([ROW])[0].tolist()
    return found


def served(server: Server, model: str) -> bool:
    assert server.running is not None
    return server.running.served_by(model) is not None


def on_trial(server: Server) -> list[str]:
    assert server.running is not None
    return [path.name for path in server.running.folder.iterdir() if path.is_dir()]


def test_no_request_is_lost_while_versions_come_and_go(server: Server, exports: dict[str, Path]) -> None:
    with asking(server.http_url, "tiny", [ROW], connections=4) as log:
        publish(exports["wide"], server.repository, "tiny", TWO)
        assert live_answer(server) == pytest.approx(answer(exports["wide"], [ROW])[0], abs=1e-6)
        rollback(server.repository, "tiny")
        assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
        publish(exports["other"], server.repository, "tiny", ONE)
        time.sleep(0.1)
    assert log.errors == []
    assert one_of(log, exports, "tiny", "wide", "other")
    assert live_answer(server) == pytest.approx(answer(exports["other"], [ROW])[0], abs=1e-6)
    assert on_trial(server) == []
    assert versions(server.repository / "tiny.graph") == [3]
    check_loadable(server.repository)


def encoded(row: str) -> dict[str, Any]:
    encoder = TextEncoder(make_tokenizer().to_str(), MAX_LENGTH, pad_id=0, pad_to_multiple_of=16)
    return dict(encoder.encode([row]))


def test_clients_that_know_an_older_version_go_on(server: Server, exports: dict[str, Path]) -> None:
    async def ask_on() -> None:
        async with AsyncClient(server.grpc_url, model="tiny", protocol="grpc") as client:
            await asyncio.to_thread(publish, exports["other"], server.repository, "tiny", ONE)
            given = await client.predict_tensors(encoded(ROW))
            np.testing.assert_allclose(given, answer(exports["other"], [ROW]), atol=1e-6)

    with Client(server.http_url, model="tiny", shared_memory=True, key=server.key) as client:
        asyncio.run(ask_on())
        publish(exports["wide"], server.repository, "tiny", Deploy(keep_versions=1, max_batch_size=2))
        np.testing.assert_allclose(client.predict_tensors(encoded(ROW)), answer(exports["wide"], [ROW]), atol=1e-6)
        np.testing.assert_allclose(client.predict([ROW] * 5), answer(exports["wide"], [ROW] * 5), atol=1e-6)
        assert client.max_batch_size == 2


def misdescribe(monkeypatch: pytest.MonkeyPatch, which: Callable[[str], bool]) -> None:
    """Let the server get a configuration that it refuses, the first time that such a model is loaded."""
    load, done = Running._load_as, []

    def misload(self: Running, described: Any) -> None:
        if which(described.name) and not done:
            done.append(described.name)
            described.input[0].data_type -= 1
        load(self, described)

    monkeypatch.setattr(Running, "_load_as", misload)


@pytest.mark.parametrize(
    ("refused", "name"),
    [("tiny.graph.on-trial-2", "other"), ("tiny.graph", "wide")],
)
def test_what_a_running_server_refuses_is_withdrawn_everywhere(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, refused: str, name: str
) -> None:
    before = contents(server.repository)
    misdescribe(monkeypatch, lambda loaded: loaded == refused)
    with asking(server.http_url, "tiny", [ROW], connections=2) as log:
        with pytest.raises(ServerError, match=f"publish version 2 of tiny: the running server at .* refuses {refused}"):
            publish(exports[name], server.repository, "tiny", ONE)
        time.sleep(0.1)
    assert log.errors == []
    assert one_of(log, exports, *["tiny"] if "trial" in refused else ["tiny", name])
    assert contents(server.repository) == before
    left = {path.name for path in server.repository.parent.glob(".repo.*")}
    assert left == {".repo.lock", ".repo.withdrawn", server_folder(server)}
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
    assert on_trial(server) == []
    # The server may have kept answers of what it refused in the end: that number is not given to anything else.
    assert publish(exports["other"], server.repository, "tiny", ONE).version == 3


def test_a_new_model_is_served_as_well_and_gone_again_when_it_is_refused(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(server.repository)
    misdescribe(monkeypatch, lambda loaded: loaded == "second.graph")
    with pytest.raises(ServerError, match=r"refuses second\.graph"):
        publish(exports["other"], server.repository, "second", ONE)
    assert contents(server.repository) == before
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
    with pytest.raises(RequestError, match="unknown model"):
        Client(server.http_url, model="second")
    publish(exports["other"], server.repository, "second", ONE)
    with Client(server.http_url, model="second") as client:
        np.testing.assert_allclose(client.predict([ROW]), answer(exports["other"], [ROW]), atol=1e-6)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def server_folder(server: Server) -> str:
    assert server.running is not None
    return server.running.folder.name


def test_several_servers_are_told_and_where_they_are_is_for_their_owner_only(
    server: Server, exports: dict[str, Path]
) -> None:
    assert server.running is not None
    file = server.running.folder / "server.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.running.folder.stat().st_mode) == 0o700
    assert json.loads(file.read_text(encoding="utf-8"))["url"] == server.http_url
    with owner(server.repository) as (_, _, _, url):
        assert len(running.live(server.repository)) == 2
        publish(exports["other"], server.repository, "tiny", ONE)
        for each in (url, server.http_url):
            with Client(each, model="tiny") as client:
                np.testing.assert_allclose(client.predict([ROW]), answer(exports["other"], [ROW]), atol=1e-6)
    server.stop()
    assert not server.running.folder.exists()
    assert running.live(server.repository) == []


def test_what_a_dead_server_left_is_ignored_and_removed(exports: dict[str, Path], tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    publish(exports["tiny"], repository, "tiny", ONE)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert running.make_place(repository, "gone")
    Running(str(repository), "gone", "127.0.0.1:1", "key", ended.pid, running.socket.gethostname()).describe()
    assert publish(exports["other"], repository, "tiny", ONE).version == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".repo.lock", "repo"]


def cut_off(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let the publisher end when it would call that method of a server."""

    def end(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Running, where, end)


@pytest.mark.parametrize("where", ["try_out", "settle"])
def test_what_a_killed_publisher_left_is_finished_in_the_server_too(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with asking(server.http_url, "tiny", [ROW], connections=2) as log:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            cut_off(patch, where)
            publish(exports["wide"], server.repository, "tiny", ONE)
        check_loadable(server.repository)
        recover(server.repository)
        time.sleep(0.1)
    assert log.errors == []
    assert published(server.repository, "tiny").version == 2
    assert live_answer(server) == pytest.approx(answer(exports["wide"], [ROW])[0], abs=1e-6)
    assert on_trial(server) == []
    assert versions(server.repository / "tiny.graph") == [2]
    assert not any(found.damaged for found in verify(server.repository))


def test_a_server_that_nobody_told_looks_by_itself(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.running is not None
    said: list[str] = []
    follower = Follower(server.running, said.append, server.published)
    workers = Workers(f"{server.id}-", server.repository)
    graph = server.repository / "tiny.graph"
    with (
        Watch(server.http_url, server.key, workers, said.append, lock=server.running.lock) as watch,
        monkeypatch.context() as patch,
    ):
        patch.setattr(running, "live", lambda repository: [])  # as from a machine that shares the folder
        assert watch.look() == follower.look() == []
        publish(exports["wide"], server.repository, "tiny", TWO)
        with locked(server.running.lock, "tell the server", wait_s=0):  # as a publisher here
            assert watch.look() == follower.look() == []
        assert said == []
        assert follower.look() == ["tiny"]
        assert "version 2 is live" in said[0]
        assert said[1:] == ["tldeploy: tiny, version 2, is served now"]
        assert watch.look() == follower.look() == []  # it watches by the new configuration
        assert live_answer(server) == pytest.approx(answer(exports["wide"], [ROW])[0], abs=1e-6)
        publish(exports["other"], server.repository, "tiny", TWO)
        (graph / "3" / "model.onnx").write_bytes(b"damaged")
        assert follower.look() == []
        assert "what was served stays" in said[-1]
        said.clear()
        assert watch.look() == follower.look() == []  # not tried again and again
        assert said == []
    assert live_answer(server) == pytest.approx(answer(exports["wide"], [ROW])[0], abs=1e-6)
    assert on_trial(server) == []


def test_a_version_that_a_server_was_told_of_is_said_once(
    server: Server, exports: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.running is not None
    said: list[str] = []
    follower = Follower(server.running, said.append, server.published)
    publish(exports["other"], server.repository, "tiny", ONE)
    show.print_next("tiny", server.repository)
    assert capsys.readouterr().out == f"served by the server at {server.http_url} (process {os.getpid()})\n"
    assert follower.look() == follower.look() == []
    assert said == ["tldeploy: tiny, version 2, is served now"]
    server.stop()
    show.print_next("tiny", server.repository)
    assert capsys.readouterr().out == f"next: tldeploy serve {server.repository}\n"


class RefusingSplits:
    """Another server, which takes all but a splitting step."""

    def settle(self, models: list[str]) -> None:
        if "tiny.split" in models:
            raise ServerError("serve it", "the other server refuses it", "look")

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *given: True


def test_what_another_server_refuses_is_taken_back_from_this_one(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def both(*given: object) -> Iterator[list[object]]:
        yield [server.running, RefusingSplits()]

    monkeypatch.setattr(running, "held", both)
    with asking(server.http_url, "tiny", [ROW], connections=2) as log:
        with pytest.raises(ServerError, match="the other server refuses it"):
            lifecycle.start(exports["other"], server.repository, "tiny", ONE, 0.5)
        time.sleep(0.1)
    assert log.errors == []
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
    assert not served(server, "tiny.split")
    assert on_trial(server) == []


def test_a_server_that_takes_a_connection_and_says_nothing_is_named(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repo"
    publish(exports["tiny"], repository, "tiny", ONE)
    monkeypatch.setattr(running, "ANSWERS_WITHIN_S", 0.3)
    with running.socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"127.0.0.1:{hanging.getsockname()[1]}"
        assert running.make_place(repository, "hangs")
        Running(str(repository), "hangs", url, "key", os.getpid(), running.socket.gethostname()).describe()
        with pytest.raises(ServerError, match=f"the running server at {url} takes the connection"):
            publish(exports["other"], repository, "tiny", ONE)
    assert published(repository, "tiny").version == 1


@pytest.mark.parametrize(("device", "within_s"), [("cuda", 120), ("tensorrt", 1800)])
def test_a_running_server_has_longer_to_load_a_graph_that_tensorrt_builds_engines_for(
    tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any, within_s: float
) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy(device=device))
    given: list[float] = []

    class Noting(running.ModelControl):
        def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
            given.append(timeout_s)
            super().__init__(url, key, 1)

    monkeypatch.setattr(running, "ModelControl", Noting)
    nowhere = Running(str(tmp_path / "repo"), "gone", "127.0.0.1:1", "key", os.getpid(), running.socket.gethostname())
    nowhere.settle(["tiny.tokenize", "tiny.graph", "tiny"])
    assert given == [120, within_s, 120]
