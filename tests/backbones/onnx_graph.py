"""A backbone to an ONNX graph with a batch of any size, as the export stage makes one."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


class _Called(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.call(pixel_values)


def export(call: Callable[[Tensor], Tensor], model: nn.Module, size: int, path: Path) -> Path:
    """Write what `call` does with `model`: `pixel_values` [batch, 3, size, size] in, one tensor out."""
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Called(call, model).eval(),
            (torch.zeros(3, 3, size, size),),
            input_names=["pixel_values"],
            dynamic_shapes={"pixel_values": batch},
            dynamo=True,
            opset_version=20,
            external_data=False,
            verbose=False,
        )
    program.save(path)
    return path
