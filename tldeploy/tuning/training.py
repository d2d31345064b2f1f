"""Training a network on a part: everything that the recipe's `tune` section says of how it learns.

1. What learns is set (freezing.py), and in what order rows come (order.py).
2. transformers' Trainer takes the steps (trainer.py), in one process or in several, from a checkpoint if there is one.
3. After each epoch the validation rows are measured; early stopping decides by them.
4. What comes out: the last weights, or averaged ones (averaging.py), or those of the best epoch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import TrainingArguments

from tldeploy.backbones.network import Network
from tldeploy.errors import QualityError
from tldeploy.progress import progress
from tldeploy.recipe import Tune
from tldeploy.tasks.metrics import Classes, weighted_f1
from tldeploy.tuning import precision, ranks, trackers
from tldeploy.tuning.adaptation.batch_norm import adapt_batch_norm
from tldeploy.tuning.batches import LABELS, Batch, Batches, collate
from tldeploy.tuning.features import in_batches
from tldeploy.tuning.freezing import learners
from tldeploy.tuning.job import Part
from tldeploy.tuning.order import EpochBatches, Key
from tldeploy.tuning.quantization_aware import rounding
from tldeploy.tuning.trainer import Loss, Memory, NetworkTrainer
from tldeploy.tuning.weighting import class_weights

# How the recipe's schedules are called by transformers. A polynomial of power 1 would be the linear one.
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "constant": ("constant_with_warmup", {}),
    "polynomial": ("polynomial", {"power": 2.0, "lr_end": 0.0}),
    "inverse-sqrt": ("inverse_sqrt", {}),
}
CURVE_POINTS = 400
Measure = Callable[[Classes, Classes], float]
Curves = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Training:
    """What there is to say of a training. curves: name to points (epoch, value); epochs are counted in fractions."""

    details: dict[str, Any]
    curves: Curves


def train(
    network: Network,
    part: Part,
    settings: Tune,
    what: str,
    *,
    validation: Part | None = None,
    checkpoints: Path | None = None,
    loss: Loss | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    measure: Measure | None = None,
    runs: Path | None = None,
) -> Training:
    """Train `network` in place; it is left in evaluation mode, on the device that trained it.

    what: the words for it in lines of progress.
    checkpoints: a folder of this very training, to go on from and to write into; the caller removes it.
    loss: a mean over the rows of a batch, from logits, float32 [batch, classes], and the batch, with `labels` and
    `rows` (their numbers in the part), int64 [batch] each. By default cross entropy, with the recipe's class weights
    and label smoothing.
    on_epoch: called with each epoch, from 1, and its validation metric, again for the epochs before a checkpoint. An
    exception that it raises ends training and comes through.
    measure: the validation metric, from true and predicted classes; by default weighted F1.
    runs: where the recipe's trackers write; without it they are left out.

    Raises QualityError when training diverges, RecipeError for settings that do not fit the network or the processes,
    MachineError for what this machine lacks.
    """
    how = precision.arguments(settings)
    order = EpochBatches(part.examples.lengths, part.classes, settings, ranks.rank(), ranks.world())
    watchers = trackers.callbacks(settings.trackers, runs) if runs is not None and ranks.rank() == 0 else []
    steps = -(-len(order) // settings.accumulation) * settings.epochs
    with (
        ranks.together(),
        precision.products(how),
        precision.compiled(settings),
        learners(network, settings) as learning,
        precision.checkpointed(network, settings),
        rounding(network, settings),
        tempfile.TemporaryDirectory() as scratch,
        progress(what, steps) as advance,
    ):
        trainer = NetworkTrainer(
            learning,
            Batches(part, settings, order),
            settings,
            loss or cross_entropy(part.classes, network.head.out_features, settings),
            _arguments(settings, how, Path(scratch), bool(watchers)),
            validate=_validator(network, validation, settings, measure) if validation is not None else None,
            on_epoch=on_epoch,
            advance=advance,
            folder=checkpoints,
            trackers=watchers,
        )
        trainer.run()
        counts = learning.counts()
    memory = trainer.memory
    mean_loss = float(np.mean(memory.losses))
    if not all(bool(torch.isfinite(weight).all()) for weight in network.parameters()):
        found = f"training diverged: the weights are no longer finite (mean loss {mean_loss})"
        raise QualityError("fine-tune", found, "lower tune.learning_rate")
    if settings.averaging != "none" and settings.batch_norm == "train":
        _estimate_batch_norm(network, part, settings)
    network.eval()
    details: dict[str, Any] = {"steps": len(memory.losses), "mean_loss": mean_loss, **counts}
    details["precision"] = precision.name(how)
    if settings.compile:
        details["compiled"] = True
    if settings.quantization_aware:
        details["quantization_aware"] = True
    if settings.early_stopping is not None and memory.best_epoch:
        details["best_epoch"] = memory.best_epoch
    return Training(details, _curves(memory, trainer.steps_per_epoch))


def cross_entropy(classes: Classes, count: int, settings: Tune) -> Loss:
    """The loss of classifiers, a mean over rows: a row's class weighs the same in any company."""
    weights = torch.from_numpy(class_weights(classes, count)) if settings.class_weights else None

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        labels = batch[LABELS]
        each = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=settings.label_smoothing)
        return (each if weights is None else each * weights.to(each.device)[labels]).mean()

    return loss


