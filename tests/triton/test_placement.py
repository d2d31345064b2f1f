"""What a repository is configured for is looked at before a server is started on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import without_gpu
from tldeploy.cli import execute
from tldeploy.devices import Lack
from tldeploy.errors import ArtifactError, MachineError
from tldeploy.recipe import Deploy
from tldeploy.triton import placement
from tldeploy.triton.config import ENGINES_WITHIN_S
from tldeploy.triton.lint.models import Model
from tldeploy.triton.placement import check_servable, demand, device_of
from tldeploy.triton.repository import all_published, publish
from tldeploy.triton.server import READY_WITHIN_S, Server

LINEAGE = {"recipe": {"folder": "../models/tiny", "sha256": "0"}}


@pytest.fixture
def repository(tiny_export: Path, tmp_path: Path) -> Path:
    """One model for the CPU, one for CUDA and one for TensorRT; and a foreign one that does not say."""
    for name, device in (("first", "cpu"), ("second", "cuda"), ("third", "tensorrt")):
        publish(tiny_export, tmp_path / "repo", name, Deploy(device=device), LINEAGE)
    (tmp_path / "repo" / "foreign").mkdir()
    (tmp_path / "repo" / "foreign" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    return tmp_path / "repo"


def test_where_a_graph_runs_is_read_from_its_configuration(repository: Path) -> None:
    names = ["first.graph", "second.graph", "third.graph", "foreign"]
    assert [device_of(Model(repository / name)) for name in names] == ["cpu", "cuda", "tensorrt", None]


def test_a_server_has_longer_to_be_ready_where_tensorrt_builds_engines(repository: Path) -> None:
    assert Server(repository).ready_within_s == ENGINES_WITHIN_S > READY_WITHIN_S
    assert Server(repository, ready_within_s=3).ready_within_s == 3
    for part in ("third", "third.graph", "third.tokenize"):
        shutil.rmtree(repository / part)
    assert Server(repository).ready_within_s == READY_WITHIN_S


@pytest.mark.parametrize(
    ("group", "gpus", "expected"),
    [
        ({"count": 2, "kind": "KIND_GPU", "gpus": [0, 2]}, 0, 4),
        ({"count": 2, "kind": "KIND_GPU", "gpus": [0, 2]}, 4, 4),
        ({"count": 2, "kind": "KIND_GPU"}, 3, 6),
        ({"kind": "KIND_GPU", "gpus": []}, 0, 1),
        ({"count": 2, "kind": "KIND_CPU", "gpus": []}, 3, 2),
        ({"count": 2, "kind": "KIND_MODEL"}, 3, 2),
        ({"count": 2, "gpus": [0]}, 3, 2),
        ({"count": 2, "gpus": [0, 1]}, 1, 2),  # one of them is not there, so that Triton takes the CPU
        ({"count": 2}, 3, 6),
        ({"count": 2}, 0, 2),
    ],
)
def test_each_gpu_of_a_group_has_as_many_instances_as_it_counts(
    group: dict[str, Any], gpus: int, expected: int
) -> None:
    assert placement.instances([group], gpus) == expected
    assert placement.instances([group, {"count": 5, "kind": "KIND_CPU"}], gpus) == expected + 5
    assert placement.instances([]) == 1


@without_gpu
def test_graphs_for_a_gpu_are_refused_before_a_server_is_started(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tldeploy.triton.server.locate", lambda: pytest.fail("a server was started"))
    monkeypatch.chdir(repository.parent)
    for arguments in (["serve", "repo"], ["predict", "first", "text", "--serve", "repo"]):
        assert execute(arguments) == 6
        said = capsys.readouterr().err
        assert "second.graph, third.graph are configured for a GPU (KIND_GPU): there is no NVIDIA driver here" in said
        assert "`tldeploy export models/tiny --device cpu && tldeploy deploy models/tiny --device cpu`" in said
    with pytest.raises(MachineError), Server(repository, http_port=0, grpc_port=0, metrics_port=0):
        pass


def test_graphs_for_a_gpu_are_servable_where_there_is_one(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "lacking", lambda device, needs: None)
    check_servable(repository, all_published(repository))


def test_onnxruntime_is_asked_for_only_where_it_runs_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the driver of a GPU, and an onnxruntime that knows no CUDA."""
    lack = Lack("onnxruntime is built without CUDA", "install another")
    monkeypatch.setattr(placement, "needs", lambda: ["onnxruntime"])
    monkeypatch.setattr(placement, "lacking", lambda device, needs: lack if needs else None)
    text = "instance_group [{ kind: KIND_GPU }]\n"
    for name, served_by in (("plan", 'platform: "tensorrt_plan"\n'), ("code", 'backend: "python"\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(served_by + text)
    check_servable(tmp_path, [])
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "config.pbtxt").write_text('backend: "onnxruntime"\n' + text)
    with pytest.raises(MachineError) as caught:
        check_servable(tmp_path, [])
    assert caught.value.found.startswith("graph is configured for a GPU (KIND_GPU): onnxruntime is built without")


@pytest.mark.parametrize(
    ("device", "others"),
    [
        ("cpu", ["second.graph is configured for cuda", "third.graph is configured for tensorrt"]),
        ("cuda", ["first.graph is configured for cpu", "third.graph is configured for tensorrt"]),
        ("tensorrt", ["first.graph is configured for cpu", "second.graph is configured for cuda"]),
    ],
)
def test_every_graph_that_is_for_another_device_is_named(repository: Path, device: str, others: list[str]) -> None:
    with pytest.raises(ArtifactError) as caught:
        demand(repository, device)  # type: ignore[arg-type]
    assert caught.value.found == "; ".join(sorted(["foreign is configured for any device", *others]))
    assert caught.value.fix.count(f"--device {device}") == 2
    assert f"write {placement.KINDS[device]} in foreign/config.pbtxt" in caught.value.fix  # type: ignore[index]


def test_a_repository_that_is_all_for_the_cpu_may_be_asked_to_be(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy(), LINEAGE)
    demand(tmp_path / "repo", "cpu")


@without_gpu
def test_a_repository_for_the_cpu_is_not_served_on_a_gpu_that_is_not_there(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    assert execute(["serve", str(tmp_path / "repo"), "--device", "cuda"]) == 6
    assert capsys.readouterr().err.startswith(f"error: cannot serve {tmp_path / 'repo'} on cuda: there is no NVIDIA")
