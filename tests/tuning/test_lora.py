from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backbones import families
from tests.tuning.job import Bare, make_job, write_image_recipe, write_text_recipe
from tldeploy.backbones.network import Network, load_network
from tldeploy.errors import RecipeError
from tldeploy.recipe import Lora
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.job import Job, Tuned
from tldeploy.tuning.lora import add_adapters, lora, merge, target_layers


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(write_text_recipe(tmp_path_factory.mktemp("job") / "tiny"), learning_rate=0.01, epochs=12)


@pytest.fixture(scope="module")
def tuned(job: Job) -> Tuned:
    return lora(job)


def teach(network: Network) -> None:
    """Give every adapter something to say."""
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)


def test_merged_weights_give_the_outputs_of_the_adapters(job: Job) -> None:
    network = job.network.fresh_copy(0).eval()
    names = list(network.state_dict())
    before = predict_logits(network, job.test.examples, "before")
    adapters = add_adapters(network, Lora(rank=4), seed=0)
    np.testing.assert_allclose(predict_logits(network, job.test.examples, "untaught"), before, atol=1e-6)
    teach(network)
    beside = predict_logits(network, job.test.examples, "beside")
    assert np.abs(beside - before).max() > 0.01
    merge(network, adapters)
    np.testing.assert_allclose(predict_logits(network, job.test.examples, "merged"), beside, atol=1e-5)
    assert list(network.state_dict()) == names


def test_only_adapters_and_the_head_learn(job: Job) -> None:
    network = job.network.fresh_copy(0)
    add_adapters(network, Lora(), seed=0)
    learning = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert {name for name in learning if "lora_" not in name} == {"head.weight", "head.bias"}
    assert sum("lora_A" in name for name in learning) == len(target_layers(job.network.backbone))


def test_what_comes_out_is_an_ordinary_network_that_learnt(job: Job, tuned: Tuned, tmp_path: Path) -> None:
    assert type(tuned.network) is type(job.network)
    assert not any(type(module).__module__.startswith("peft") for module in tuned.network.modules())
    assert all(weight.requires_grad for weight in tuned.network.parameters())
    assert (tuned.validation.argmax(axis=1) == job.validation.classes).mean() > 0.6  # chance is a third
    tuned.network.save(tmp_path)
    loaded = load_network(tmp_path)
    np.testing.assert_allclose(predict_logits(loaded, job.test.examples, "loaded"), tuned.test, atol=1e-5)


def test_layers_without_an_adapter_keep_their_weights(job: Job, tuned: Tuned) -> None:
    before, after = job.network.backbone.state_dict(), tuned.network.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in target_layers(job.network.backbone)}


def test_it_says_how_few_weights_learnt(job: Job, tuned: Tuned) -> None:
    """Two layers of width 32: 4 adapters of 32 + 32 and 2 of 32 + 64, times the rank of 8; and the head."""
    trainable = 2 * 8 * (4 * 64 + 2 * 96) + 3 * 33
    assert tuned.details["trainable_parameters"] == trainable
    every = sum(weight.numel() for weight in job.network.parameters())
    assert tuned.details["trainable_share"] == pytest.approx(trainable / every, abs=1e-4)


def test_targets_are_ends_of_names(job: Job) -> None:
    names = target_layers(job.network.backbone, ["query", "attention.self.value"])
    ends = {name.removeprefix("encoder.layer.0.").removeprefix("encoder.layer.1.") for name in names}
    assert len(names) == 4
    assert ends == {"attention.self.query", "attention.self.value"}


def test_a_target_that_is_not_there_is_answered_with_those_that_are(job: Job) -> None:
    with pytest.raises(RecipeError, match="its layers end with dense, key, query, value"):
        target_layers(job.network.backbone, ["q_proj"])


@pytest.mark.parametrize("family", [*families.TEXT, *families.IMAGES])
def test_every_known_architecture_takes_adapters_and_gives_them_back(family: str) -> None:
    network = Bare(families.make(family))
    inputs, names = families.inputs(network.backbone), list(network.state_dict())
    adapters = add_adapters(network, Lora(rank=2), seed=0)
    teach(network.eval())
    with torch.inference_mode():
        beside = network.features(**inputs)
        merge(network, adapters)
        found = network.features(**inputs)
    torch.testing.assert_close(found, beside, atol=1e-5 * max(1.0, float(beside.abs().max())), rtol=1e-4)
    assert list(network.state_dict()) == names


def test_convolutional_networks_learn_through_adapters_too(tmp_path: Path) -> None:
    job = make_job(write_image_recipe(tmp_path / "tiny"), learning_rate=0.02, epochs=6)
    layers = target_layers(job.network.backbone)
    assert layers
    assert all("convolution" in name for name in layers)
    found = lora(job)
    assert list(found.network.state_dict()) == list(job.network.state_dict())
    assert (found.test.argmax(axis=1) == job.test.classes).mean() > 0.8


def test_a_backbone_of_neither_kind_cannot_be_adapted() -> None:
    with pytest.raises(RecipeError, match="it has no linear layer or convolution"):
        target_layers(torch.nn.Sequential(torch.nn.LayerNorm(3)))


def test_the_same_seed_gives_the_same_network(job: Job) -> None:
    short = make_job(job.folder, epochs=1)
    first, second, other = lora(short), lora(short), lora(make_job(job.folder, epochs=1, seed=1))
    np.testing.assert_array_equal(first.test, second.test)
    assert np.abs(first.test - other.test).max() > 0.001
