from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.backbones.families import IMAGES, inputs, make
from tests.backbones.onnx_graph import export
from tldeploy.backbones.checkpoints import load_config
from tldeploy.backbones.images import check_size, feature_size, load_image_backbone, pooled
from tldeploy.backbones.preparation import (
    IMAGENET,
    LITE,
    parse_preparation,
    parse_timm,
    read_preparation,
    trained_shape,
)
from tldeploy.errors import ArtifactError, MachineError, RecipeError, TldeployError


def refused(folder: Path, source: str = "backbone") -> TldeployError:
    with pytest.raises(TldeployError) as raised:
        load_image_backbone(source, None, folder)
    return raised.value


@pytest.mark.parametrize("family", sorted(IMAGES))
def test_a_folder_gives_the_same_features_as_the_model_that_was_saved(family: str, tmp_path: Path) -> None:
    model = make(family)
    model.save_pretrained(tmp_path / "backbone")
    backbone = load_image_backbone("backbone", None, tmp_path)
    pixels = inputs(model, 2)["pixel_values"]
    with torch.inference_mode():
        assert torch.equal(pooled(backbone.model, pixels), pooled(model, pixels))
        assert pooled(model, pixels).shape == (2, feature_size(model))
    assert not backbone.model.training
    assert backbone.preparation == IMAGENET | {"image_size": getattr(model.config, "image_size", 224)}


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2", "efficientnet"])
def test_features_of_a_map_are_means_over_space(family: str) -> None:
    model = make(family)
    output = model(**inputs(model, 2))
    torch.testing.assert_close(pooled(model, **inputs(model, 2)), output.last_hidden_state.mean(dim=(2, 3)))
    torch.testing.assert_close(pooled(model, **inputs(model, 2)), output.pooler_output.flatten(1))


def test_a_size_that_the_network_cannot_read_is_refused_before_training() -> None:
    model = make("vit")
    check_size(model, model.config.image_size, "use it")
    with pytest.raises(RecipeError, match="a vit cannot read colour images of 48 × 48 pixels") as raised:
        check_size(model, 48, "use it")
    assert "backbone.image_size" in raised.value.fix
    check_size(make("resnet"), 48, "use it")


def test_a_pooler_that_the_checkpoint_lacks_gives_way_to_the_class_token(tmp_path: Path) -> None:
    model = make("vit")
    model.save_pretrained(tmp_path / "backbone")
    pixels = inputs(model, 2)["pixel_values"]
    assert torch.equal(pooled(model, pixels), model(pixels).pooler_output)
    weights = tmp_path / "backbone" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("pooler.")}
    save_file(tensors, weights, metadata={"format": "pt"})
    bare = load_image_backbone("backbone", None, tmp_path).model
    assert torch.equal(pooled(bare, pixels), model(pixels).last_hidden_state[:, 0])
    assert feature_size(bare) == 16


