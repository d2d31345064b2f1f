"""The image, and whether the real server takes the flags, probes and health check that are written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.triton import handmade
from tests.triton.manifests.made import chart_of, container_of
from tldeploy import serving
from tldeploy.triton import home
from tldeploy.triton.manifests.docker import dockerfile, server_flags
from tldeploy.triton.manifests.needs import read_needs
from tldeploy.triton.ports import free_ports


def test_the_image_has_the_packages_the_models_and_no_version_that_is_not_served(
    repository: Path, tmp_path: Path
) -> None:
    config = repository / "My_reviews" / "config.pbtxt"
    assert "versions: 2" in config.read_text()
    made = serving.manifests(repository, "docker", tmp_path)
    lines = (tmp_path / "Dockerfile").read_text().splitlines()
    assert "FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3" in lines
    assert any(
        line.startswith("RUN ") and line.endswith(f" tokenizers=={metadata.version('tokenizers')}") for line in lines
    )
    assert [line for line in lines if line.startswith(("COPY", "USER"))] == [
        "COPY --chmod=0555 . /models",
        "USER 1000:1000",
    ]
    assert (tmp_path / "Dockerfile.dockerignore").read_text().splitlines()[-1] == "My_reviews/1"
    assert made.next == f"docker build -t my-reviews -f {tmp_path / 'Dockerfile'} {repository}"


def test_an_image_without_python_steps_installs_nothing(tmp_path: Path) -> None:
    handmade.classifier(tmp_path)
    assert "RUN" not in dockerfile(read_needs(tmp_path))


def test_only_complete_configurations_are_not_completed(tmp_path: Path) -> None:
    handmade.classifier(tmp_path)
    assert "--disable-auto-complete-config" in server_flags(read_needs(tmp_path))
    (tmp_path / "classifier" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    assert "--disable-auto-complete-config" not in server_flags(read_needs(tmp_path))


@pytest.fixture(scope="module")
def served_by_its_manifests(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    """The real server, started by the flags of the Dockerfile and the chart, but here: on loopback and free ports."""
    out = tmp_path_factory.mktemp("flags")
    serving.manifests(repository, "docker", out)
    command = json.loads((out / "Dockerfile").read_text().rpartition("\nCMD ")[2])
    chart = chart_of(repository, out / "chart")
    assert container_of(chart, {"threadPool": False})["args"] == command
    flags = container_of(chart, {"threadPool": True})["args"][1:]
    here = [flag.replace("0.0.0.0", "127.0.0.1").replace("=/models", f"={repository}") for flag in flags]
    ports = (http, grpc, metrics) = tuple(free_ports())
    place = home.locate()
    here += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    here += [f"--backend-directory={place.backends}"]
    with (out / "log").open("wb") as log:
        server = subprocess.Popen([place.program, *here], env=dict(place.variables), stdout=log, stderr=log)
    try:
        yield out, ports
    finally:
        server.terminate()
        server.wait(60)


def test_the_server_takes_the_flags_and_the_health_check_finds_it_ready(
    served_by_its_manifests: tuple[Path, tuple[int, int, int]],
) -> None:
    out, (http, _, _) = served_by_its_manifests
    (line,) = [line for line in (out / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK")]
    check = json.loads(line.partition(" CMD ")[2].replace(":8000/", f":{http}/"))
    check[0] = sys.executable
    deadline = time.monotonic() + 120
    while subprocess.run(check, check=False, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    assert subprocess.run(check, check=False).returncode == 0, (out / "log").read_text()
    container = container_of(next((out / "chart").iterdir()))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        with urllib.request.urlopen(f"http://127.0.0.1:{http}{container[probe]['httpGet']['path']}") as answer:
            assert answer.status == 200
