"""From scratch: the same architecture with fresh weights, trained like fine-tuning: the baseline for transfer."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tldeploy.backbones.network import Network
from tldeploy.recipe import Tune
from tldeploy.tuning.fine_tuning import learn, measured
from tldeploy.tuning.job import Job, Tuned


def from_scratch(job: Job) -> Tuned:
    """The method."""
    settings = without_transfer(job.settings)
    network = initialised(job.network, settings.seed)
    return measured(job, network, learn(job, network, "from-scratch", settings=settings))


def without_transfer(settings: Tune) -> Tune:
    """The settings without those that hold on to pretrained weights: here each layer must learn, and at the full rate.

    Running statistics of batch norms are learnt too: those of a fresh network say nothing.
    """
    plain: dict[str, Any] = {
        "freeze": [],
        "gradual_unfreezing": None,
        "layer_decay": 1.0,
        "rates": {},
        "batch_norm": "train",
    }
    return settings.model_copy(update=plain)


def initialised(network: Network, seed: int) -> Network:
    """A copy with weights as the architecture draws them before any training; the seed fixes them."""
    from transformers import AutoModel

    twin = network.fresh_copy(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = AutoModel.from_config(copy.deepcopy(network.backbone.config))  # type: ignore[no-untyped-call]
        fresh = drawn.state_dict()
    # A pooler that the checkpoint lacked is not in the network either.
    twin.backbone.load_state_dict({name: fresh[name] for name in twin.backbone.state_dict()})
    return twin
