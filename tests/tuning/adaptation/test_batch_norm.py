from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tldeploy.errors import DataError, RecipeError
from tldeploy.tuning.adaptation.batch_norm import adapt_batch_norm


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3, momentum=0.3)
        self.middle = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.LayerNorm(4))
        self.last = nn.BatchNorm1d(4)
        self.loose = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.loose(self.last(self.middle(self.first(pixels))))
        return out


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batches(number: int = 5, size: int = 16) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [{"pixels": 3 * torch.randn(size, 3, generator=draw) + 7} for _ in range(number)]


def caller(model: nn.Module) -> Callable[[dict[str, Tensor]], object]:
    return lambda batch: model(**batch)


def test_the_statistics_become_the_means_over_batches() -> None:
    model, target = network(), batches()
    assert adapt_batch_norm(model, target, caller(model)) == 2
    pixels = torch.stack([batch["pixels"] for batch in target])
    torch.testing.assert_close(model.first.running_mean, pixels.mean(dim=(0, 1)))
    torch.testing.assert_close(model.first.running_var, pixels.var(dim=1).mean(dim=0))


def test_target_rows_come_out_of_an_adapted_layer_standardised() -> None:
    model, target = network().eval(), batches(20, 64)
    rows = torch.cat([batch["pixels"] for batch in target])
    assert model.first(rows).mean() > 5
    adapt_batch_norm(model, target, caller(model))
    out = model.first(rows)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(out.std(dim=0), torch.ones(3), atol=0.02, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_weights_flags_and_momentum_stay(training: bool) -> None:
    model = network().train(training)
    model.middle[1].train(not training)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    flags = [module.training for module in model.modules()]
    adapt_batch_norm(model, batches(), caller(model))
    assert [module.training for module in model.modules()] == flags
    assert (model.first.momentum, model.last.momentum) == (0.3, 0.1)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), weights[name], atol=0, rtol=0)
        assert value.grad is None


def test_dropout_is_off_meanwhile_so_that_it_repeats() -> None:
    first, second = network().train(), network().train()
    adapt_batch_norm(first, batches(), caller(first))
    torch.manual_seed(99)
    adapt_batch_norm(second, batches(), caller(second))
    torch.testing.assert_close(first.last.running_mean, second.last.running_mean, atol=0, rtol=0)


@pytest.mark.parametrize(("target", "error"), [([], DataError), ([{"wrong": torch.ones(2, 3)}], TypeError)])
def test_what_fails_leaves_the_statistics_as_they_were(target: list[dict[str, Tensor]], error: type[Exception]) -> None:
    model = network().train()
    model(**batches()[0])
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error):
        adapt_batch_norm(model, target, caller(model))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, kept[name], atol=0, rtol=0)
    assert model.training
    assert model.first.momentum == 0.3


def test_a_network_without_batch_norm_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with pytest.raises(RecipeError, match="adabn needs a network with batch norm"):
        adapt_batch_norm(model, batches(), lambda batch: model(batch["pixels"]))
