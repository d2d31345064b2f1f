"""How training computes: what the recipe asks for, and what this machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tldeploy.backbones.network import Network
from tldeploy.devices import lacking_compiler
from tldeploy.errors import MachineError, RecipeError
from tldeploy.recipe import Tune
from tldeploy.tuning.device import device


def arguments(settings: Tune) -> dict[str, Any]:
    """What TrainingArguments calls it. Weights stay fp32; bf16, fp16 and tf32 are for what is computed from them.

    auto: bf16 where a GPU supports it, and what is left of fp32 in TF32; else fp32. Raises MachineError.
    """
    cuda, asked = device().type == "cuda", settings.precision
    # Ampere, the first to know bf16, is the first to know TF32.
    ampere = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked in {"fp16", "tf32"} and not cuda:
        found = f"tune.precision is {asked}, which needs a CUDA GPU, and it is the CPU that trains"
        raise MachineError(f"train in {asked}", found, "set tune.precision to auto, or run it on a GPU")
    if asked in {"bf16", "tf32"} and cuda and not ampere:
        found = f"tune.precision is {asked}, which {torch.cuda.get_device_name()} does not have"
        raise MachineError(f"train in {asked}", found, "set tune.precision to auto or fp16")
    bf16 = asked == "bf16" or (asked == "auto" and ampere)
    tf32 = ampere and (bf16 or asked == "tf32")
    return {"use_cpu": not cuda, "bf16": bf16, "fp16": asked == "fp16", "tf32": tf32}


def name(found: dict[str, Any]) -> str:
    return next((kind for kind in ("bf16", "fp16", "tf32") if found[kind]), "fp32")


@contextmanager
def products(how: dict[str, Any]) -> Iterator[None]:
    """Inside the block products of fp32 numbers are in TF32 or in fp32, as `how` says; afterwards as before.

    Said by PyTorch's older settings: its compiler reads these, and they raise where TF32 is only on by the newer one
    (https://github.com/pytorch/pytorch/issues/196728). TrainingArguments says the same by that, once in a process.
    """
    before = torch.backends.fp32_precision  # type: ignore[attr-defined]
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if how["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = how["tf32"]
    try:
        yield
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision(matrices)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.fp32_precision = before  # type: ignore[attr-defined]


@contextmanager
def compiled(settings: Tune) -> Iterator[None]:
    """Inside the block the network may be compiled by torch.compile, if the recipe asks for it.

    Raises MachineError where that is not possible here.
    """
    if not settings.compile:
        yield
        return
    asked = "compile the network with torch.compile"
    if lack := lacking_compiler("cpu" if device().type == "cpu" else "cuda"):
        raise MachineError(asked, f"tune.compile is true, and {lack.found}", f"{lack.fix}, or set it to false")
    try:
        yield
    except Exception as error:  # dynamo's and inductor's share no base class
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        found = " ".join(str(error).split())[:300]
        raise MachineError(asked, found, "set tune.compile to false") from error
    finally:
        torch.compiler.reset()


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
