"""Where networks are trained and run while tuning: on what was asked for, or on a GPU where PyTorch has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tldeploy.artifacts import Choice
from tldeploy.errors import MachineError
from tldeploy.recipe.tuning import TrainedOn

if TYPE_CHECKING:
    import torch

_asked: ContextVar[TrainedOn] = ContextVar("tune.device", default="auto")


@contextmanager
def computing(asked: TrainedOn) -> Iterator[None]:
    """Inside the block `device` is what was asked for; without one, it is as with auto."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


def device() -> torch.device:
    """Raises MachineError for a GPU that was asked for and that PyTorch does not find."""
    import torch

    asked, there = _asked.get(), torch.cuda.is_available()
    if asked == "cuda" and not there:
        found = f"PyTorch {torch.__version__} finds no GPU"
        raise MachineError("train on cuda", found, "see `tldeploy doctor`; on the CPU it is `--device cpu`")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def chosen() -> Choice:
    """Where this was, for the manifest: "cpu", or the GPU's name."""
    import torch

    place, asked = device(), _asked.get()
    name = "cpu" if place.type == "cpu" else torch.cuda.get_device_name(place)
    why = "has a GPU" if place.type == "cuda" else "finds no GPU"
    return Choice(about="device", value=name, reason=f"PyTorch {why}" if asked == "auto" else "asked for")
