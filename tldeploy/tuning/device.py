"""Where networks are trained and run while tuning: on what was asked for, or on a GPU where PyTorch has one.

And what is said where the memory there is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tldeploy.artifacts import Choice
from tldeploy.errors import MachineError, TldeployError
from tldeploy.recipe.tuning import TrainedOn

if TYPE_CHECKING:
    import torch

# What PyTorch says of full memory where it has no error of its own for it: of the host's, and of CUDA's libraries.
FULL = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
SENTENCES = 3  # what was asked for and how much there is; behind them are counts of PyTorch's own
LESS = "lower tune.batch_size and raise tune.accumulation, or set tune.gradient_checkpointing"

_asked: ContextVar[TrainedOn] = ContextVar("tune.device", default="auto")


@contextmanager
def computing(asked: TrainedOn) -> Iterator[None]:
    """Inside the block `device` is what was asked for; without one, it is as with auto.

    Raises MachineError for memory that is full in it.
    """
    before = _asked.set(asked)
    try:
        with memory_errors():
            yield
    finally:
        _asked.reset(before)


@contextmanager
def memory_errors(kind: type[TldeployError] = MachineError) -> Iterator[None]:
    """Turn memory that is full, a GPU's or the host's, into an error of ours that says how to need less of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        import torch

        said = str(error).strip().partition("\n")[0] or "there is no memory left"
        is_full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in said for words in FULL)
        if not is_full:
            raise
        found = ". ".join(said.split(". ")[:SENTENCES])
        others = "; `nvidia-smi` shows what else holds the GPU's memory" if device().type == "cuda" else ""
        raise kind(f"train on {device().type}", found, f"{LESS}{others}") from error


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
