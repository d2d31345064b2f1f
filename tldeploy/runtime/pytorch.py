"""The tuned network itself, in eager PyTorch: what every other engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tldeploy.backbones.network import load_network
from tldeploy.environment import usable_cores

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification, Row


class TorchRunner:
    """A Runner over a tuned artifact, fp32 on the CPU, on all usable cores."""

    name = "torch eager"
    provider = "PyTorch CPU, fp32"

    def __init__(self, tuned: Path, task: Classification) -> None:
        torch.set_num_threads(usable_cores())
        self._network = load_network(tuned)
        self._task = task

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return self.run(self._task.encode(rows))

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The network alone: encoded rows in, float32 [rows, classes] out."""
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values) for name, values in tensors.items()}
            return np.asarray(self._network.probabilities(**inputs).numpy(), dtype=np.float32)

    def close(self) -> None:
        del self._network
