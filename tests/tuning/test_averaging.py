from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tuning.tiny_part import image_network, text_network
from tldeploy.backbones.network import Network
from tldeploy.recipe import Tune
from tldeploy.tuning.averaging import Average, put
from tldeploy.tuning.training import cross_entropy, train

TEXT = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_the_last_weights_of_swa_are_the_mean_over_the_second_half_of_the_epochs(folder: Path) -> None:
    ends = []

    def keep(network: Network) -> dict[str, Any]:
        return {"on_epoch": lambda *_: ends.append(copied(network))}

    network, part, validation = text_network(folder)
    settings = Tune(**{**TEXT, "epochs": 4})
    train(network, part, settings, "test", validation=validation, **keep(network))
    averaged, part, validation = text_network(folder)
    train(averaged, part, settings.model_copy(update={"averaging": "swa"}), "test")
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight.detach(), (ends[2][name] + ends[3][name]) / 2, atol=1e-6, rtol=1e-5)


def test_swa_counts_batch_norms_anew(folder: Path) -> None:
    network, part = image_network(folder / "images")
    train(network, part, Tune(epochs=2, batch_size=8, batch_norm="train", averaging="swa", augmentation="none"), "test")
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(pixels=torch.from_numpy(part.examples.batch(range(len(part.examples)))["pixels"]))
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-4)


def test_an_exponential_moving_average_is_what_its_formula_gives() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = Average(layer, ["weight"], "ema")
    found = []
    for weight in (1.0, 2.0, 4.0):
        put(layer, {"weight": torch.tensor([[weight]])})
        average.after_step()
        average.after_epoch(1, 1)  # which is for swa
        found.append(average.weights["weight"].item())
    assert found == pytest.approx([1.0, 3 / 12 * 1 + 9 / 12 * 2, 4 / 13 * 1.75 + 9 / 13 * 4])
    average.count = 10_000
    average.after_step()
    assert average.weights["weight"].item() == pytest.approx(0.999 * found[-1] + 0.001 * 4)
    assert layer.weight.item() == 4


def test_the_last_weights_of_ema_are_the_moving_average_over_all_steps(folder: Path) -> None:
    """A loss is asked once before each step, so a training without averaging tells what came out of every step."""
    before: list[dict[str, torch.Tensor]] = []
    plain, part, _ = text_network(folder)
    usual = cross_entropy(part.classes, 3, Tune(**TEXT))

    def watched(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        before.append(copied(plain))
        return usual(logits, batch)

    train(plain, part, Tune(**TEXT), "test", loss=watched)
    after = [*before[1:], copied(plain)]
    averaged, part, _ = text_network(folder)
    train(averaged, part, Tune(**TEXT, averaging="ema"), "test")
    expected = after[0]
    for step, weights in enumerate(after[1:], start=2):
        decay = (1 + step) / (10 + step)
        expected = {name: decay * weight + (1 - decay) * weights[name] for name, weight in expected.items()}
    assert len(after) == 10
    assert not torch.equal(averaged.head.weight, plain.head.weight)
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], atol=1e-6, rtol=1e-5)
