"""The tuned network compiled for this CPU or GPU by torch.compile: inductor writes the kernels.

For a CPU it writes C++, and computes in fp32. For a GPU it writes Triton's language, and computes in fp16, which is how
a GPU is served by PyTorch. A compiler has to be there for both: what launches a kernel is written in C.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tldeploy.devices import lacking_compiler
from tldeploy.errors import MachineError
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.runtime.pytorch_half import narrow

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.tasks.classification import Classification

SEVERAL = 3


class TorchCompileRunner(TorchRunner):
    """With open dims. Opening compiles twice: one row is another program than several, whatever their number.

    Nothing that another process has compiled is used: opening takes what it takes on a machine that is new to it.
    Raises MachineError when it cannot be compiled here.
    """

    name = "torch compile"

    def __init__(self, tuned: Path, task: Classification, device: Device = "cpu") -> None:
        super().__init__(tuned, task, device)
        asked, otherwise = "compile the network with torch.compile", "leave torch-compile out of bench.engines"
        if lack := lacking_compiler(device):
            raise MachineError(asked, lack.found, f"{lack.fix}, or {otherwise}")
        precision = "fp32"
        if self._on == "cuda":
            precision, self.name = "fp16", "torch compile fp16"
            narrow(self._network.backbone, torch.float16)
        self.provider = self._computing(f"{precision}, inductor")
        self._compiled = torch.compile(self._network.probabilities, dynamic=True)
        one = {name: values[:1] for name, values in task.sample().items()}
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
        try:
            self.run(one)
            self.run({name: np.repeat(values, SEVERAL, axis=0) for name, values in one.items()})
        except Exception as error:  # dynamo's, inductor's and those of the compiler share no base class
            found = " ".join(str(error).split())[:300]
            raise MachineError(asked, found, otherwise) from error

    def probabilities(self, inputs: dict[str, Tensor]) -> Tensor:
        probabilities: Tensor = self._compiled(**inputs)
        return probabilities