@pytest.mark.parametrize("family", ["resnet", "resnet-caffe", "vit", "convnext", "mobilenet_v2", "efficientnet"])
def test_features_export_with_a_batch_of_any_size(family: str, tmp_path: Path) -> None:
    model = make(family, **({"num_block_repeats": [1] * 7} if family == "efficientnet" else {}))
    size = inputs(model)["pixel_values"].shape[-1]
    file = export(lambda pixels: pooled(model, pixels), model, size, tmp_path / "features.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pixels = inputs(model, batch)["pixel_values"]
        expected = pooled(model, pixels).detach().numpy()
        (found,) = session.run(None, {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, np.abs(expected).max()), rtol=1e-4)


def to_torchvision(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a ResNet of transformers under torchvision's names, with a layer of classes."""
    named = {}
    for name, tensor in model.state_dict().items():
        new = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        new = new.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        for stage in range(4):
            new = new.replace(f"encoder.stages.{stage}.layers.", f"layer{stage + 1}.")
        for part in range(3):
            new = new.replace(f".layer.{part}.convolution", f".conv{part + 1}")
            new = new.replace(f".layer.{part}.normalization", f".bn{part + 1}")
        named[new] = tensor
    return named | {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_with_torchvisions_names_is_recognised_as_a_resnet(layer_type: str, suffix: str, tmp_path: Path) -> None:
    model = make("resnet", layer_type=layer_type, hidden_sizes=[8, 16, 32, 64], depths=[2, 1, 3, 1])
    tensors = to_torchvision(model)
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer3.2.bn2.bias"} <= set(tensors)
    save_tensors(tensors, tmp_path / f"resnet{suffix}")
    found = load_image_backbone(f"resnet{suffix}", None, tmp_path)
    pixels = inputs(model)["pixel_values"]
    assert found.model.config.depths == [2, 1, 3, 1]
    assert torch.equal(pooled(found.model, pixels), pooled(model, pixels))
    assert found.preparation == IMAGENET


@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_file_with_torchvisions_names_is_recognised_as_a_vgg(
    classifier: bool, batch_norm: bool, tmp_path: Path
) -> None:
    model = make("vgg", classifier=classifier, batch_norm=batch_norm)
    tensors = model.state_dict() | {"classifier.6.weight": torch.ones(3, 10), "classifier.6.bias": torch.ones(3)}
    save_tensors({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "vgg.pth")
    found = load_image_backbone("vgg.pth", None, tmp_path).model
    assert (found.config.depths, found.config.hidden_sizes) == (model.config.depths, model.config.hidden_sizes)
    pixels = inputs(model)["pixel_values"]
    assert torch.equal(pooled(found, pixels), pooled(model, pixels))


def save_tensors(tensors: dict[str, Any], file: Path) -> None:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)


def test_an_efficientnet_lite0_is_recognised_by_the_names_of_its_port(tmp_path: Path) -> None:
    model = make("efficientnet-lite", width_coefficient=1.0, hidden_dim=1280, hidden_act="relu6", image_size=224)
    names = {
        "embeddings.convolution": "_conv_stem",
        "embeddings.batchnorm": "_bn0",
        "encoder.top_conv": "_conv_head",
        "encoder.top_bn": "_bn1",
        "encoder.blocks": "_blocks",
        "expansion.expand_conv": "_expand_conv",
        "expansion.expand_bn": "_bn0",
        "depthwise_conv.depthwise_conv": "_depthwise_conv",
        "depthwise_conv.depthwise_norm": "_bn1",
        "projection.project_conv": "_project_conv",
        "projection.project_bn": "_bn2",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901
        tensors[name] = tensor
    torch.save(tensors | {"_fc.weight": torch.ones(3, 1280), "_fc.bias": torch.ones(3)}, tmp_path / "lite0.pth")
    found = load_image_backbone("lite0.pth", None, tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(pooled(found.model, pixels), pooled(model, pixels))
    assert found.preparation == LITE


def test_a_file_of_an_unknown_architecture_says_what_is_in_it(tmp_path: Path) -> None:
    torch.save({"blocks.0.weight": torch.ones(2, 3)}, tmp_path / "other.pth")
    error = refused(tmp_path, "other.pth")
    assert isinstance(error, ArtifactError)
    assert "blocks.0.weight [2, 3]" in error.found


def test_a_wide_resnet_is_named_as_one(tmp_path: Path) -> None:
    tensors = to_torchvision(make("resnet", layer_type="bottleneck", hidden_sizes=[8], depths=[1]))
    torch.save(tensors | {"layer1.0.conv2.weight": torch.ones(4, 4, 3, 3)}, tmp_path / "wide.pth")
    assert "it is a ResNeXt or wide ResNet" in refused(tmp_path, "wide.pth").found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensors: tensors.pop("layer1.0.bn1.weight"), "1 tensors are not in its weights"),
        (lambda tensors: tensors["bn1.weight"].fill_(float("nan")), "holds NaN or infinity"),
        (lambda tensors: tensors.update({"extra.weight": torch.ones(1)}), "extra.weight first"),
        (lambda tensors: tensors.update({"bn1.weight": torch.ones(7)}), "size mismatch"),
    ],
)
def test_a_resnet_file_that_is_not_sound_is_refused(change: Any, found: str, tmp_path: Path) -> None:
    tensors = to_torchvision(make("resnet"))
    change(tensors)
    torch.save(tensors, tmp_path / "resnet.pth")
    error = refused(tmp_path, "resnet.pth")
    assert isinstance(error, ArtifactError)
    assert found in error.found


class Opener:
    def __reduce__(self) -> Any:
        return (open, ("/dev/null",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_cut_off_or_would_run_code_are_refused(suffix: str, tmp_path: Path) -> None:
    save_tensors(to_torchvision(make("resnet")), tmp_path / f"cut{suffix}")
    content = (tmp_path / f"cut{suffix}").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 50):
        (tmp_path / f"cut{suffix}").write_bytes(content[:length])
        assert isinstance(refused(tmp_path, f"cut{suffix}"), ArtifactError)
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"conv1.weight": Opener()}))
    assert "never run" in refused(tmp_path, "code.pth").found


def test_a_hub_that_cannot_be_reached_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refused(tmp_path, "nobody/nothing")
    assert isinstance(error, MachineError)
    assert "it is no folder, and the hub gave" in error.found


def test_a_file_that_is_not_there_is_not_taken_for_a_hub_name(tmp_path: Path) -> None:
    assert refused(tmp_path, "data/vgg16.pth").found == "there is no such folder or file"


def test_a_text_network_is_refused(tmp_path: Path) -> None:
    make("bert").save_pretrained(tmp_path / "backbone")
    assert refused(tmp_path).found == "a bert reads input_ids, not images"


