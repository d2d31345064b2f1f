"""A noisy student: a fresh network learns what an adapted one says of the target rows, from altered ones.

1. The teacher is the best candidate so far, by the label-free score. It answers the unlabelled target rows once; its
   answers are sharpened, and stay as they are.
2. The student starts from the pretrained weights under a new head, not from the teacher's: so it does not inherit what
   the teacher's first rounds, on the source alone, got wrong. Each step it learns a batch of labelled source rows and
   one of target rows with words dropped, or augmented images. A moving average of its weights is the result.
3. It is the teacher of the next round.

Source: Xie et al., Self-training with Noisy Student improves ImageNet classification, CVPR 2020.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from tldeploy.backbones.network import Network, TextNetwork
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.metrics import Scores
from tldeploy.tuning.adaptation.joint import on_device, steps_of, train_jointly
from tldeploy.tuning.adaptation.prior import align_offsets
from tldeploy.tuning.adaptation.self_training import SHARPEN, follow, teacher_decay
from tldeploy.tuning.adaptation.views import altered
from tldeploy.tuning.batches import LABELS
from tldeploy.tuning.device import device
from tldeploy.tuning.features import answered, predict_logits
from tldeploy.tuning.job import Job, Logits, Tuned
from tldeploy.tuning.training import cross_entropy

WORD_DROP = 0.3
ROUNDS = 2  # three in the paper; each costs as much as the first


def noisy_student(job: Job, target: Examples, teacher: Tuned, shares: Scores | None) -> Tuned:
    """The averaged student of the last of ROUNDS, each of tune.epochs over the target rows.

    teacher: of the first round; its answers are taken as they are. shares: of the target's classes, if known: what the
    answers of a student are moved to before the next one learns them.
    """
    said = predict_logits(teacher.network, target, "what the teacher says")
    averaged, details = _round(job, target, said, 0)
    for number in range(1, ROUNDS):
        said = predict_logits(averaged, target, "what the student says")
        averaged, details = _round(job, target, said if shares is None else said + align_offsets(said, shares), number)
    return answered(job, averaged.requires_grad_(True), details)


def _round(job: Job, target: Examples, said: Logits | Scores, number: int) -> tuple[Network, dict[str, Any]]:
    settings, source = job.settings, job.train
    student = job.network.fresh_copy(settings.seed)
    student.to(device())
    if isinstance(student, TextNetwork):
        student.backbone.get_input_embeddings().requires_grad_(False)
    averaged = copy.deepcopy(student).eval().requires_grad_(False)
    soft = torch.from_numpy(softmax(SHARPEN * said, axis=1).astype(np.float32)).to(device())
    classes = torch.from_numpy(source.classes).to(device())
    supervised = cross_entropy(source.classes, len(job.task.labels), settings)
    draw = np.random.default_rng([settings.seed, 3, number])

    def loss(of_source: list[int], of_target: list[int], progress: float) -> Tensor:
        known = student(**on_device(student, source.examples.batch(of_source)))
        views = altered(target, of_target, draw, settings, WORD_DROP)
        seen = student(**on_device(student, views))
        on_source = supervised(known, {LABELS: classes[of_source]})
        return on_source + nn.functional.cross_entropy(seen, soft[of_target])

    steps = steps_of(target, settings)
    decay = teacher_decay(steps)
    details = train_jointly(
        student,
        settings,
        source.examples,
        target,
        steps=steps,
        learning_rate=settings.learning_rate,
        loss=loss,
        what=f"noisy student, round {number + 1} of {ROUNDS}",
        after_step=lambda: follow(averaged, student, decay),
    )
    return averaged, {**details, "rounds": ROUNDS}
