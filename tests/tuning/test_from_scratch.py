from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backbones import families
from tests.tuning.job import Bare, make_job, write_image_recipe, write_text_recipe
from tldeploy.backbones.network import load_network
from tldeploy.recipe import Tune
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.from_scratch import from_scratch, initialised, without_transfer
from tldeploy.tuning.job import Job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(write_text_recipe(tmp_path_factory.mktemp("job") / "tiny"), epochs=15)


def test_fresh_weights_follow_from_the_seed_and_from_nothing_else(job: Job) -> None:
    first, again, other = (initialised(job.network, seed).backbone.state_dict() for seed in (0, 0, 1))
    pretrained = job.network.backbone.state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert list(first) == list(pretrained)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], pretrained[name])
    with torch.no_grad():
        job.network.backbone.get_parameter(name).add_(1)
    assert torch.equal(initialised(job.network, 0).backbone.state_dict()[name], first[name])
    with torch.no_grad():
        job.network.backbone.get_parameter(name).sub_(1)


def test_weights_are_drawn_as_the_architecture_draws_them(job: Job) -> None:
    """BERT: normal with the config's standard deviation; norms are ones and zeros."""
    fresh = initialised(job.network, 0).backbone.state_dict()
    words = fresh["embeddings.word_embeddings.weight"][1:]  # the first is the padding's, zeros
    assert float(words.std()) == pytest.approx(job.network.backbone.config.initializer_range, rel=0.1)
    assert set(fresh["encoder.layer.0.output.LayerNorm.weight"].tolist()) == {1.0}


def test_it_learns_and_can_be_saved(job: Job, tmp_path: Path) -> None:
    found = from_scratch(job)
    assert (found.test.argmax(axis=1) == job.test.classes).mean() > 0.8
    found.network.save(tmp_path)
    loaded = load_network(tmp_path)
    np.testing.assert_allclose(predict_logits(loaded, job.test.examples, "loaded"), found.test, atol=1e-5)


def test_running_statistics_are_learnt_although_the_recipe_freezes_them(tmp_path: Path) -> None:
    job = make_job(write_image_recipe(tmp_path / "tiny", per_class=8), epochs=1)
    assert job.settings.batch_norm == "frozen"
    found = from_scratch(job).network.backbone.state_dict()
    moved = [name for name, tensor in found.items() if name.endswith("running_mean") and float(tensor.abs().max()) > 0]
    assert len(moved) == sum(name.endswith("running_mean") for name in found)


def test_settings_that_hold_on_to_pretrained_weights_are_left_out() -> None:
    given = {"freeze": ["layer 0"], "gradual_unfreezing": 1, "layer_decay": 0.5, "rates": {"layer 0": 0.1}}
    assert without_transfer(Tune(epochs=7, **given)) == Tune(epochs=7, batch_norm="train")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [*families.TEXT, *families.IMAGES])
def test_any_architecture_can_be_drawn_afresh(family: str) -> None:
    network = Bare(families.make(family))
    before, fresh = network.state_dict(), initialised(network, 3).state_dict()
    assert {name: tensor.shape for name, tensor in fresh.items()} == {name: one.shape for name, one in before.items()}
    assert any(not torch.equal(fresh[name], tensor) for name, tensor in before.items() if "head" not in name)