def _validator(
    network: Network, part: Part, settings: Tune, measure: Measure | None
) -> Callable[[], tuple[float, float]]:
    """The metric and the cross entropy of the part's rows, by the network as it is when called."""
    metric = measure or (lambda truth, found: weighted_f1(truth, found, network.head.out_features).value)

    def validate() -> tuple[float, float]:
        device = next(network.parameters()).device
        network.eval()
        logits = torch.empty(len(part.examples), network.head.out_features)
        with torch.no_grad():
            for rows in in_batches(part.examples):
                inputs = {name: torch.from_numpy(value).to(device) for name, value in part.examples.batch(rows).items()}
                logits[rows] = network(**inputs).float().cpu()
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(part.classes))
        return metric(part.classes, logits.argmax(dim=1).numpy()), float(loss)

    return validate


def _arguments(settings: Tune, how: dict[str, Any], scratch: Path, tracked: bool) -> TrainingArguments:
    schedule, shape = SCHEDULES[settings.schedule]
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // ranks.world(),
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=shape,
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="steps" if tracked else "no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        torch_compile=settings.compile,
        **how,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for several processes, not for DataParallel
    return arguments


def _estimate_batch_norm(network: Network, part: Part, settings: Tune) -> None:
    """Averaged weights give other activations than those that batch norms counted."""
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return
    device = next(network.parameters()).device
    gather = collate(part, settings)

    def batch(rows: Sequence[int]) -> Batch:
        return {
            name: value.to(device)
            for name, value in gather([Key(0, row, 1.0) for row in rows]).items()
            if name in part_inputs
        }

    part_inputs = set(part.examples.batch([0]))
    whole = EpochBatches(part.examples.lengths, part.classes, settings).whole(0)
    adapt_batch_norm(network, map(batch, whole), lambda inputs: network.features(**inputs))


def _curves(memory: Memory, steps_per_epoch: int) -> Curves:
    steps = [(step + 1) / steps_per_epoch for step in range(len(memory.losses))]
    epochs = [float(epoch) for epoch in range(1, len(memory.metrics) + 1)]
    curves = {
        "training loss": _thinned(steps, memory.losses),
        "validation loss": list(zip(epochs, memory.validation_losses, strict=True)),
        "validation metric": list(zip(epochs, memory.metrics, strict=True)),
        "learning rate": _thinned(steps, memory.rates[: len(steps)]),
    }
    return {name: points for name, points in curves.items() if points}


def _thinned(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS points: the means of as many runs of neighbours."""
    runs = min(len(y), CURVE_POINTS)
    pairs = zip(np.array_split(np.asarray(x), runs), np.array_split(np.asarray(y), runs), strict=True) if runs else ()
    return [(float(places.mean()), float(values.mean())) for places, values in pairs]