# As the hub has it of one that was trained on images of 288 pixels and not with ImageNet's mean and deviation.
OF_TIMM = {
    "architecture": "resnet18",
    "num_classes": 2,
    "num_features": 512,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 288, 288],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.5],
        "num_classes": 2,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    },
}
# Its labels, which transformers otherwise asks timm for; with them the config loads without it.
LABELLED = {**OF_TIMM, "label_names": ["cat", "dog"]}


def write_timm(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"conv1.weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("config", [OF_TIMM, LABELLED], ids=["its config", "its weights"])
def test_a_checkpoint_of_timm_names_the_package(tmp_path: Path, config: dict[str, Any]) -> None:
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    write_timm(tmp_path / "backbone", config)
    error = refused(tmp_path)
    assert isinstance(error, MachineError)
    assert error.found == "it is a checkpoint of timm, which is not installed"
    assert "pip install timm" in error.fix


def test_images_of_a_timm_network_are_prepared_as_its_config_says_without_timm(tmp_path: Path) -> None:
    folder = write_timm(tmp_path / "backbone", LABELLED)
    config = load_config(str(folder), None, "load it")
    assert trained_shape(config) == (3, 288, 288)
    assert read_preparation(str(folder), None, config, "load it") == {
        "image_size": 288,
        "resize": "crop",
        "crop_share": 288 / 303,  # timm rounds 288 / 0.95 down
        "resample": "bicubic",
        "rescale_factor": 1 / 255,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.5],
        "channels": "rgb",
    }


def test_a_preprocessor_config_counts_more_than_what_timm_says(tmp_path: Path) -> None:
    folder = write_timm(tmp_path / "backbone", LABELLED)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.1, 0.1]}))
    found = read_preparation(str(folder), None, load_config(str(folder), None, "load it"), "load it")
    assert (found["mean"], found["image_size"]) == ([0.1, 0.1, 0.1], 288)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {"image_size": 224, "resize": "crop", "crop_share": 0.875, "resample": "bicubic"}),
        ({"mean": None, "std": None}, {"mean": IMAGENET["mean"], "std": IMAGENET["std"]}),
        (
            {"crop_mode": "squash", "crop_pct": 1.0, "input_size": [3, 384, 384]},
            {"image_size": 384, "resize": "squash"},
        ),
        ({"crop_mode": "border"}, {"resize": "pad", "crop_share": 1.0}),
        ({"interpolation": "bilinear"}, {"resample": "bilinear"}),
    ],
)
def test_the_settings_of_timm_become_a_preparation(written: dict[str, Any], expected: dict[str, Any]) -> None:
    found = parse_timm(written)
    assert found.keys() == IMAGENET.keys()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"input_size": [3, 224, 160]}, "images of 224 × 160 are not square"),
        ({"input_size": [1, 28, 28]}, "1 channels, 3 means and 3 deviations"),
        ({"interpolation": "spline"}, "'spline'"),
        ({"crop_pct": "most"}, "its config.json says"),
    ],
)
def test_settings_of_timm_that_cannot_be_used_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = write_timm(tmp_path / "backbone", LABELLED | {"pretrained_cfg": settings})
    with pytest.raises(ArtifactError, match=said):
        read_preparation(str(folder), None, load_config(str(folder), None, "load it"), "load it")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {"resize": "squash"}),
        ({"size": 256, "crop_size": 224}, {"image_size": 224, "resize": "crop", "crop_share": 0.875}),
        ({"size": {"height": 96, "width": 96}, "resample": 3}, {"image_size": 96, "resample": "bicubic"}),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
            {"resize": "crop", "crop_share": 0.875},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            {"image_size": 384, "resize": "squash"},
        ),
        ({"do_normalize": False, "do_rescale": False}, {"mean": [0.0] * 3, "std": [1.0] * 3, "rescale_factor": 1.0}),
        (
            {"feature_extractor_type": "EfficientNetFeatureExtractor", "image_std": [0.5] * 3, "rescale_offset": True},
            {"std": [0.25] * 3, "mean": [1.485, 1.456, 1.406]},
        ),
        ({"do_flip_channel_order": True}, {"channels": "bgr"}),
    ],
)
def test_the_settings_of_an_image_processor_become_a_preparation(
    written: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = parse_preparation(written, IMAGENET)
    assert found.keys() == IMAGENET.keys()
    assert {name: found[name] for name in expected} == {
        name: pytest.approx(value) if isinstance(value, list) else value for name, value in expected.items()
    }


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    make("resnet").save_pretrained(tmp_path / "backbone")
    settings = {"size": {"height": 96, "width": 64}}
    (tmp_path / "backbone" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert "images of 96 × 64 are not square" in refused(tmp_path).found
