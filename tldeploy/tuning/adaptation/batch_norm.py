"""Adaptive batch normalisation: what batch norm keeps of the data is taken from the target domain; nothing is trained.

Source: Li et al., Revisiting Batch Normalization For Practical Domain Adaptation, 2016 (AdaBN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tldeploy.errors import DataError, IncapableError

Batch = dict[str, Tensor]


def adapt_batch_norm(model: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], object]) -> int:
    """Replace the running mean and variance of every batch norm by those of the batches; how many layers were adapted.

    forward: runs the model on one batch; what it returns is not used. batches: of one size and in random order, for
    every batch counts the same (a running mean over batches, of their means and of their unbiased variances).
    Weights, dropout, momentum and every module's training flag stay as they were, and so do the statistics if it fails.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        found = "adabn needs a network with batch norm, and this one keeps no statistics of batches"
        raise IncapableError("adapt batch norm", found, "take another adaptation, such as coral or mmd")
    training = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    kept = [{name: value.clone() for name, value in layer.named_buffers(recurse=False)} for layer in layers]
    try:
        _collect(model, layers, batches, forward)
    except BaseException:
        for layer, buffers in zip(layers, kept, strict=True):
            layer.load_state_dict(buffers, strict=False)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, flag in training.items():
            module.training = flag
    return len(layers)


def _collect(
    model: nn.Module, layers: list[_BatchNorm], batches: Iterable[Batch], forward: Callable[[Batch], object]
) -> None:
    model.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # every batch counts the same, instead of the last ones most
    seen = 0
    with torch.no_grad():
        for batch in batches:
            forward(batch)
            seen += 1
    if seen == 0:
        raise DataError("adapt batch norm", "there are no target rows", "give the target domain some rows")
