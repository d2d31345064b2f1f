"""Fine-tuning on source rows with a second loss that makes the features of both domains alike: coral, mmd, dann.

The second loss counts for nothing at first and for 1 in the end, by the schedule of DANN. Every weight learns, from the
pretrained ones, in as many steps as fine-tuning takes. The losses, with their sources, are in alignment.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tldeploy.tasks.classification import Examples
from tldeploy.tuning.adaptation.alignment import (
    DomainDiscriminator,
    adversarial_loss,
    coral_loss,
    dann_schedule,
    mmd_loss,
)
from tldeploy.tuning.adaptation.joint import on_device, steps_of, train_jointly
from tldeploy.tuning.batches import LABELS
from tldeploy.tuning.device import device
from tldeploy.tuning.features import answered
from tldeploy.tuning.job import Job, Tuned
from tldeploy.tuning.training import cross_entropy

Aligning = Literal["coral", "mmd", "dann"]
FEWEST_ROWS = 2  # of a batch whose spread is compared


def aligning(job: Job, target: Examples, method: Aligning) -> Tuned:
    """The network after tune.epochs over the source rows, each step beside a batch of target rows."""
    settings, source = job.settings, job.train
    network = job.network.fresh_copy(settings.seed)
    network.to(device())
    classes = torch.from_numpy(source.classes).to(device())
    supervised = cross_entropy(source.classes, len(job.task.labels), settings)
    beside: list[nn.Module] = []
    apart: Callable[[Tensor, Tensor, float], Tensor]
    if method == "dann":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            discriminator = DomainDiscriminator(network.head.in_features).to(device())
        beside.append(discriminator)

        def apart(known: Tensor, new: Tensor, weight: float) -> Tensor:
            return adversarial_loss(discriminator, known, new, weight)
    else:
        distance = _relative_coral if method == "coral" else mmd_loss

        def apart(known: Tensor, new: Tensor, weight: float) -> Tensor:
            if min(len(known), len(new)) < FEWEST_ROWS:
                return known.new_zeros(())
            return weight * distance(known, new)

    def loss(of_source: list[int], of_target: list[int], progress: float) -> Tensor:
        known = network.features(**on_device(network, source.examples.batch(of_source)))
        new = network.features(**on_device(network, target.batch(of_target)))
        answers = network.head(network.dropout(known))
        with torch.autocast(known.device.type, enabled=False):
            gap = apart(known.float(), new.float(), dann_schedule(progress))
        return supervised(answers, {LABELS: classes[of_source]}) + gap

    details = train_jointly(
        network,
        settings,
        source.examples,
        target,
        steps=steps_of(source.examples, settings),
        learning_rate=settings.learning_rate,
        loss=loss,
        what=method,
        beside=beside,
    )
    return answered(job, network, details)


def _relative_coral(source: Tensor, target: Tensor) -> Tensor:
    """The gap of the covariances over the size of the source's: of pooled features it is far too small by itself."""
    size = coral_loss(source.detach(), torch.zeros_like(source))
    return coral_loss(source, target) / size.clamp_min(torch.finfo(size.dtype).tiny)
