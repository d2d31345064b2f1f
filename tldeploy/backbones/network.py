"""The network that is tuned, exported and served: a pretrained backbone, pooling, and one linear head.

On disk: `backbone/` as transformers writes it (AutoModel.from_pretrained reads it), `head.safetensors` with `weight`
[classes, features] and `bias` [classes], and `network.json` with the rest. So other tools can read all of it.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tldeploy.backbones import quiet_transformers
from tldeploy.backbones.checkpoints import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "cls"]
BACKBONE, HEAD, SETTINGS = "backbone", "head.safetensors", "network.json"


class Network(nn.Module, ABC):
    """A task's inputs to logits, float32 [batch, classes].

    temperature: what logits are divided by before the softmax, so that probabilities say how often they are right.
    """

    kind: ClassVar[str]

    def __init__(self, backbone: PreTrainedModel, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        self.temperature = 1.0

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the constructor needs besides the backbone and the head, as JSON."""

    @abstractmethod
    def features(self, **inputs: Tensor) -> Tensor:
        """The backbone's vector of each row, float32 [batch, features]."""

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(**inputs)))
        return logits

    def probabilities(self, **inputs: Tensor) -> Tensor:
        """What is served, float32 [batch, classes]."""
        return torch.softmax(self(**inputs) / self.temperature, dim=-1)

    def fresh_copy(self, seed: int) -> Network:
        """The same pretrained backbone under a new random head; the seed fixes the head."""
        twin = copy.deepcopy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            twin.head.reset_parameters()
        return twin

    def save(self, folder: Path) -> None:
        quiet_transformers()
        self.backbone.save_pretrained(folder / BACKBONE)
        save_file({"weight": self.head.weight.detach(), "bias": self.head.bias.detach()}, folder / HEAD)
        settings = {"kind": self.kind, "temperature": self.temperature, **self.settings}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class TextNetwork(Network):
    """input_ids and attention_mask, int64 [batch, sequence] each."""

    kind = "text"

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling, classes: int, dropout: float = 0.0) -> None:
        super().__init__(backbone, int(backbone.config.hidden_size), classes, dropout)
        self.pooling: Pooling = pooling

    @property
    def settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling}

    def features(self, **inputs: Tensor) -> Tensor:
        hidden: Tensor = self.backbone(**inputs).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


class ImageNetwork(Network):
    """pixels, uint8 [batch, height, width, 3], RGB: bringing them to what the backbone knows is part of the network.

    normalisation: mean and std of each channel, `rescale_factor` from 0 … 255, and `channels` in the backbone's order.
    """

    kind = "image"

    def __init__(
        self, backbone: PreTrainedModel, normalisation: Mapping[str, Any], classes: int, dropout: float = 0.0
    ) -> None:
        from tldeploy.backbones.images import feature_size

        super().__init__(backbone, feature_size(backbone), classes, dropout)
        self.normalisation = dict(normalisation)
        mean, std = (torch.tensor(self.normalisation[name], dtype=torch.float32) for name in ("mean", "std"))
        if self.normalisation["channels"] == "bgr":
            mean, std = mean.flip(0), std.flip(0)
        # Of red, green and blue: what a pixel is multiplied by, and what is added.
        self.register_buffer("scale", float(self.normalisation["rescale_factor"]) / std, persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)

    @property
    def settings(self) -> dict[str, Any]:
        return {"normalisation": self.normalisation}

    def features(self, **inputs: Tensor) -> Tensor:
        from tldeploy.backbones.images import pooled

        vectors: Tensor = pooled(self.backbone, self.normalised(inputs["pixels"]))
        return vectors

    def normalised(self, pixels: Tensor) -> Tensor:
        """float32 [batch, 3, height, width], as the backbone was trained with.

        Computed on whole lines of pixels: a CPU is slow at an innermost axis of three.
        """
        _, height, width, _ = pixels.shape
        scale, offset = (self.get_buffer(name).repeat(width) for name in ("scale", "offset"))
        lines = pixels.flatten(2).to(torch.float32) * scale + offset
        planes = lines.reshape(-1, height, width, 3).permute(0, 3, 1, 2)
        return planes.flip(1) if self.normalisation["channels"] == "bgr" else planes


def load_network(folder: Path) -> Network:
    """Read what `Network.save` wrote, in evaluation mode. Raises ArtifactError like `load_weights`."""
    head = load_file(folder / HEAD)
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    backbone = load_weights(str(folder / BACKBONE), None, f"load the network in {folder}")
    classes = len(head["bias"])
    network: Network
    if settings["kind"] == ImageNetwork.kind:
        network = ImageNetwork(backbone, settings["normalisation"], classes)
    else:
        network = TextNetwork(backbone, settings["pooling"], classes)
    network.head.load_state_dict(head)
    network.temperature = float(settings["temperature"])
    return network.eval()
