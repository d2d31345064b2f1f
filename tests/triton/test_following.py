"""A server that runs looks at its repository, and takes what nobody told it of."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.tiny import answer
from tests.triton.asking import asking
from tests.triton.test_running import ONE, ROW, TWO, live_answer, misdescribe, on_trial, one_of, served
from tldeploy.recipe import Deploy
from tldeploy.triton import config, running
from tldeploy.triton.canary import lifecycle
from tldeploy.triton.following import Follower
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server


@pytest.mark.parametrize("settings", [TWO, ONE], ids=["kept", "pruned"])
def test_what_it_refuses_halfway_is_served_on_trial(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, settings: Deploy
) -> None:
    assert server.running is not None
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(running, "live", lambda repository: [])
        publish(exports["wide"], server.repository, "tiny", settings)
    misdescribe(monkeypatch, lambda loaded: loaded == "tiny.graph")
    with asking(server.http_url, "tiny", [ROW], connections=2) as log:
        assert Follower(server.running, said.append, server.published).look() == []
        time.sleep(0.1)
    assert log.errors == []
    assert live_answer(server) == pytest.approx(answer(exports["wide"], [ROW])[0], abs=1e-6)
    assert sorted(on_trial(server)) == ["tiny.graph.on-trial-2", "tiny.tokenize.on-trial-2"]
    assert said[-1].startswith("tiny: it is served on trial: ")


@pytest.mark.proof  # half a minute
def test_a_canary_that_nobody_told_of_is_followed(
    server: Server, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.running is not None
    monkeypatch.setattr(running, "live", lambda repository: [])
    follower = Follower(server.running, print, server.published)
    lifecycle.start(exports["other"], server.repository, "tiny", ONE, 0.5)
    assert follower.look() == ["tiny.canary", "tiny"]
    assert server.running.serves(config.read(server.repository / "tiny" / "config.pbtxt"))
    with asking(server.http_url, "tiny", [ROW] * 20, connections=2) as log:
        time.sleep(0.5)
    assert log.errors == []
    assert one_of(log, exports, "tiny", "other")
    assert follower.look() == []
    lifecycle.drop(server.repository, "tiny")
    assert follower.look() == ["tiny"]
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
    assert not any(served(server, model) for model in ("tiny.split", "tiny.stable", "tiny.canary", "tiny.canary.graph"))
    assert follower.look() == []
