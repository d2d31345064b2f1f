"""Fine-tuning: the weights of the whole network learn, or those that the recipe lets learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tldeploy.artifacts import fingerprint
from tldeploy.backbones.network import Network
from tldeploy.recipe import Tune
from tldeploy.tuning import ranks
from tldeploy.tuning.features import answered, weights_fingerprint
from tldeploy.tuning.job import Job, Tuned
from tldeploy.tuning.trainer import Loss
from tldeploy.tuning.training import Training, train

__all__ = ["Loss", "Training", "checkpoint_folder", "fine_tuning", "learn", "measured", "train"]
CHECKPOINTS = "training"


def fine_tuning(job: Job, on_epoch: Callable[[int, float], None] | None = None) -> Tuned:
    """The method: the network learns from the training rows, measured on the validation rows after each epoch."""
    network = job.network.fresh_copy(job.settings.seed)
    return measured(job, network, learn(job, network, "fine-tuning", on_epoch=on_epoch))


def learn(
    job: Job,
    network: Network,
    method: str,
    *,
    settings: Tune | None = None,
    loss: Loss | None = None,
    teacher: str = "",
    on_epoch: Callable[[int, float], None] | None = None,
) -> Training:
    """Train `network` on the job's rows, with checkpoints to go on from and the recipe's trackers.

    settings: by default the job's. teacher: identifies what the loss depends on besides the rows.
    """
    return train(
        network,
        job.train,
        settings or job.settings,
        method,
        validation=job.validation,
        checkpoints=checkpoint_folder(job, network, f"{method} {teacher}"),
        loss=loss,
        on_epoch=on_epoch,
        measure=lambda truth, found: job.task.measure(truth, found).value,
        runs=job.folder / "runs" / method,
    )


def measured(job: Job, network: Network, trained: Training, details: Mapping[str, Any] | None = None) -> Tuned:
    """The trained network with its logits. details: what there is to say besides the training's own."""
    return answered(job, network, {**trained.details, **(details or {})}, trained.curves)


def checkpoint_folder(job: Job, network: Network, method: str) -> Path:
    """Where this training's checkpoints are kept until its result is sealed: keyed by all that determines the run.

    network: as it is before training. method: with what its loss depends on besides the rows.
    """
    parts = [[part.examples.key, part.classes.tolist()] for part in (job.train, job.validation)]
    key = fingerprint(
        [method, weights_fingerprint(network), network.settings, parts, job.settings.model_dump(), ranks.world()]
    )
    return job.cache / CHECKPOINTS / key[:32]
