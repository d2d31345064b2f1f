"""How exactly training computes: what the recipe asks for, and what this machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tldeploy.backbones.network import Network
from tldeploy.errors import MachineError, RecipeError
from tldeploy.recipe import Tune


def arguments(settings: Tune) -> dict[str, Any]:
    """What TrainingArguments calls it. Weights stay fp32; bf16 and fp16 are for what is computed from them.

    auto: bf16 where a GPU supports it, else fp32, on a GPU with TF32 where that is there. Raises MachineError.
    """
    cuda, asked = torch.cuda.is_available(), settings.precision
    bf16_gpu = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "fp16" and not cuda:
        found = "tune.precision is fp16, which needs a CUDA GPU, and there is none"
        raise MachineError("train in fp16", found, "set tune.precision to auto, or run it on a GPU")
    if asked == "bf16" and cuda and not bf16_gpu:
        found = f"tune.precision is bf16, which {torch.cuda.get_device_name()} does not have"
        raise MachineError("train in bf16", found, "set tune.precision to auto or fp16")
    bf16 = asked == "bf16" or (asked == "auto" and bf16_gpu)
    # Ampere, the first to know bf16, is the first to know TF32.
    return {"use_cpu": not cuda, "bf16": bf16, "fp16": asked == "fp16", "tf32": True if bf16_gpu and bf16 else None}


def name(found: dict[str, Any]) -> str:
    return "bf16" if found["bf16"] else "fp16" if found["fp16"] else "fp32"


@contextmanager
def checkpointed(network: Network, settings: Tune) -> Iterator[None]:
    """Inside the block activations are computed again in the backward pass instead of kept, if the recipe asks for it.

    Raises RecipeError for a backbone that cannot do it.
    """
    if not settings.gradient_checkpointing:
        yield
        return
    if not network.backbone.supports_gradient_checkpointing:
        found = f"tune.gradient_checkpointing is true, which {type(network.backbone).__name__} does not support"
        fix = "set it to false; a smaller tune.batch_size with tune.accumulation saves memory too"
        raise RecipeError("train with less memory", found, fix)
    network.backbone.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        network.backbone.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
