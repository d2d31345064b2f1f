"""Pretrained image backbones: any that transformers' AutoModel loads, our own, and single files of tensors.

1. `load_image_backbone` loads one, with what is known of how its images were prepared.
2. `check_size` refuses a size of images that the network cannot read.
3. `pooled` gives one feature vector an image, whatever the architecture; `feature_size` says how long it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tldeploy.backbones.checkpoints import find_source, load_config, load_weights
from tldeploy.backbones.preparation import IMAGENET, LITE, read_preparation, trained_shape
from tldeploy.backbones.state_dicts import load_state_dict
from tldeploy.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ImageBackbone:
    """A loaded network, and how its images are prepared (see preparation.py)."""

    model: PreTrainedModel
    preparation: dict[str, Any]


def load_image_backbone(source: str, revision: str | None, recipe_folder: Path) -> ImageBackbone:
    """Load an image network in fp32 on the CPU, in evaluation mode.

    source: a folder, a .safetensors, .pth or .pt file (both relative to recipe_folder), or a hub id.
    Raises MachineError when the hub cannot be reached or timm is missing, ArtifactError for weights that are corrupt,
    incomplete, not finite, of an unknown architecture, or of a network that reads no images.
    """
    asked = f"load the backbone {source}"
    place = find_source(source, recipe_folder)
    if Path(place).is_file():
        model = load_state_dict(Path(place), asked)
        known = LITE if model.config.model_type == "efficientnet-lite" else IMAGENET
        return ImageBackbone(model, dict(known))
    load_config(place, revision, asked)
    model = load_weights(place, revision, asked)
    if model.main_input_name != "pixel_values":
        found = f"a {model.config.model_type} reads {model.main_input_name}, not images"
        raise ArtifactError(asked, found, "use an image network, or a text task")
    return ImageBackbone(model, read_preparation(place, revision, model.config, asked))


def pooled(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """One vector an image, [batch, features], from [batch, channels, height, width].

    The network's own pooled output if it has one (load_weights takes away a pooler that was not in the checkpoint);
    else the mean over space of a feature map; else the class token, or the mean of all tokens where there is none.
    """
    output = model(pixel_values=pixel_values)
    hidden: Tensor = output.last_hidden_state
    # EfficientNet's pooler is a mean over a window far larger than any image, which ONNX has no sound form for.
    has_plain_mean = isinstance(getattr(model, "pooler", None), nn.AvgPool2d | nn.AdaptiveAvgPool2d)
    if (vector := getattr(output, "pooler_output", None)) is not None and not has_plain_mean:
        return vector.flatten(1)  # type: ignore[no-any-return]
    if hidden.ndim == 4:
        return hidden.mean(dim=(2, 3))
    if any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters()):
        return hidden[:, 0]
    return hidden.mean(dim=1)


def feature_size(model: PreTrainedModel) -> int:
    """The length of the vectors that `pooled` gives; seen by running the network once, on shapes alone."""
    return int(_on_shapes(model, *trained_shape(model.config)).shape[1])


def check_size(model: PreTrainedModel, image_size: int, asked: str) -> None:
    """Raises RecipeError when the network cannot read RGB images of image_size × image_size."""
    try:
        _on_shapes(model, 3, image_size, image_size)
    except Exception as error:  # every architecture refuses in its own way
        said = " ".join(str(error).split())[:200]
        found = f"a {model.config.model_type} cannot read colour images of {image_size} × {image_size} pixels ({said})"
        raise RecipeError(asked, found, "leave backbone.image_size out, or set it to what the network reads") from error


def _on_shapes(model: PreTrainedModel, channels: int, height: int, width: int) -> Tensor:
    """What `pooled` gives of one image, on the meta device: a shape without values."""
    was_training = model.training
    try:
        model.eval()  # type: ignore[no-untyped-call]
        shadow = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        pixels = torch.empty(1, channels, height, width, device="meta")
        with torch.no_grad():
            vector: Tensor = torch.func.functional_call(_Pooled(model), _below(shadow), (pixels,))
    finally:
        model.train(was_training)
    return vector


class _Pooled(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pooled(self.model, pixel_values)


def _below(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in tensors.items()}
