"""Quantization-aware training: the network learns under the rounding that int8 will do to it.

1. In training mode each linear layer and convolution rounds its weights, to int8 around zero with a scale for each
   output channel, and what it reads, to uint8 over the range of the batch.
2. Rounding has no gradient of use: gradients pass it as if it were not there (the straight-through estimator).
3. Out of training mode nothing is rounded. What comes out is the ordinary network, whose ordinary graph the quantizers
   of the export stage can round with less harm.

Sources: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
CVPR 2018, arXiv 1712.05877, section 3; in all steps of fine-tuning, as Zafrir et al., Q8BERT, 2019, arXiv 1910.06188.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tldeploy.recipe import Tune

# 7 bits, what CPUs without VNNI are given: who bears them bears 8 bits, and who learnt under 8 bits may not bear 7.
LARGEST_WEIGHT = 64
LARGEST_ACTIVATION = 255
SMALLEST_SCALE = 1e-12


@contextmanager
def rounding(network: nn.Module, settings: Tune) -> Iterator[None]:
    """Inside the block the network in training mode computes from rounded numbers, if the recipe asks for it."""
    handles: list[Any] = []
    if settings.quantization_aware:
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                layer = _Rounded(module)
                handles += [
                    module.register_forward_pre_hook(layer.before),
                    module.register_forward_hook(layer.after, always_call=True),
                ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Rounded:
    """A layer that sees rounded weights while it runs; whatever else reads its weights sees them as they are."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self._layer = layer
        self._own: Tensor | None = None

    def before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self._layer.training:
            return None
        self._own = self._layer.weight
        self._layer._parameters["weight"] = rounded_weights(self._layer.weight)  # type: ignore[assignment]
        return rounded_activations(inputs[0]), *inputs[1:]

    def after(self, *_: Any) -> None:
        if self._own is not None:
            self._layer._parameters["weight"] = self._own  # type: ignore[assignment]
            self._own = None


def rounded_weights(weights: Tensor) -> Tensor:
    """[outputs, …] to the nearest of 129 steps around zero, for each output."""
    largest = weights.detach().float().flatten(1).abs().amax(dim=1)
    scales = (largest / LARGEST_WEIGHT).clamp(min=SMALLEST_SCALE)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    found = torch.fake_quantize_per_channel_affine(weights.float(), scales, zeros, 0, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return found.to(weights.dtype)


def rounded_activations(values: Tensor) -> Tensor:
    """Of any shape, to the nearest of 256 steps from the smallest to the largest; zero is one of them."""
    low, high = torch.aminmax(values.detach().float())
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / LARGEST_ACTIVATION).clamp(min=SMALLEST_SCALE)
    zero = (-low / scale).round().to(torch.int32)
    found = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, LARGEST_ACTIVATION)
    return found.to(values.dtype)
