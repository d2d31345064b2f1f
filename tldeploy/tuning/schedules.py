"""Which parameters learn how fast, and from when: layer-wise learning rates, and gradual unfreezing.

Both walk the network's groups, from the input to the head: embeddings, layer 0 … n, head. The lower a layer, the more
general what it knows, and the less it should move. Source: Howard & Ruder, Universal Language Model Fine-tuning for
Text Classification (ULMFiT), ACL 2018.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tldeploy.errors import RecipeError

Group = tuple[str, Sequence[str]]


def rate_factors(groups: Sequence[Group], layer_decay: float, rates: Mapping[str, float]) -> dict[str, float]:
    """Each parameter's share of the learning rate, by the parameter's name.

    groups: (name, names of its parameters), from the input to the head. The last has the factor 1, each one below it
    `layer_decay` times that of the one above. rates: factors that stand instead, by a pattern (`layer.1?`, `*.bias`)
    over names of groups and of parameters; of several patterns that match, the last counts.
    """
    factors = {
        parameter: layer_decay ** (len(groups) - 1 - place)
        for place, (_, parameters) in enumerate(groups)
        for parameter in parameters
    }
    for pattern, factor in rates.items():
        matched = [
            parameter
            for group, parameters in groups
            for parameter in parameters
            if fnmatchcase(group, pattern) or fnmatchcase(parameter, pattern)
        ]
        if not matched:
            raise _matches_nothing(pattern, groups)
        factors.update(dict.fromkeys(matched, factor))
    return factors


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    factors: Mapping[str, float],
    learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: `params`, `lr`, `weight_decay`, one group for each pair of the two, fastest first.

    Biases and the scales of norms (every parameter with one axis) do not decay. Parameters that need no gradient, and
    those with the factor 0, are left out.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad and factors[name] > 0:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((learning_rate * factors[name], decay), []).append(parameter)
    return [
        {"params": found[rate, decay], "lr": rate, "weight_decay": decay} for rate, decay in sorted(found, reverse=True)
    ]


def unfreezing_plan(groups: Sequence[str], epochs: int, every: int = 1) -> list[list[str]]:
    """The groups that learn in each epoch, from the input to the head: the head first, one more below it each `every`.

    With fewer than `every` × (groups - 1) + 1 epochs the lowest never learn.
    """
    return [list(groups[max(0, len(groups) - 1 - epoch // every) :]) for epoch in range(epochs)]


def _matches_nothing(pattern: str, groups: Sequence[Group]) -> RecipeError:
    names = [name for name, _ in groups]
    parameters = [parameter for _, some in groups for parameter in some]
    close = difflib.get_close_matches(pattern, [*names, *parameters], n=1)
    known = ", ".join(names)
    nearest = f"; did you mean {close[0]}?" if close else ""
    fix = f"name one of the network's groups ({known}) or its parameters"
    return RecipeError("set learning rates", f"{pattern!r} matches no group and no parameter{nearest}", fix)
