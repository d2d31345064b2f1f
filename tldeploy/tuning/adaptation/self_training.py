"""Self-training by a mean teacher: it answers unlabelled target rows, a student learns its answers from altered ones.

1. Both start as the network that was tuned on the source. The teacher's weights are a moving average of the student's
   (Tarvainen & Valpola, Mean teachers are better role models, NIPS 2017).
2. The teacher's answers are scaled until their running mean has the class shares of the source (the distribution
   alignment of Berthelot et al., ReMixMatch, ICLR 2020), unless the recipe calls the target's shares unknown, and are
   sharpened. No row is left out for being unsure.
3. The student learns them from rows with words dropped, or from augmented images (as Xie et al., Self-training with
   Noisy Student, CVPR 2020), and beside them a batch of labelled source rows, so that it cannot drift away.

Word embeddings stay as they are, so that words of one domain keep their place among those of the other.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from tldeploy.backbones.network import TextNetwork
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.metrics import Scores
from tldeploy.tuning.adaptation.joint import on_device, steps_of, train_jointly
from tldeploy.tuning.adaptation.views import altered
from tldeploy.tuning.batches import LABELS
from tldeploy.tuning.device import device
from tldeploy.tuning.features import answered, predict_logits
from tldeploy.tuning.job import Job, Tuned
from tldeploy.tuning.training import cross_entropy

RATE_SHARE = 0.5  # of tune.learning_rate: the network is trained already
TEACHER_DECAY = 0.99  # a step; less where there are few
AVERAGED = 1 / 3  # of all steps at most
MEAN_DECAY = 0.98  # a batch
SHARPEN = 2.0  # the exponent of answers: a temperature of one half


def self_training(job: Job, target: Examples, start: Tuned, shares: Scores | None) -> Tuned:
    """The teacher after tune.epochs over the target rows. start: tuned on the source. shares: of classes, if known."""
    settings, source = job.settings, job.train
    student = copy.deepcopy(start.network)
    if isinstance(student, TextNetwork):
        student.backbone.get_input_embeddings().requires_grad_(False)
    student.to(device())
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    answers = softmax(predict_logits(student, target, "what the teacher says first"), axis=1)
    mean = torch.from_numpy(answers.mean(axis=0)).to(device())
    wanted = None if shares is None else torch.from_numpy(shares.astype(np.float32)).to(device())
    classes = torch.from_numpy(source.classes).to(device())
    supervised = cross_entropy(source.classes, len(job.task.labels), settings)
    draw = np.random.default_rng([settings.seed, 1])

    def said(rows: list[int]) -> Tensor:
        nonlocal mean
        with torch.no_grad():
            answers = teacher(**on_device(teacher, target.batch(rows))).softmax(dim=1)
            if wanted is not None:
                mean = MEAN_DECAY * mean + (1 - MEAN_DECAY) * answers.mean(dim=0)
                answers = answers * wanted / mean
            sharp: Tensor = answers**SHARPEN
            return sharp / sharp.sum(dim=1, keepdim=True)

    def loss(of_source: list[int], of_target: list[int], progress: float) -> Tensor:
        soft = said(of_target)
        known = student(**on_device(student, source.examples.batch(of_source)))
        seen = student(**on_device(student, altered(target, of_target, draw, settings)))
        return supervised(known, {LABELS: classes[of_source]}) + nn.functional.cross_entropy(seen, soft)

    steps = steps_of(target, settings)
    decay = teacher_decay(steps)
    details = train_jointly(
        student,
        settings,
        source.examples,
        target,
        steps=steps,
        learning_rate=RATE_SHARE * settings.learning_rate,
        loss=loss,
        what="self-training",
        after_step=lambda: follow(teacher, student, decay),
    )
    return answered(job, teacher.requires_grad_(True), details)


def teacher_decay(steps: int) -> float:
    """Of the moving average of weights, a step."""
    return min(TEACHER_DECAY, 1 - 1 / max(1.0, AVERAGED * steps))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher's weights towards the student's."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for kept, new in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(new)
