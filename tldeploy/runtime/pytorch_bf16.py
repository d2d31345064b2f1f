"""The tuned network in bfloat16: the backbone's weights are stored so, products are computed so, the softmax is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tldeploy.environment import has_bf16
from tldeploy.runtime.pytorch import TorchRunner

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification


class TorchBf16Runner(TorchRunner):
    """Eager. A CPU without instructions for bfloat16 computes in fp32 and rounds: slower, and the provider says so."""

    name = "torch bf16"

    def __init__(self, tuned: Path, task: Classification) -> None:
        super().__init__(tuned, task)
        self._network.backbone.bfloat16()
        self.provider = "PyTorch CPU, bf16" if has_bf16() else "PyTorch CPU, bf16 emulated"

    def probabilities(self, inputs: dict[str, Tensor]) -> Tensor:
        # Pixels come to the backbone in fp32, and the head is in it.
        with torch.autocast("cpu", torch.bfloat16):
            logits = self._network(**inputs)
        return torch.softmax(logits.float() / self._network.temperature, dim=-1)
