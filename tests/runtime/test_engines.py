"""Engines beside the tuned network in eager PyTorch and the exported graph in onnxruntime: they answer as these do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.exporting.tiny_source import image_source, text_source
from tldeploy.devices import Device, lacking
from tldeploy.errors import ArtifactError, MachineError
from tldeploy.exporting.source import Source
from tldeploy.measuring.isolated import Isolated
from tldeploy.measuring.scenarios import closed_loop, single_stream
from tldeploy.runtime.nncf_int8 import quantize
from tldeploy.runtime.openvino import OpenVinoRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.runtime.pytorch_compiled import TorchCompileRunner
from tldeploy.runtime.pytorch_half import TorchBf16Runner, TorchFp16Runner, narrow

COMPILED = "tldeploy.runtime.pytorch_compiled:TorchCompileRunner"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return saved(text_source(tmp_path_factory.mktemp("text"), layers=1))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return saved(image_source(tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module", params=["text", "image"])
def source(request: pytest.FixtureRequest) -> Source:
    made: Source = request.getfixturevalue(request.param)
    return made


def saved(source: Source) -> Source:
    """The network and its preprocessing beside the graph, as a tuned artifact has them."""
    source.network.save(source.graph.parent)
    source.task.save(source.graph.parent)
    return source


@pytest.fixture(scope="module")
def eager(source: Source) -> Iterator[TorchRunner]:
    with closing(TorchRunner(source.graph.parent, source.task)) as runner:
        yield runner


def agreement(some: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float((some.argmax(axis=1) == others.argmax(axis=1)).mean())


def test_bf16_answers_as_eager_does_but_for_its_three_digits(source: Source, eager: TorchRunner) -> None:
    rows = source.validation.inputs
    with closing(TorchBf16Runner(source.graph.parent, source.task)) as runner:
        answers = runner.predict(rows)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6, err_msg="the softmax is in fp32")
    expected = eager.predict(rows)
    assert 0 < np.abs(answers - expected).max() < 0.03
    assert agreement(answers, expected) >= 0.98


def test_fp16_answers_as_eager_does_but_for_its_three_digits(source: Source, eager: TorchRunner) -> None:
    """On the CPU, which no engine does: it computes the same, slowly."""
    with closing(TorchRunner(source.graph.parent, source.task)) as runner:
        narrow(runner._network.backbone, torch.float16)
        assert {weights.dtype for weights in runner._network.backbone.parameters()} == {torch.float16}
        assert {weights.dtype for weights in runner._network.head.parameters()} == {torch.float32}
        answers = runner.predict(source.validation.inputs)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    assert 0 < np.abs(answers - eager.predict(source.validation.inputs)).max() < 0.005


def test_fp16_is_refused_on_the_cpu_and_openvino_on_a_gpu(text: Source) -> None:
    with pytest.raises(MachineError, match="run torch fp16 on the CPU: hardly any CPU has instructions"):
        TorchFp16Runner(text.graph.parent, text.task, "cpu")
    with pytest.raises(MachineError, match="run OpenVINO on cuda: of NVIDIA's GPUs it knows none"):
        OpenVinoRunner(text.graph, text.task, "cuda")


@pytest.mark.parametrize("kind", [TorchRunner, TorchBf16Runner, TorchFp16Runner, TorchCompileRunner])
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_pytorch_on_a_gpu_that_is_not_there_is_one_clear_error(
    text: Source, kind: type[TorchRunner], device: Device
) -> None:
    if (lack := lacking("cuda", ["torch"])) is None:
        pytest.skip("there is a GPU")
    with pytest.raises(MachineError) as caught:
        kind(text.graph.parent, text.task, device)
    assert (caught.value.asked, caught.value.found) == (f"run {kind.name} on cuda", lack.found)


@pytest.mark.proof
def test_what_is_compiled_answers_as_eager_does_at_any_length_and_from_any_thread(text: Source) -> None:
    """Rows of one word and of many, one by one and in batches, which are two programs."""
    folder, rows = text.graph.parent, [*text.validation.inputs[:40], "", "good", "great camera " * 20]
    with (
        closing(TorchRunner(folder, text.task)) as eager,
        closing(Isolated("torch-compile", COMPILED, folder, text.task, folder)) as compiled,
    ):
        run = single_stream([eager, compiled], rows, 3, "test")
        np.testing.assert_allclose(run.probabilities[1], run.probabilities[0], atol=1e-5)
        assert agreement(*run.probabilities) == 1
        np.testing.assert_allclose(compiled.predict(rows), eager.predict(rows), atol=1e-5)
        assert closed_loop([compiled], rows, [3], 0.1, "test").completed.min() >= 3
        assert compiled.opening.size_bytes == eager.size_bytes > 0


def test_a_machine_without_a_compiler_is_told_what_to_install(text: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    folder = text.graph.parent
    with pytest.raises(MachineError, match=r"there is no C\+\+ compiler /nowhere/g\+\+") as caught:
        Isolated("torch-compile", COMPILED, folder, text.task, folder)
    assert "apt-get install g++" in caught.value.fix


def test_openvino_answers_as_eager_does(source: Source, eager: TorchRunner) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    rows = source.validation.inputs
    with closing(OpenVinoRunner(source.graph, source.task)) as runner:
        assert (runner.name, runner.size_bytes) == ("openvino fp32", source.graph.stat().st_size)
        np.testing.assert_allclose(runner.predict(rows), eager.predict(rows), atol=1e-4)
        np.testing.assert_allclose(runner.predict(rows[:1]), eager.predict(rows[:1]), atol=1e-4)
        load = closed_loop([runner], rows, [3], 0.1, "test")
        assert load.completed.min() >= 3


def test_nncf_makes_an_int8_graph_that_answers_nearly_so(source: Source, eager: TorchRunner, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    encoded = (source.task.encode([row]) for row in source.calibration.inputs)
    quantize(source.graph, encoded, "transformer" if len(source.task.axes) > 1 else "cnn", tmp_path / "int8-of-it.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8-of-it.bin", "int8-of-it.xml"]
    rows = source.validation.inputs
    with closing(OpenVinoRunner(tmp_path / "int8-of-it.xml", source.task)) as runner:
        assert runner.name == "openvino int8"
        assert runner.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        assert agreement(runner.predict(rows), eager.predict(rows)) >= 0.95


def test_a_graph_that_openvino_cannot_read_is_refused(text: Source, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    (tmp_path / "fp32.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"run fp32\.onnx with OpenVINO"):
        OpenVinoRunner(tmp_path / "fp32.onnx", text.task)


def test_without_the_packages_it_is_said_what_to_install(
    text: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MachineError, match="the package openvino is not installed") as caught:
        OpenVinoRunner(text.graph, text.task)
    assert caught.value.fix.startswith("pip install 'openvino>=2026.4' 'nncf>=3.4'")
    without = tmp_path / "python"
    without.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -S -m tldeploy.runtime.nncf_int8 "$@"\n')
    without.chmod(0o755)
    with pytest.raises(MachineError, match="No module named"):
        quantize(text.graph, [], "transformer", tmp_path / "int8.xml", python=str(without))
    assert not (tmp_path / "int8.xml").exists()
