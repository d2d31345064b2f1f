"""Averaged weights, which often generalise better than the last ones.

ema: an exponential moving average over steps (Polyak & Juditsky, 1992). Its decay starts low, as TensorFlow's does, so
that the average is not held back by the weights it began with. swa: the mean over the epochs of the second half
(Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

EMA_DECAY = 0.999
Weights = dict[str, Tensor]


class Average:
    """The average so far of a network's learning parameters; none before its first update.

    count: how many updates it holds. weights: by the parameter's name, float32.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], kind: Literal["ema", "swa"]) -> None:
        self._network, self._names, self.kind = network, set(names), kind
        self.count = 0
        self.weights: Weights = {}

    @torch.no_grad()
    def after_step(self) -> None:
        if self.kind == "ema":
            self.count += 1
            self._move(1 - min(EMA_DECAY, (1 + self.count) / (10 + self.count)))

    @torch.no_grad()
    def after_epoch(self, epoch: int, epochs: int) -> None:
        """epoch: counted from 1."""
        if self.kind == "swa" and 2 * epoch > epochs:
            self.count += 1
            self._move(1 / self.count)

    def _move(self, share: float) -> None:
        """Go this share of the way to the weights as they are now."""
        for name, parameter in self._network.named_parameters():
            if name in self._names:
                if name in self.weights:
                    self.weights[name].lerp_(parameter.detach().float(), share)
                else:
                    self.weights[name] = parameter.detach().float().clone()


@torch.no_grad()
def put(network: nn.Module, weights: Weights) -> None:
    """Copy weights into the parameters and buffers of these names."""
    places = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, weight in weights.items():
        places[name].copy_(weight)


@contextmanager
def swapped(network: nn.Module, weights: Weights) -> Iterator[None]:
    """The network with these weights, inside the block only."""
    own = {name: parameter.detach().clone() for name, parameter in network.named_parameters() if name in weights}
    put(network, weights)
    try:
        yield
    finally:
        put(network, own)
