"""A server that follows its repository, and what is published there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import write_export
from tldeploy.recipe import Deploy
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server


@pytest.fixture(scope="module")
def exports(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("exports")
    other, wide = (
        write_export(place / "other", seed=1),
        write_export(place / "wide", labels=("a", "b", "c", "d"), seed=2),
    )
    return {"tiny": tiny_export, "other": other, "wide": wide}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers whose workers are started once a load, where lengths are merged twice, and that are killed at the end."""
    monkeypatch.setattr("tldeploy.triton.server.merges_lengths", lambda repository: False)
    monkeypatch.setattr("tldeploy.triton.server.KILL_AFTER_S", 0)


@pytest.fixture
def server(exports: dict[str, Path], tmp_path: Path, quick: None) -> Iterator[Server]:
    """It follows its repository, and has loaded version 1 of `tiny`."""
    publish(exports["tiny"], tmp_path / "repo", "tiny", Deploy(keep_versions=1))
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with Server(tmp_path / "repo", **ports, follows=True) as server:
        yield server
