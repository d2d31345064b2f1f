"""A noisy student: a fresh network learns what an adapted one says of the target rows, from altered ones.

1. The teacher is the best candidate so far, by the label-free score. It answers the unlabelled target rows once; its
   answers are sharpened, and stay as they are.
2. The student starts from the pretrained weights under a new head, not from the teacher's: so it does not inherit what
   the teacher's first rounds, on the source alone, got wrong. Each step it learns a batch of labelled source rows and
   one of target rows with words dropped, or augmented images. A moving average of its weights is the result.

Source: Xie et al., Self-training with Noisy Student improves ImageNet classification, CVPR 2020.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from tldeploy.backbones.network import TextNetwork
from tldeploy.tasks.classification import Examples
from tldeploy.tuning.adaptation.joint import on_device, steps_of, train_jointly
from tldeploy.tuning.adaptation.self_training import SHARPEN, follow, teacher_decay, tuned
from tldeploy.tuning.adaptation.views import altered
from tldeploy.tuning.batches import LABELS
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.job import Job, Tuned
from tldeploy.tuning.training import cross_entropy

WORD_DROP = 0.3


def noisy_student(job: Job, target: Examples, teacher: Tuned) -> Tuned:
    """The averaged student after tune.epochs over the target rows, at the rate of tune.learning_rate."""
    settings, source = job.settings, job.train
    said = predict_logits(teacher.network, target, "what the teacher says")
    student = job.network.fresh_copy(settings.seed)
    student.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(student, TextNetwork):
        student.backbone.get_input_embeddings().requires_grad_(False)
    averaged = copy.deepcopy(student).eval().requires_grad_(False)
    device = next(student.parameters()).device
    soft = torch.from_numpy(softmax(SHARPEN * said, axis=1)).to(device)
    classes = torch.from_numpy(source.classes).to(device)
    supervised = cross_entropy(source.classes, len(job.task.labels), settings)
    draw = np.random.default_rng([settings.seed, 3])

    def loss(of_source: list[int], of_target: list[int], progress: float) -> Tensor:
        known = student(**on_device(student, source.examples.batch(of_source)))
        views = altered(target, of_target, draw, settings.augmentation, WORD_DROP)
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
        what="noisy student",
        after_step=lambda: follow(averaged, student, decay),
    )
    return tuned(job, averaged.requires_grad_(True), details)
