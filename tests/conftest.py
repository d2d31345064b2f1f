"""What several rooms need: a tiny model served by the real server, and a disk that fills up.

Each process of the suite keeps to one core: the thread pools of two would wait for each other. There are three for two
cores, since a third of the time is waited for servers to start and to stop.
"""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import write_export
from tldeploy.recipe import Deploy
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

# The rooms whose files take longest, whole jobs before all others.
LONG = ("e2e", "triton", "tuning", "exporting")
# Long enough that requests sent at the same time are merged.
SETTINGS = Deploy(max_batch_size=8, queue_delay_us=5000)


def pytest_xdist_auto_num_workers() -> int:
    return len(os.sched_getaffinity(0)) * 3 // 2


def pytest_configure() -> None:
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file that takes a minute, left to the end, would keep one process busy and the others waiting."""
    items.sort(key=lambda item: next((at for at, room in enumerate(LONG) if room in item.path.parts), len(LONG)))


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("tiny") / "onnx")


@pytest.fixture(scope="session")
def tiny_server(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("served") / "triton_repo"
    publish(tiny_export, repository, "tiny", SETTINGS)
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("mounting needs root")
    yield place
    gc.collect()  # arrays that are mapped from there
    # Lazily: a command that failed in this process may have left a file open.
    subprocess.run(["umount", "--lazy", str(place)], check=True)
