from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from tldeploy.errors import RecipeError
from tldeploy.tuning.schedules import parameter_groups, rate_factors, unfreezing_plan

GROUPS = [
    ("embeddings", ["embeddings.weight"]),
    ("layer.0", ["layer.0.dense.weight", "layer.0.dense.bias", "layer.0.norm.weight"]),
    ("layer.1", ["layer.1.dense.weight", "layer.1.dense.bias", "layer.1.norm.weight"]),
    ("head", ["head.weight", "head.bias"]),
]
NAMES = [name for _, names in GROUPS for name in names]


def parameters() -> list[tuple[str, nn.Parameter]]:
    return [
        (name, nn.Parameter(torch.ones(2) if "norm" in name or name.endswith("bias") else torch.ones(2, 2)))
        for name in NAMES
    ]


def test_each_group_learns_slower_than_the_one_above_by_the_decay() -> None:
    factors = rate_factors(GROUPS, 0.5, {})
    assert list(factors) == NAMES
    assert [factors[names[0]] for _, names in GROUPS] == [0.125, 0.25, 0.5, 1.0]
    assert all(len({factors[name] for name in names}) == 1 for _, names in GROUPS)


def test_without_decay_all_learn_alike() -> None:
    assert set(rate_factors(GROUPS, 1.0, {}).values()) == {1.0}


def test_a_pattern_stands_instead_of_the_decay_and_the_last_one_counts() -> None:
    factors = rate_factors(GROUPS, 0.5, {"head": 10, "layer.?": 0.3, "layer.1.*.bias": 0})
    assert factors["head.bias"] == 10
    assert factors["layer.0.dense.bias"] == factors["layer.1.norm.weight"] == 0.3
    assert factors["layer.1.dense.bias"] == 0
    assert factors["embeddings.weight"] == 0.125


def test_a_pattern_that_matches_nothing_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(RecipeError, match=r"'layr.1' matches no group.*did you mean layer.1\?") as raised:
        rate_factors(GROUPS, 1.0, {"layr.1": 2})
    assert "embeddings, layer.0, layer.1, head" in raised.value.fix


def test_every_parameter_is_in_one_group_at_its_rate_and_only_matrices_decay() -> None:
    named, factors = parameters(), rate_factors(GROUPS, 0.5, {"head": 10})
    groups = parameter_groups(named, factors, learning_rate=0.01, weight_decay=0.1)
    settings = {id(one): (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(settings) == len(named)
    for name, parameter in named:
        decay = 0.1 if name.endswith("weight") and "norm" not in name else 0.0
        assert settings[id(parameter)] == (0.01 * factors[name], decay)
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)


def test_adamw_moves_parameters_in_proportion_to_their_rates() -> None:
    """The first step of AdamW is the rate itself, whatever the gradient."""
    named = parameters()
    factors = rate_factors(GROUPS, 0.5, {"layer.0": 0})
    optimiser = torch.optim.AdamW(parameter_groups(named, factors, learning_rate=0.01, weight_decay=0.0))
    sum(parameter.sum() for _, parameter in named).backward()  # type: ignore[union-attr]
    optimiser.step()
    for name, parameter in named:
        moved = (1 - parameter.detach()).mean().item()
        assert moved == pytest.approx(0.01 * factors[name], rel=1e-3, abs=1e-9)


def test_frozen_parameters_are_left_out() -> None:
    named = parameters()
    named[0][1].requires_grad_(False)
    groups = parameter_groups(named, rate_factors(GROUPS, 1.0, {"layer.0": 0}), 0.01, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(NAMES) - 1 - 3


def test_the_head_learns_first_and_then_one_layer_more() -> None:
    names = [name for name, _ in GROUPS]
    assert unfreezing_plan(names, 5) == [names[3:], names[2:], names[1:], names, names]
    assert unfreezing_plan(names, 4, every=2) == [names[3:], names[3:], names[2:], names[2:]]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_learns_never_freezes_again(every: int) -> None:
    plan = unfreezing_plan([str(group) for group in range(6)], 20, every)
    assert all(set(before) <= set(after) for before, after in pairwise(plan))
    assert plan[-1] == [str(group) for group in range(6)]
