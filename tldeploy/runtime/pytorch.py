"""The tuned network itself, in eager PyTorch: what every other engine is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tldeploy.backbones.network import BACKBONE, HEAD, SETTINGS, load_network
from tldeploy.devices import require
from tldeploy.environment import usable_cores
from tldeploy.runtime.local import Local

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.tasks.classification import Classification


class TorchRunner(Local):
    """A tuned artifact in fp32: on all usable cores, or on a GPU, to which rows are copied, and from which answers are.

    fp32 is fp32 there: PyTorch would compute convolutions in TF32. TensorRT is not PyTorch's: with it as the device,
    PyTorch computes by CUDA, on the same GPU. Raises MachineError where there is none.
    """

    name = "torch eager"

    def __init__(self, tuned: Path, task: Classification, device: Device = "cpu") -> None:
        self._on = "cpu" if device == "cpu" else "cuda"
        if self._on == "cuda":
            require("cuda", f"run {self.name}", ["torch"])
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(usable_cores())
        self._network = load_network(tuned).to(self._on)
        self.provider = self._computing("fp32")
        super().__init__(task, [tuned / HEAD, tuned / SETTINGS, *(tuned / BACKBONE).iterdir()])

    def _computing(self, how: str) -> str:
        return f"PyTorch CPU, {how}" if self._on == "cpu" else f"PyTorch CUDA, {torch.cuda.get_device_name()}, {how}"

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values).to(self._on) for name, values in tensors.items()}
            return np.asarray(self.probabilities(inputs).cpu().numpy(), dtype=np.float32)

    def probabilities(self, inputs: dict[str, Tensor]) -> Tensor:
        """float32 [rows, classes]."""
        return self._network.probabilities(**inputs)

    def close(self) -> None:
        del self._network
