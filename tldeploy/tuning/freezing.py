"""Which weights learn, how fast, and from which epoch on; what is frozen comes out as it went in, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tldeploy.backbones.layers import layer_map
from tldeploy.backbones.network import Network
from tldeploy.errors import RecipeError
from tldeploy.recipe import Tune
from tldeploy.tuning.schedules import Group, parameter_groups, rate_factors, unfreezing_plan

PREFIX = "backbone."


@dataclass(frozen=True)
class Learners:
    """What `settings` let learn of one network, whose other parameters need no gradient meanwhile.

    factors: share of the learning rate, by the parameter's name in the network. plan: for each epoch the parameters
    that wait for their turn, by gradual unfreezing. batch_norms: those that keep their running statistics.
    """

    network: Network
    factors: dict[str, float]
    plan: list[set[str]]
    batch_norms: list[_BatchNorm]

    @property
    def names(self) -> list[str]:
        """The parameters that learn at some time."""
        return [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]

    def optimizer(self, settings: Tune) -> torch.optim.AdamW:
        groups: list[dict[str, Any]] = parameter_groups(
            self.network.named_parameters(), self.factors, settings.learning_rate, settings.weight_decay
        )
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def drop_gradients(self, epoch: int) -> None:
        """Forget the gradients of parameters whose turn has not come: AdamW leaves a weight without one untouched."""
        if not self.plan or not (waiting := self.plan[min(epoch, len(self.plan) - 1)]):
            return
        for name, parameter in self.network.named_parameters():
            if name in waiting:
                parameter.grad = None

    def hold_batch_norm(self) -> None:
        """Let batch norms use what they know, in a network that is in training mode."""
        for layer in self.batch_norms:
            layer.eval()

    def counts(self) -> dict[str, int]:
        parameters = list(self.network.parameters())
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return {"parameters": sum(parameter.numel() for parameter in parameters), "trained_parameters": trained}


@contextmanager
def learners(network: Network, settings: Tune) -> Iterator[Learners]:
    """Freeze what does not learn, and thaw it at the end of the block.

    What needed no gradient before stays frozen. Raises RecipeError for a pattern that matches nothing, and when nothing
    is left to learn.
    """
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    parameters = dict(network.named_parameters())
    try:
        groups = _groups(network, settings)
        shares = rate_factors(groups, settings.layer_decay, settings.rates)
        factors = {_in_network(name, parameters): share for name, share in shares.items()}
        frozen = {name for name, factor in factors.items() if factor == 0}
        if settings.freeze:
            known = layer_map(network.backbone)
            frozen |= {PREFIX + name for pattern in settings.freeze for name in known.matching(pattern)}
        for name in frozen:
            parameters[name].requires_grad_(False)
        if any(before.values()) and not any(parameter.requires_grad for parameter in parameters.values()):
            found = "tune.freeze and tune.rates leave nothing, not even the head, to learn"
            raise RecipeError("train the network", found, "let the head learn: take `*` or `head: 0` out of tune.rates")
        held = settings.batch_norm == "frozen"
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if held else []
        yield Learners(network, factors, _waiting(groups, settings), norms)
    finally:
        for name, needed in before.items():
            parameters[name].requires_grad_(needed)


def _groups(network: Network, settings: Tune) -> list[Group]:
    """The layer map's groups, with the backbone's own names, and the head; one group where all layers are alike."""
    names = [name for name, _ in network.named_parameters()]
    backbone = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    groups: list[Group] = [("backbone", backbone)]
    if settings.layer_decay < 1 or settings.rates or settings.gradual_unfreezing:
        groups = [(group.name, group.parameters) for group in layer_map(network.backbone).groups]
    return [*groups, ("head", [name for name in names if not name.startswith(PREFIX)])]


def _in_network(name: str, parameters: Mapping[str, nn.Parameter]) -> str:
    return PREFIX + name if PREFIX + name in parameters else name


def _waiting(groups: Sequence[Group], settings: Tune) -> list[set[str]]:
    if settings.gradual_unfreezing is None:
        return []
    plan = unfreezing_plan([name for name, _ in groups], settings.epochs, settings.gradual_unfreezing)
    return [{PREFIX + name for group, names in groups[:-1] if group not in learn for name in names} for learn in plan]
