"""Configurations made from graphs: each says what the graph says, and survives its text form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.tiny import make_graph
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.config import Signature, Tensor, read_signature

TOKENS = tuple(Tensor(name, "TYPE_INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))
SETTINGS = [
    Deploy(),
    Deploy(max_batch_size=7, queue_delay_us=250, instances=3),
    Deploy(preferred_batch_sizes=(4, 8), instances=2, threads=3, step_instances=1),
]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(make_graph(50, 3, seed=0), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def all_configs(graph: Path, settings: Deploy) -> list[Any]:
    signature = read_signature(graph)
    return [
        config.step_config("m.tokenize", "text", signature.inputs, [1, 2], settings),
        config.graph_config("m.graph", signature, [1, 2], settings),
        config.ensemble_config("m", ("m.tokenize", "m.graph"), "text", signature, 2, settings),
    ]


def test_a_signature_is_what_the_graph_declares(graph: Path) -> None:
    signature = read_signature(graph)
    assert signature.inputs == TOKENS
    assert signature.outputs == (Tensor("probabilities", "TYPE_FP32", (-1, 3)),)
    assert signature.batches


@pytest.mark.parametrize(
    ("onnx_type", "triton_type"),
    [
        ("FLOAT", "FP32"),
        ("DOUBLE", "FP64"),
        ("FLOAT16", "FP16"),
        ("STRING", "STRING"),
        ("BOOL", "BOOL"),
        ("INT8", "INT8"),
    ],
)
def test_types_are_translated(tmp_path: Path, onnx_type: str, triton_type: str) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.DataType.Value(onnx_type), ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert read_signature(tmp_path / "model.onnx").inputs == (Tensor("x", f"TYPE_{triton_type}", (-1,)),)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_configuration_survives_its_text_form(graph: Path, tmp_path: Path, settings: Deploy) -> None:
    for described in all_configs(graph, settings):
        (tmp_path / "config.pbtxt").write_text(config.to_text(described), encoding="utf-8")
        assert config.read(tmp_path / "config.pbtxt") == described


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_settings_reach_the_steps(graph: Path, settings: Deploy) -> None:
    tokenize, model, ensemble = all_configs(graph, settings)
    for step in (tokenize, model):
        assert step.dynamic_batching.max_queue_delay_microseconds == settings.queue_delay_us
        assert list(step.dynamic_batching.preferred_batch_size) == list(settings.preferred_batch_sizes)
        assert step.version_policy.specific.versions == [1, 2]
    assert model.instance_group[0].count == settings.instances
    assert tokenize.instance_group[0].count == (settings.step_instances or settings.instances)
    assert {described.max_batch_size for described in (tokenize, model, ensemble)} == {settings.max_batch_size}
    assert (tokenize.backend, model.backend, ensemble.platform) == ("python", "onnxruntime", "ensemble")


def test_the_graph_carries_the_labels(graph: Path) -> None:
    _, model, _ = all_configs(graph, Deploy())
    assert [(output.name, list(output.dims), output.label_filename) for output in model.output] == [
        ("probabilities", [3], "labels.txt")
    ]


def test_the_ensemble_pins_its_steps_and_joins_them_by_name(graph: Path) -> None:
    *_, ensemble = all_configs(graph, Deploy())
    tokenize, model = ensemble.ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in (tokenize, model)] == [("m.tokenize", 2), ("m.graph", 2)]
    assert dict(tokenize.output_map) == dict(model.input_map) == {token.name: token.name for token in TOKENS}
    assert dict(model.output_map) == {"probabilities": "probabilities"}


def test_instances_share_the_cores(graph: Path) -> None:
    cores = os.cpu_count() or 1
    _, several, _ = all_configs(graph, Deploy(instances=2 * cores))
    assert several.parameters["intra_op_thread_count"].string_value == "1"
    _, single, _ = all_configs(graph, Deploy(instances=1))
    assert "intra_op_thread_count" not in single.parameters


def test_a_graph_with_an_attention_mask_lets_texts_of_different_lengths_share_a_run(graph: Path) -> None:
    signature = read_signature(graph)
    assert config.graph_config("m", signature, [1], Deploy()).parameters["merge_lengths"].string_value == "true"
    pixels = Signature((Tensor("pixels", "TYPE_UINT8", (-1, 8, 8, 3)),), signature.outputs)
    assert not config.graph_config("m", pixels, [1], Deploy()).parameters


@pytest.mark.parametrize("instances", [1, 5])
def test_threads_that_are_given_are_each_instances(graph: Path, instances: int) -> None:
    tokenize, model, _ = all_configs(graph, Deploy(instances=instances, threads=3))
    assert model.parameters["intra_op_thread_count"].string_value == "3"
    assert not tokenize.parameters


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    onnx.save(make_graph(50, 3, seed=0, batch=1), tmp_path / "model.onnx")
    signature = read_signature(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="first dim of input_ids is 1, not open"):
        config.graph_config("m.graph", signature, [1], Deploy())


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(range(256))])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        read_signature(tmp_path / "model.onnx")


def test_a_missing_or_broken_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        config.read(tmp_path / "config.pbtxt")
    (tmp_path / "config.pbtxt").write_text("max_batch: 3", encoding="utf-8")
    with pytest.raises(ArtifactError, match="max_batch"):
        config.read(tmp_path / "config.pbtxt")
