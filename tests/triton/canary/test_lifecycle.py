"""A canary beside a live version, in a real server that is asked all the while."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.tiny import ROWS, answer, write_export
from tests.triton.asking import asking
from tests.triton.test_running import live_answer, one_of
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, ServerError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton import keeping, lineage
from tldeploy.triton.canary import comparison, lifecycle, parts
from tldeploy.triton.lint.check import lint
from tldeploy.triton.repository import is_current, publish, published
from tldeploy.triton.server import Server
from tldeploy.triton.transaction import versions
from tldeploy.triton.watch import Watch
from tldeploy.triton.workers import Workers

SETTINGS, ROW = Deploy(max_batch_size=8), ROWS[0]
PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
ADDED = {"tiny.split", "tiny.stable", "tiny.canary", "tiny.canary.tokenize", "tiny.canary.graph"}


@pytest.fixture(scope="module")
def exports(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("exports")
    return {"tiny": tiny_export, "other": write_export(place / "other", seed=1)}


@pytest.fixture
def repository(exports: dict[str, Path], tmp_path: Path) -> Path:
    publish(exports["tiny"], tmp_path / "repo", "tiny", SETTINGS)
    return tmp_path / "repo"


@pytest.fixture
def server(repository: Path, quick: None) -> Iterator[Server]:
    with Server(repository, **PORTS, follows=True) as server:
        yield server


def folders(repository: Path) -> set[str]:
    return {path.name for path in repository.iterdir()}


def compared(repository: Path) -> comparison.Comparison:
    return comparison.compare(lifecycle.find(repository, "tiny"), comparison.read_metrics(repository))


def test_a_canary_answers_its_share_and_is_promoted(server: Server, exports: dict[str, Path]) -> None:
    repository = server.repository
    with asking(server.http_url, "tiny", [ROW], connections=4) as log:
        lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.5)
        time.sleep(1)
    during = compared(repository)  # when nothing is halfway counted
    with asking(server.http_url, "tiny", [ROW], connections=4) as later:
        lifecycle.promote(repository, "tiny")
        time.sleep(0.2)
    assert log.errors == later.errors == []
    assert one_of(log, exports, "tiny", "other")
    assert one_of(later, exports, "tiny", "other")
    assert during.asked > 10
    assert (during.failed, during.refused) == (0, 0)
    same = answer(exports["tiny"], [ROW])[0].argmax() == answer(exports["other"], [ROW])[0].argmax()
    assert during.agreement == float(same)
    drift = np.abs(answer(exports["tiny"], [ROW]) - answer(exports["other"], [ROW])).max()
    assert during.drift == pytest.approx(drift, abs=1e-5)
    assert live_answer(server) == pytest.approx(answer(exports["other"], [ROW])[0], abs=1e-6)
    check_ended(repository, live=2)
    assert is_current(exports["other"], repository, "tiny", SETTINGS)
    assert keeping.rollback(repository, "tiny").version == 1
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)


def test_a_canary_is_dropped(server: Server, exports: dict[str, Path]) -> None:
    with asking(server.http_url, "tiny", [ROW], connections=4) as log:
        lifecycle.start(exports["other"], server.repository, "tiny", SETTINGS, 0.5)
        time.sleep(0.2)
        lifecycle.drop(server.repository, "tiny")
        time.sleep(0.2)
    assert log.errors == []
    assert one_of(log, exports, "tiny", "other")
    assert live_answer(server) == pytest.approx(answer(exports["tiny"], [ROW])[0], abs=1e-6)
    check_ended(server.repository, live=1)


def check_ended(repository: Path, live: int) -> None:
    """Nothing of the canary is left, and all else is as after any publication."""
    assert folders(repository) == {"tiny", "tiny.tokenize", "tiny.graph"}
    assert parts.running(repository, "tiny") is None
    assert published(repository, "tiny").version == live
    assert [each.damaged for each in keeping.verify(repository)] == [()] * len(versions(repository / "tiny"))
    assert lint(repository).findings == ()
    assert lineage.trace(repository, "tiny").links[0].state == "intact"


def test_while_it_runs_all_is_whole_and_a_server_can_start(repository: Path, exports: dict[str, Path]) -> None:
    lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.25)
    assert folders(repository) == {"tiny", "tiny.tokenize", "tiny.graph"} | ADDED
    assert parts.running(repository, "tiny") == lifecycle.find(repository, "tiny")
    assert [each.damaged for each in keeping.verify(repository)] == [(), ()]
    assert lint(repository).findings == ()
    with Server(repository, **PORTS) as server:
        for name, export in (("tiny.stable", "tiny"), ("tiny.canary", "other")):
            with Client(server.http_url, model=name) as client:
                np.testing.assert_allclose(client.predict(ROWS[:2]), answer(exports[export], ROWS[:2]), atol=1e-5)
        with Client(server.http_url, model="tiny") as client:
            (best,) = client.classify([ROW])[0]
            labels = [int(answer(exports[name], [ROW])[0].argmax()) for name in exports]
            assert best.label in {("negative", "neutral", "positive")[label] for label in labels}
            ids = {"input_ids": np.ones((1, 16), np.int64), "attention_mask": np.ones((1, 16), np.int64)}
            with Client(server.http_url, model="tiny.stable") as stable:
                np.testing.assert_array_equal(client.predict_tensors(ids), stable.predict_tensors(ids))


def test_a_canary_that_fails_loses_no_request_and_only_requests_are_counted(
    server: Server, exports: dict[str, Path]
) -> None:
    """Its workers die: the stable version's answers are given. What asks whether workers live is nobody's request."""
    lifecycle.start(exports["other"], server.repository, "tiny", SETTINGS, 0.99)
    workers = Workers(f"{server.id}-", server.repository)
    with Watch(server.http_url, server.key, workers, print) as watch:
        assert watch.look() == []
    assert compared(server.repository).asked == 0
    kill_workers(server, "tiny.canary.graph")
    with asking(server.http_url, "tiny", [ROW], connections=2) as log:
        time.sleep(0.5)
    assert log.errors == []
    assert one_of(log, exports, "tiny")
    assert compared(server.repository).failed > 0


def kill_workers(server: Server, model: str) -> None:
    for process in psutil.Process(server.pid).children(recursive=True):
        if any(f"/{model}/" in part for part in process.cmdline()):
            process.kill()


def test_the_share_can_be_changed(repository: Path, exports: dict[str, Path]) -> None:
    lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
    assert lifecycle.change_share(repository, "tiny", 0.7).share == 0.7
    assert lifecycle.find(repository, "tiny").share == 0.7
    assert [each.damaged for each in keeping.verify(repository)] == [(), ()]


def test_nothing_else_is_published_meanwhile(repository: Path, exports: dict[str, Path]) -> None:
    lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
    for change in (
        lambda: publish(exports["tiny"], repository, "tiny", SETTINGS),
        lambda: lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1),
        lambda: keeping.rollback(repository, "tiny", 1),
    ):
        with pytest.raises(UsageError, match="a canary answers a share"):
            change()


def test_what_cannot_be_compared_is_refused(repository: Path, tmp_path: Path) -> None:
    wide = write_export(tmp_path / "wide", labels=("a", "b"), seed=2)
    with pytest.raises(ArtifactError, match="it has the labels a, b"):
        lifecycle.start(wide, repository, "tiny", SETTINGS, 0.1)
    with pytest.raises(ArtifactError, match="cannot find nothing"):
        lifecycle.start(wide, repository, "nothing", SETTINGS, 0.1)
    with pytest.raises(ArtifactError, match="version 1 answers every request"):
        lifecycle.find(repository, "tiny")


def test_a_canary_that_does_not_pass_its_check_changes_nothing(repository: Path, exports: dict[str, Path]) -> None:
    def check(candidate: Path) -> None:
        assert folders(candidate) == {"tiny.canary", "tiny.canary.tokenize", "tiny.canary.graph"}
        raise ServerError("serve it", "it is broken", "mend it")

    with pytest.raises(ServerError, match="it is broken"):
        lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1, check=check)
    check_ended(repository, live=1)


def test_a_start_that_was_cut_off_is_cleared_away(
    repository: Path, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_split", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
    assert lint(repository).findings == ()
    lifecycle.drop(repository, "tiny")
    check_ended(repository, live=1)


def test_a_promotion_that_was_cut_off_goes_on(
    repository: Path, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new version is published, and after; in between the repository loads."""
    for cut in ("_stage_version", "_clear"):
        if parts.running(repository, "tiny") is None:
            lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, cut, lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                lifecycle.promote(repository, "tiny")
        assert lint(repository).findings == ()
        assert "tiny.stable" not in folders(repository)
    assert execute(["canary", "tiny", "--repository", str(repository), "--promote"]) == 0
    check_ended(repository, live=2)
    assert is_current(exports["other"], repository, "tiny", SETTINGS)


def test_two_that_change_a_canary_take_turns(repository: Path, exports: dict[str, Path]) -> None:
    def start() -> str:
        try:
            lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
        except UsageError as error:
            return error.found
        return "started"

    with ThreadPoolExecutor(2) as pool:
        said = sorted(future.result() for future in [pool.submit(start), pool.submit(start)])
    assert said[1] == "started"
    assert said[0].startswith("a canary answers a share")
    assert [each.damaged for each in keeping.verify(repository)] == [(), ()]


def test_the_verb_compares_and_ends_it(
    repository: Path, exports: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lifecycle.start(exports["other"], repository, "tiny", SETTINGS, 0.1)
    place = ["--repository", str(repository)]
    assert execute(["canary", "tiny", *place, "--share", "25%"]) == 0
    assert "the canary answers 25 % of the requests, version 1 the rest" in capsys.readouterr().out
    assert execute(["canary", "tiny", *place, "--share", "150%"]) == 2
    assert "'150%' is not a share" in capsys.readouterr().err
    assert execute(["canary", "tiny", *place, "--metrics", "nowhere"]) == 7
    assert execute(["canary", "tiny", *place, "--drop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["asked"] == 0
    check_ended(repository, live=1)
