"""Few-shot: a handful of rows a class becomes many pairs, from which the backbone learns which rows belong together.

1. `draw_pairs` pairs each row with others of its class, and with as many rows of other classes.
2. `learn_from_pairs` brings the cosine of a pair's features to 1 where the classes are the same, to 0 where not.
3. A linear head is fitted on the features that came out of it, as in feature extraction.

Source: Tunstall et al., Efficient Few-Shot Learning Without Prompts (SetFit), 2022, arXiv 2209.11055.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import get_linear_schedule_with_warmup

from tldeploy.backbones.network import Network
from tldeploy.errors import DataError, QualityError
from tldeploy.progress import progress
from tldeploy.recipe import Tune
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.metrics import Classes
from tldeploy.tuning.device import device
from tldeploy.tuning.features import answered, extract_features, fit_head
from tldeploy.tuning.job import Job, Part, Subset, Tuned

Losses = list[tuple[float, float]]


def few_shot(job: Job) -> Tuned:
    """The method. Raises DataError when a class has fewer rows than rows_per_class, or than two."""
    settings = job.settings
    part = draw_rows(job.train, settings.few_shot.rows_per_class, job.task.labels, settings.seed)
    pairs = draw_pairs(part.classes, settings.few_shot.pairs, settings.seed)
    network = job.network.fresh_copy(settings.seed)
    losses = learn_from_pairs(network, part.examples, pairs, settings)
    features = extract_features(network, part.examples, "features of the few rows")
    inverse_regularisation = fit_head(network, features, part.classes, settings.seed)
    details = {"rows": len(part.classes), "pairs": len(pairs.same), "inverse_regularisation": inverse_regularisation}
    return answered(job, network, details, {"pair loss": losses})


def draw_rows(part: Part, rows_per_class: int | None, labels: Sequence[str], seed: int) -> Part:
    """So many rows of each class, in the order of the part; all rows if rows_per_class is None.

    Raises DataError when a class has fewer.
    """
    least = rows_per_class or 2
    counts = np.bincount(part.classes, minlength=len(labels))
    few = [f"{label!r} ({count})" for label, count in zip(labels, counts.tolist(), strict=True) if count < least]
    if few:
        asked = f"learn from {least} rows of each class"
        fix = "lower tune.few_shot.rows_per_class, label more rows, or merge classes"
        raise DataError(asked, f"classes with fewer training rows: {', '.join(few)}", fix)
    if rows_per_class is None:
        return part
    draw = np.random.default_rng(seed)
    members = [np.flatnonzero(part.classes == one) for one in range(len(labels))]
    rows = np.sort(np.concatenate([draw.choice(own, rows_per_class, replace=False) for own in members]))
    return Part(Subset(part.examples, tuple(rows.tolist())), part.classes[rows])


class Pairs(NamedTuple):
    """Indexes of two rows, int64 [pairs] each, and whether they are of the same class, bool [pairs]."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def draw_pairs(classes: Classes, each: int, seed: int) -> Pairs:
    """For each row `each` pairs with other rows of its class, and as many with rows of other classes.

    classes: int64 [rows], two or more classes of two rows or more. Rows are drawn with replacement.
    """
    draw = np.random.default_rng(seed)
    every = np.arange(len(classes))
    alike, unlike = [], []
    for row, own in enumerate(classes):
        alike.append(draw.choice(every[(classes == own) & (every != row)], each))
        unlike.append(draw.choice(every[classes != own], each))
    second = np.concatenate([*alike, *unlike])
    first = np.tile(np.repeat(every, each), 2)
    return Pairs(first, second, classes[first] == classes[second])


def learn_from_pairs(network: Network, examples: Examples, pairs: Pairs, settings: Tune) -> Losses:
    """Train the backbone in place; the loss of each step. A row that a batch has in many pairs passes once.

    Raises QualityError when the weights stop being finite.
    """
    chosen, size = settings.few_shot, settings.batch_size
    backbone = network.to(device()).backbone
    steps = -(-len(pairs.same) // size) * chosen.epochs
    optimizer = torch.optim.AdamW(
        backbone.parameters(), lr=chosen.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    warmup = round(settings.warmup * steps)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-untyped-call]
    draw = np.random.default_rng(settings.seed)
    losses: Losses = []
    with torch.random.fork_rng(devices=[]), progress("learning from pairs", steps) as advance:
        torch.manual_seed(settings.seed)
        _to_training(network, settings)
        for _ in range(chosen.epochs):
            order = draw.permutation(len(pairs.same))
            for start in range(0, len(order), size):
                taken = order[start : start + size]
                rows, places = np.unique(np.stack([pairs.first[taken], pairs.second[taken]]), return_inverse=True)
                batch = examples.batch(rows.tolist())
                inputs = {name: torch.from_numpy(values).to(device()) for name, values in batch.items()}
                vectors = network.features(**inputs)
                first, second = vectors[torch.from_numpy(places.reshape(2, -1)).to(device())]
                wanted = torch.from_numpy(pairs.same[taken]).to(vectors)
                loss = nn.functional.mse_loss(nn.functional.cosine_similarity(first, second), wanted)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append((float(len(losses) + 1), loss.item()))
                advance(1)
    network.eval()
    if not all(bool(torch.isfinite(weight).all()) for weight in network.parameters()):
        found = "training diverged: the weights are no longer finite"
        raise QualityError("learn from pairs", found, "lower tune.few_shot.learning_rate")
    return losses


def _to_training(network: Network, settings: Tune) -> None:
    network.train()
    if settings.batch_norm == "frozen":
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
