"""transformers' Trainer with what it lacks: rows in an order of ours, learners, averages, checkpoints of all of it.

Everything random is a function of the seed and of where training is: the rows of a batch and their views follow from
(seed, epoch), dropout from (seed, step, process). So a training that goes on from a checkpoint takes the same steps as
one that was never broken, and a checkpoint needs no random state.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerControl, TrainerState

from tldeploy.progress import Advance
from tldeploy.recipe import Tune
from tldeploy.tuning import checkpoints, ranks
from tldeploy.tuning.averaging import Average, Weights, put, swapped
from tldeploy.tuning.batches import LABELS, ROWS, SHARE, Batch, Batches
from tldeploy.tuning.freezing import Learners

NETWORK, AVERAGE, BEST, MEMORY = "network.safetensors", "average.safetensors", "best.safetensors", "memory.json"

Loss = Callable[[Tensor, dict[str, Tensor]], Tensor]
Validate = Callable[[], tuple[float, float]]


@dataclass
class Memory:
    """What a training remembers of itself. losses, rates: of each step. metrics, validation_losses: of each epoch.

    best_epoch: counted from 1; 0 before the first.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped: bool = False


class NetworkTrainer(Trainer):
    """Trains what `learners` lets learn. Its methods with an underscore are Trainer's, which calls them.

    validate: the validation metric and loss of the network as it is; called in the first process only.
    folder: where checkpoints are kept. best: the weights of the best epoch, with early stopping.
    """

    loss_is_scaled_for_ga = False  # compute_loss gives a mean over the batch

    def __init__(
        self,
        learners: Learners,
        batches: Batches,
        settings: Tune,
        loss: Loss,
        arguments: TrainingArguments,
        *,
        validate: Validate | None,
        on_epoch: Callable[[int, float], None] | None,
        advance: Advance,
        folder: Path | None,
        trackers: list[TrainerCallback],
    ) -> None:
        super().__init__(model=learners.network, args=arguments, callbacks=[*trackers, _Watch(self)])
        self.remove_callback(PrinterCallback)  # it writes to standard output
        self.model_accepts_loss_kwargs = False
        self.learners, self.network, self.settings = learners, learners.network, settings
        self.batches, self.memory = batches, Memory()
        self.steps_per_epoch = -(-len(batches) // settings.accumulation)
        self.best: Weights = {}
        self.average: Average | None = None
        if settings.averaging != "none":
            self.average = Average(self.network, learners.names, settings.averaging)
        self._loss, self._validate, self._on_epoch, self._advance = loss, validate, on_epoch, advance
        self._folder = folder
        self._unread: list[Tensor] = []
        self._loss_of_step: list[Tensor] = []
        self._saved_at = time.monotonic()

    # What Trainer calls in place of its own.

    def get_train_dataloader(self) -> Batches:
        return self.batches

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = self.learners.optimizer(self.settings)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.learners.hold_batch_norm()
        beside = {name: inputs.pop(name) for name in (LABELS, ROWS)}
        share = inputs.pop(SHARE)
        logits = model(**inputs)
        loss = self._loss(logits, {**inputs, **beside}) * share
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.learners.drop_gradients(self.epoch)
        self._loss_of_step.append(loss)
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._saved_at = time.monotonic()
        if self._folder is None or ranks.rank() > 0:
            return
        self._read_losses()
        with checkpoints.writing(self._folder, self.state.global_step) as beside:
            save_model(self.network, str(beside / NETWORK))
            self._save_optimizer_and_scheduler(str(beside))
            self._save_scaler(str(beside))
            self.state.save_to_json(str(beside / TRAINER_STATE_NAME))
            count = 0
            if self.average is not None:
                count = self.average.count
                save_file(self.average.weights, beside / AVERAGE)
            save_file(self.best, beside / BEST)
            (beside / MEMORY).write_text(json.dumps({"averaged": count, **asdict(self.memory)}), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """`restore` has done it."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """There is none: every step seeds its own."""

    # What we call.

    def run(self) -> None:
        """Train from the latest checkpoint, or from the start, to the end; the network is left as it comes out."""
        found = checkpoints.steps(self._folder)[-1:] if self._folder is not None else []
        step = int(ranks.told([found[0] if found else 0])[0])
        if step and self._folder is not None:
            self.restore(self._folder / f"step-{step}")
            self._advance(step)
        if not self.memory.stopped:
            self.train(resume_from_checkpoint=str(self._folder / f"step-{step}") if step and self._folder else None)
        self._read_losses()
        self.unwrap()

    def unwrap(self) -> None:
        """Leave the weights that count: of the best epoch, or averaged, or the last."""
        put(self.network, self.best or (self.average.weights if self.average else {}))

    def restore(self, folder: Path) -> None:
        device = str(self.args.device)
        load_model(self.network, str(folder / NETWORK), device=device)
        remembered = json.loads((folder / MEMORY).read_text(encoding="utf-8"))
        if self.average is not None:
            self.average.weights = load_file(folder / AVERAGE, device=device)
            self.average.count = remembered["averaged"]
        self.best = load_file(folder / BEST, device=device)
        del remembered["averaged"]
        self.memory = Memory(**remembered)
        if self._on_epoch is not None:
            for epoch, metric in enumerate(self.memory.metrics, start=1):
                self._on_epoch(epoch, metric)

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 0."""
        return self.state.global_step // self.steps_per_epoch

    def begin_step(self) -> None:
        place = f"{self.settings.seed} {self.state.global_step} {ranks.rank()}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:7]))

    def end_step(self) -> None:
        self._unread.append(torch.stack(self._loss_of_step).sum())
        self._loss_of_step.clear()
        if self.average is not None:
            self.average.after_step()
        self._advance(1)
        within = self.state.global_step % self.steps_per_epoch
        if within and self._folder is not None and time.monotonic() - self._saved_at >= checkpoints.EVERY_S:
            self.control.should_save = True

    def end_epoch(self) -> None:
        """Measure what would come out if training ended here, and decide whether it does."""
        epoch = self.epoch
        if self.average is not None:
            self.average.after_epoch(epoch, self.settings.epochs)
        self.control.should_save = True
        if self._validate is None:
            return
        with self._as_it_would_come_out():
            metric, loss = ranks.told(self._validate() if ranks.rank() == 0 else (0.0, 0.0))
            self.memory.metrics.append(metric)
            self.memory.validation_losses.append(loss)
            patience = self.settings.early_stopping
            if patience is not None:
                if not self.best or metric > self.memory.metrics[self.memory.best_epoch - 1]:
                    self.best, self.memory.best_epoch = self._weights(), epoch
                elif epoch - self.memory.best_epoch >= patience:
                    self.memory.stopped = self.control.should_training_stop = True
        if self.args.logging_strategy != "no":
            self.log({"validation_metric": metric, "validation_loss": loss})
        if self._on_epoch is not None:
            self._on_epoch(epoch, metric)

    @contextmanager
    def _as_it_would_come_out(self) -> Iterator[None]:
        with swapped(self.network, self.average.weights if self.average else {}):
            yield

    def _weights(self) -> Weights:
        """A copy of all that training changes: what learns, and the statistics of batch norms."""
        learning = set(self.learners.names)
        found: Weights = {name: value for name, value in self.network.named_parameters() if name in learning}
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm):
                found |= {f"{name}.{buffer}": value for buffer, value in module.named_buffers(recurse=False)}
        return {name: value.detach().clone() for name, value in found.items()}

    def _read_losses(self) -> None:
        """From the device, some at a time: reading one waits for the device."""
        if self._unread:
            self.memory.losses += torch.stack(self._unread).tolist()
            self._unread.clear()


class _Watch(TrainerCallback):
    """Calls the trainer back where it needs to act."""

    def __init__(self, trainer: NetworkTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._trainer.begin_step()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        self._trainer.memory.rates.append(float(rest["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._trainer.end_step()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        self._trainer.end_epoch()
