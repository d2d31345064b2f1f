"""Training under rounding: what is rounded and when, and that int8 harms the network less afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from pydantic import ValidationError
from torch import nn

from tests.exporting.tiny_source import LABELS, SILENT, answers, text_source, with_a_silent_channel
from tests.tuning.job import make_job, write_text_recipe
from tests.tuning.tiny_part import image_network, sha256, text_network
from tldeploy.backbones.checkpoints import load_weights
from tldeploy.backbones.network import TextNetwork
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.quantization.dynamic import DynamicInt8
from tldeploy.exporting.quantization.exclusion import Quantizer
from tldeploy.exporting.quantization.judge import Judge
from tldeploy.exporting.quantization.static import Scheme, StaticInt8
from tldeploy.recipe import Tune
from tldeploy.tuning.fine_tuning import train
from tldeploy.tuning.job import Part
from tldeploy.tuning.lora import lora
from tldeploy.tuning.quantization_aware import rounded_activations, rounded_weights, rounding

AWARE = Tune(quantization_aware=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("shape", [(6, 40), (6, 3, 5, 5)])
def test_weights_are_rounded_around_zero_for_each_output(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weights = torch.randn(shape) * torch.logspace(-3, 3, 6).reshape(-1, *[1] * (len(shape) - 1))
    weights[0].fill_(0)
    weights.requires_grad_()
    found = rounded_weights(weights)
    steps = weights.detach().flatten(1).abs().amax(dim=1) / 64
    integers = found.detach().flatten(1)[1:] / steps[1:, None]
    torch.testing.assert_close(integers, integers.round(), atol=1e-4, rtol=0)
    assert integers.abs().amax(dim=1).round().tolist() == [64] * 5
    assert ((found - weights).detach().flatten(1).abs().amax(dim=1) <= 0.5001 * steps).all()
    assert not found[0].any()
    found.sum().backward()
    torch.testing.assert_close(weights.grad, torch.ones(shape))


@pytest.mark.parametrize("values", [[-1.0, 0.3, 4.0], [2.0, 3.1, 4.2], [-4.0, -0.1, -3.0], [0.0, 0.0, 0.0]])
def test_activations_are_rounded_as_onnxruntime_does(values: list[float]) -> None:
    """Of a graph that takes the scale from what it is given: DynamicQuantizeLinear."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["integers", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["y"]),
    ]
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "rounding", places[:1], places[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    asked = torch.tensor(values, requires_grad=True)
    found = rounded_activations(asked)
    expected = session.run(["y"], {"x": np.array(values, np.float32)})[0]
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)
    found.sum().backward()
    assert asked.grad is not None
    assert asked.grad.tolist() == [1, 1, 1]


def test_a_layer_is_rounded_in_training_mode_only_and_keeps_its_own_weights(folder: Path) -> None:
    network, _, _ = text_network(folder, dropout=0.0)
    layer = network.head
    values = torch.randn(5, layer.in_features)
    plain, names, own = layer(values), [name for name, _ in network.named_parameters()], layer.weight
    with rounding(network, AWARE):
        network.train()
        found = layer(values)
        expected = nn.functional.linear(rounded_activations(values), rounded_weights(layer.weight), layer.bias)
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
        assert not torch.equal(found, plain)
        with pytest.raises(RuntimeError, match="shapes"):
            layer(values[:, 1:])
        network.eval()
        torch.testing.assert_close(layer(values), plain, atol=0, rtol=0)
    network.train()
    torch.testing.assert_close(layer(values), plain, atol=0, rtol=0)
    assert layer.weight is own
    assert [name for name, _ in network.named_parameters()] == names


def test_the_setting_changes_what_is_learnt_and_the_manifest_says_so(folder: Path) -> None:
    weights = []
    for aware in (False, True):
        network, part, _ = text_network(folder)
        settings = Tune(epochs=1, batch_size=8, learning_rate=3e-3, quantization_aware=aware)
        found = train(network, part, settings, "test")
        assert found.details.get("quantization_aware", False) == aware
        weights.append(sha256(network))
    assert weights[0] != weights[1]


def test_convolutions_learn_under_rounding_too(tmp_path: Path) -> None:
    network, part = image_network(tmp_path)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = train(network, part, Tune(epochs=2, batch_size=8, learning_rate=1e-3, quantization_aware=True), "test")
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("convolution.weight")} <= moved
    losses = [loss for _, loss in found.curves["training loss"]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_activations_that_are_computed_again_are_rounded_again(folder: Path) -> None:
    found = []
    for frugal in (False, True):
        network, part, _ = text_network(folder)
        settings = Tune(epochs=1, batch_size=8, quantization_aware=True, gradient_checkpointing=frugal)
        train(network, part, settings, "test")
        found.append(sha256(network))
    assert found[0] == found[1]


@pytest.mark.parametrize("rest", [{}, {"search": {"method": "lora", "space": {"seed": [0, 1]}}}])
def test_methods_that_cannot_do_it_are_a_mistake_of_the_recipe(rest: dict[str, Any]) -> None:
    methods = ["lora"] if not rest else ["fine-tuning"]
    with pytest.raises(ValidationError, match="quantization_aware: "):
        Tune.model_validate({"methods": methods, "quantization_aware": True, **rest})


def test_adapters_beside_fine_tuning_learn_without_it(tmp_path: Path) -> None:
    folder = write_text_recipe(tmp_path / "text", rows=60)
    job = make_job(folder, methods=["fine-tuning", "lora"], epochs=1, quantization_aware=True)
    assert "quantization_aware" not in lora(job).details


def test_what_breaks_in_int8_is_learnt_in_a_way_that_bears_it(tmp_path: Path) -> None:
    source = text_source(tmp_path, layers=1)
    source.network.backbone.save_pretrained(tmp_path / "backbone")
    with_a_silent_channel(tmp_path / "backbone")
    part = Part(source.task.examples(source.calibration.inputs), source.calibration.classes)
    batches = covering_batches(source.task, source.calibration, 96)
    losses: dict[str, list[float]] = {"static": [], "dynamic": []}
    points: dict[str, list[float]] = {"static": [], "dynamic": []}
    for aware in (False, True):
        torch.manual_seed(1)
        network = TextNetwork(load_weights(str(tmp_path / "backbone"), None, "test"), "cls", len(LABELS))
        settings = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "precision": "fp32", "freeze": [SILENT]}
        train(network, part, Tune.model_validate({**settings, "quantization_aware": aware}), "test")
        graph, target = tmp_path / f"{aware}.onnx", tmp_path / "int8.onnx"
        export_graph(network, source.task, graph, 20, {})
        judge = Judge(replace(source, graph=graph, network=network))
        quantizers: dict[str, Quantizer] = {
            "static": StaticInt8(graph, batches, Scheme(reduce_range=True)),
            "dynamic": DynamicInt8(graph, reduce_range=True),
        }
        found = source.task.decode(answers(graph, source.task, source.validation))
        assert source.task.measure(source.validation.classes, found).value > 0.98
        for kind, quantizer in quantizers.items():
            quantizer.write(target)
            losses[kind].append(judge.loss(target))
            points[kind].append(judge.drop(target).points)
    for kind in losses:
        assert points[kind][0] > 10
        assert points[kind][1] < 1
        assert losses[kind][1] < 0.1 * losses[kind][0]
