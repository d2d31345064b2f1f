from __future__ import annotations

from pathlib import Path

import torch

from tests.tuning.job import make_job, write_text_recipe
from tldeploy.backbones.layers import layer_map
from tldeploy.tuning.adaptation.aligning import aligning


def test_what_the_recipe_freezes_stays_as_it_was_and_the_rest_learns(tmp_path: Path) -> None:
    job = make_job(write_text_recipe(tmp_path / "tiny", rows=120), epochs=1, freeze=["embeddings", "layer 0"])
    before = job.network.backbone.state_dict()
    after = aligning(job, job.validation.examples, "coral").network.backbone.state_dict()
    groups = {group.name: group.parameters for group in layer_map(job.network.backbone).groups}
    for name in (*groups["embeddings"], *groups["layer 0"]):
        assert torch.equal(after[name], before[name]), name
    assert not all(torch.equal(after[name], before[name]) for name in groups["layer 1"])
