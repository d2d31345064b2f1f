"""Several processes that train one network: who they are, and how they wait for one another.

`torchrun` and `accelerate launch` start them and say so by environment variables. All of them run the same stage. The
first one (rank 0) writes, caches, measures and talks; the others train along, and find what it cached. So the recipe's
folder must be the same on every node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from tldeploy.tuning.device import device

# How long the others wait for work that the first one does alone, such as feature extraction.
PATIENCE = timedelta(hours=24)


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def together() -> Iterator[None]:
    """The process group that all in the block belong to; nothing to do where there is one process, or a group."""
    if world() == 1:
        yield
        return
    import torch
    import torch.distributed as group

    if group.is_initialized():
        yield
        return
    cuda = device().type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Gloo beside NCCL: what we send ourselves are numbers on the CPU.
    group.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        group.destroy_process_group()


@contextmanager
def first_then_others() -> Iterator[None]:
    """The first process runs the block alone; the others run it when it is through, and find what it left on disk."""
    if rank() > 0:
        meet()
    yield
    if rank() == 0:
        meet()


def meet() -> None:
    """Wait until all processes are here."""
    told([0.0])


def told(numbers: Sequence[float]) -> list[float]:
    """The first process's numbers, in every process."""
    if world() == 1:
        return list(numbers)
    import torch
    import torch.distributed as group

    sent = torch.tensor(numbers, dtype=torch.float64)
    group.broadcast(sent, src=0)
    received: list[float] = sent.tolist()
    return received
