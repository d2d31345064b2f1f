"""Fine-tuning: all weights learn, by transformers' Trainer, with batches of similar lengths padded to their longest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from tldeploy.backbones.network import TextNetwork
from tldeploy.data.rows import Rows
from tldeploy.errors import QualityError
from tldeploy.progress import Advance, progress
from tldeploy.recipe import Tune
from tldeploy.tasks.encoding import TextEncoder


class _WithLoss(nn.Module):
    """What Trainer calls: the network, its loss beside its logits."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(input_ids, attention_mask)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class _ShowProgress(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._advance(1)


def fine_tune(network: TextNetwork, encoder: TextEncoder, train: Rows, settings: Tune) -> dict[str, float]:
    """Train every weight of `network` in place; the mean training loss and the number of steps.

    Raises QualityError when the loss stops being a number.
    """
    ids = encoder.token_ids(train.texts)
    dataset = [{"input_ids": row, "labels": label} for row, label in zip(ids, train.classes.tolist(), strict=True)]
    steps = -(-len(dataset) // settings.batch_size) * settings.epochs
    with tempfile.TemporaryDirectory() as scratch, progress("fine-tuning", steps) as advance:
        trainer = Trainer(
            model=_WithLoss(network),
            args=_arguments(settings, Path(scratch)),
            train_dataset=dataset,
            data_collator=_collate(encoder),
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
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _collate(encoder: TextEncoder) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(values) for name, values in encoder.pad([r["input_ids"] for r in rows]).items()}
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate
