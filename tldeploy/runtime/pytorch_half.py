"""The tuned network in sixteen bits: the backbone's weights are stored so, and products are computed so.

What goes into the backbone and what comes out of it, pooling, the head and the softmax are in fp32. That costs a few
casts a request, where autocast casts around every norm of every layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tldeploy.environment import has_bf16
from tldeploy.errors import MachineError
from tldeploy.runtime.pytorch import TorchRunner

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.tasks.classification import Classification


def narrow(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Let a backbone compute in `dtype` between fp32 inputs and outputs."""

    def cast(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(_as(dtype, value) for value in inputs), {name: _as(dtype, value) for name, value in named.items()}

    def widen(_: nn.Module, __: tuple[Any, ...], found: Any) -> Any:
        return type(found)(**{name: _as(torch.float32, value) for name, value in found.items()})

    backbone.to(dtype)
    backbone.register_forward_pre_hook(cast, with_kwargs=True)
    backbone.register_forward_hook(widen)


def _as(dtype: torch.dtype, value: Any) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class TorchBf16Runner(TorchRunner):
    """Eager. A CPU or a GPU without instructions for bfloat16 computes in fp32 and rounds: slower, and it says so."""

    name = "torch bf16"

    def __init__(self, tuned: Path, task: Classification, device: Device = "cpu") -> None:
        super().__init__(tuned, task, device)
        narrow(self._network.backbone, torch.bfloat16)
        has_it = has_bf16() if self._on == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)
        self.provider = self._computing("bf16" if has_it else "bf16 emulated")


class TorchFp16Runner(TorchRunner):
    """Eager, on a GPU: hardly any CPU has instructions for fp16. Raises MachineError there."""

    name = "torch fp16"

    def __init__(self, tuned: Path, task: Classification, device: Device = "cuda") -> None:
        if device == "cpu":
            fix = "leave torch-fp16 out of bench.engines, or set bench.device: cuda"
            raise MachineError("run torch fp16 on the CPU", "hardly any CPU has instructions for it", fix)
        super().__init__(tuned, task, device)
        narrow(self._network.backbone, torch.float16)
        self.provider = self._computing("fp16")
