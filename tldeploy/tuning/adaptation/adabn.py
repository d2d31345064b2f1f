"""AdaBN as a candidate: the tuned network with the target's statistics in its batch norms; nothing is trained.

The norms are first given the statistics of the source rows, with nothing changed in what the network computes (see
`unfold_batch_norm`). So it does not matter whether the checkpoint came with statistics, with others, or with none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tldeploy.backbones.conversion import unfold_batch_norm
from tldeploy.backbones.network import ImageNetwork
from tldeploy.errors import IncapableError
from tldeploy.tasks.classification import Examples
from tldeploy.tuning.adaptation.batch_norm import adapt_batch_norm
from tldeploy.tuning.adaptation.joint import in_random_batches, on_device
from tldeploy.tuning.features import BATCH, answered
from tldeploy.tuning.job import Job, Tuned


def adabn(job: Job, target: Examples, start: Tuned) -> Tuned:
    """start: tuned on the source. Raises IncapableError for a network without batch norm."""
    network = copy.deepcopy(start.network).eval()
    if not isinstance(network, ImageNetwork):
        found = "adabn needs a network with batch norm, and encoders of text have none"
        raise IncapableError("adapt batch norm", found, "take another adaptation, such as self-training")
    draw = np.random.default_rng(job.settings.seed)

    def batches(examples: Examples) -> Iterator[Tensor]:
        for rows in in_random_batches(examples, BATCH, draw):
            if len(rows) == min(BATCH, len(examples)):
                yield network.normalised(on_device(network, examples.batch(rows))["pixels"])

    if any(isinstance(module, torch.nn.BatchNorm2d) for module in network.backbone.modules()):
        with torch.inference_mode():
            unfold_batch_norm(network.backbone, batches(job.train.examples))
    layers = adapt_batch_norm(
        network.backbone,
        ({"pixel_values": pixels} for pixels in batches(target)),
        lambda batch: network.backbone(**batch),
    )
    return answered(job, network, {"adapted_layers": layers})
