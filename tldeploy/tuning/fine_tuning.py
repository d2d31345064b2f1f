"""Fine-tuning: all weights learn, by transformers' Trainer, with batches of similar lengths padded to their longest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from tldeploy.backbones.network import Network
from tldeploy.errors import QualityError
from tldeploy.progress import Advance, progress
from tldeploy.recipe import Tune
from tldeploy.tasks.classification import Examples
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.job import Job, Part, Tuned


def fine_tuning(job: Job) -> Tuned:
    """The method: every weight learns from the training rows."""
    network = job.network.fresh_copy(job.settings.seed)
    details = train(network, job.train, job.settings, "fine-tuning")
    validation = predict_logits(network, job.validation.examples, "predict validation rows")
    return Tuned(network, validation, predict_logits(network, job.test.examples, "predict test rows"), details)


class _WithLoss(nn.Module):
    """What Trainer calls: the network, its loss beside its logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        logits = self.network(**inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class _Trainer(Trainer):
    """Trainer finds lengths in its own library's data sets only; here they are told."""

    def __init__(self, lengths: Sequence[int] | None, **rest: Any) -> None:
        super().__init__(**rest)
        self._lengths = lengths

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self._lengths is None:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=list(self._lengths))


class _ShowProgress(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._advance(1)


def train(network: Network, part: Part, settings: Tune, what: str) -> dict[str, float]:
    """Train every weight of `network` in place; the mean training loss and the number of steps.

    Raises QualityError when the loss stops being a number.
    """
    dataset = [{"row": row, "labels": label} for row, label in enumerate(part.classes.tolist())]
    steps = -(-len(dataset) // settings.batch_size) * settings.epochs
    with tempfile.TemporaryDirectory() as scratch, progress(what, steps) as advance:
        trainer = _Trainer(
            part.examples.lengths,
            model=_WithLoss(network),
            args=_arguments(settings, Path(scratch)),
            train_dataset=dataset,
            data_collator=_collate(part.examples),
            callbacks=[_ShowProgress(advance)],
        )
        trainer.remove_callback(PrinterCallback)  # it writes to standard output
        loss = float(trainer.train().training_loss)
    if not all(bool(torch.isfinite(weight).all()) for weight in network.parameters()):
        found = f"training diverged: the weights are no longer finite (mean loss {loss})"
        raise QualityError("fine-tune", found, "lower tune.learning_rate")
    network.eval()
    return {"steps": float(trainer.state.global_step), "mean_loss": loss}


def _arguments(settings: Tune, scratch: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _collate(examples: Examples) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(values) for name, values in examples.batch([r["row"] for r in rows]).items()}
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate
