from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from tests.backbones.families import make
from tests.backbones.onnx_graph import export
from tldeploy.backbones.checkpoints import load_weights
from tldeploy.backbones.vgg import DEPTHS, VGGConfig, VGGModel, _average_to_grid

# What torchvision's vgg16 and vgg16_bn call their convolutions: each max-pool, ReLU and norm takes a number too.
VGG16 = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
VGG16_BN = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]


@pytest.mark.parametrize(("name", "numbers"), [("vgg16", VGG16), ("vgg16_bn", VGG16_BN)])
def test_the_names_of_the_weights_are_those_of_torchvision(name: str, numbers: list[int]) -> None:
    with torch.device("meta"):
        model = VGGModel(VGGConfig.named(name))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert [int(name.split(".")[1]) for name, shape in shapes.items() if len(shape) == 4] == numbers
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 512 * 7 * 7)
    assert shapes["classifier.3.weight"] == (4096, 4096)
    assert not any(name.startswith("classifier.6") for name in shapes)


@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_the_number_in_the_name_counts_the_layers_with_weights(name: str) -> None:
    assert sum(DEPTHS[name]) + 3 == int(name.removeprefix("vgg"))


@pytest.mark.parametrize("size", [32, 64, 96, 224, 320])
def test_the_dense_layers_read_the_same_grid_whatever_the_size(size: int) -> None:
    hidden = torch.randn(2, 3, size // 32, size // 32 + 1)
    torch.testing.assert_close(_average_to_grid(hidden), nn.AdaptiveAvgPool2d(7)(hidden), atol=1e-6, rtol=1e-5)


def test_with_its_classifier_the_features_are_those_before_the_classes() -> None:
    model = make("vgg")
    pixels = torch.randn(2, 3, 56, 56)
    output = model(pixel_values=pixels)
    assert output.last_hidden_state.shape == (2, 12, 7, 7)
    expected = model.classifier(model.features(pixels).flatten(1))
    torch.testing.assert_close(output.pooler_output, expected)
    assert output.pooler_output.shape == (2, 10)


def test_without_its_classifier_the_features_are_means_over_space() -> None:
    model = make("vgg", classifier=False)
    output = model(pixel_values=torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(dim=(2, 3)))


def test_the_classes_of_a_checkpoint_are_left_out_and_the_rest_survives_a_round_trip(tmp_path: Path) -> None:
    model = make("vgg")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"classifier.6.weight": torch.ones(5, 10), "classifier.6.bias": torch.ones(5)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = load_weights(str(tmp_path), None, "load a VGG")
    pixels = torch.randn(2, 3, 32, 32)
    assert isinstance(again, VGGModel)
    assert torch.equal(again(pixels).pooler_output, model(pixels).pooler_output)
    _, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["unexpected_keys"]
    assert not loading["missing_keys"]


@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize("size", [56, 64])
def test_it_exports_with_a_batch_of_any_size(tmp_path: Path, classifier: bool, size: int) -> None:
    model = make("vgg", classifier=classifier)
    file = export(lambda pixels: model(pixels).pooler_output, model, size, tmp_path / "vgg.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pixels = torch.randn(batch, 3, size, size)
        (found,) = session.run(None, {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(found, model(pixels).pooler_output.detach(), atol=1e-4, rtol=1e-4)
