"""The network that is tuned, exported and served: a pretrained encoder, pooling, and one linear head.

On disk: `backbone/` as transformers writes it (AutoModel.from_pretrained reads it), `head.safetensors` with `weight`
[classes, features] and `bias` [classes], and `network.json` with the pooling. So other tools can read all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tldeploy.backbones import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "cls"]
BACKBONE, HEAD, SETTINGS = "backbone", "head.safetensors", "network.json"


class TextNetwork(nn.Module):
    """input_ids and attention_mask, int64 [batch, sequence], to logits, float32 [batch, classes]."""

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(int(backbone.config.hidden_size), classes)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The pooled vector of each text, float32 [batch, features]."""
        hidden: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(input_ids, attention_mask)))
        return logits

    def save(self, folder: Path) -> None:
        quiet_transformers()
        self.backbone.save_pretrained(folder / BACKBONE)
        save_file({"weight": self.head.weight.detach(), "bias": self.head.bias.detach()}, folder / HEAD)
        (folder / SETTINGS).write_text(json.dumps({"pooling": self.pooling}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TextNetwork:
        """Read what `save` wrote, in evaluation mode."""
        from transformers import AutoModel

        quiet_transformers()
        head = load_file(folder / HEAD)
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        backbone = AutoModel.from_pretrained(folder / BACKBONE, use_safetensors=True, dtype=torch.float32)
        network = cls(backbone, settings["pooling"], classes=len(head["bias"]))
        network.head.load_state_dict(head)
        return network.eval()
