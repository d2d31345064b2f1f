"""The tuned network itself, in eager PyTorch: what every other engine is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tldeploy.backbones.network import BACKBONE, HEAD, SETTINGS, load_network
from tldeploy.environment import usable_cores
from tldeploy.runtime.local import Local

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification


class TorchRunner(Local):
    """A tuned artifact, fp32 on the CPU, on all usable cores."""

    name = "torch eager"
    provider = "PyTorch CPU, fp32"

    def __init__(self, tuned: Path, task: Classification) -> None:
        torch.set_num_threads(usable_cores())
        self._network = load_network(tuned)
        super().__init__(task, [tuned / HEAD, tuned / SETTINGS, *(tuned / BACKBONE).iterdir()])

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values) for name, values in tensors.items()}
            return np.asarray(self.probabilities(inputs).numpy(), dtype=np.float32)

    def probabilities(self, inputs: dict[str, Tensor]) -> Tensor:
        """float32 [rows, classes]."""
        return self._network.probabilities(**inputs)

    def close(self) -> None:
        del self._network
