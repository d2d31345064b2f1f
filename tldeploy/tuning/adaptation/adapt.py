"""Adapting to another domain: every method of the recipe's `adapt`, and the one that is kept, chosen without labels.

1. `distance` says, before anything is trained, how far the domains are apart to the backbone.
2. Candidates are the network tuned on the source, as it is and with its answers moved to the class shares of the
   source, and every adaptation; of each adaptation the answers are moved likewise, as its last step.
3. One is kept: the best by `adapt.choose_by`, which sees answers on unlabelled target rows and nothing else. All are
   judged by answers that were moved to the same class shares, or else information maximisation would prefer whoever
   gives each class equally often. So the source's network as it is scores what it does when moved, and gives way to it.
4. Where the target has labels, all are measured on its held-out rows, beside the oracle: the same network tuned on
   target labels. That is for checking only. No candidate and no choice sees a label of the target: methods are given
   a job whose held-out classes are blank, and the oracle's rows are first touched when the choice has been made.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from tldeploy.artifacts import Choice
from tldeploy.data.target import Target
from tldeploy.errors import DataError, IncapableError, QualityError
from tldeploy.progress import say
from tldeploy.recipe import Adapt, Adaptation
from tldeploy.tasks.calibration import fit_temperature
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.metrics import Scores
from tldeploy.tuning.adaptation.adabn import adabn
from tldeploy.tuning.adaptation.aligning import aligning
from tldeploy.tuning.adaptation.choosing import VALIDATORS
from tldeploy.tuning.adaptation.distance import proxy_a_distance
from tldeploy.tuning.adaptation.noisy_student import noisy_student
from tldeploy.tuning.adaptation.pretraining import pretraining
from tldeploy.tuning.adaptation.prior import align_offsets
from tldeploy.tuning.adaptation.self_training import self_training
from tldeploy.tuning.card import IMPOSSIBLE
from tldeploy.tuning.features import extract_features, predict_logits
from tldeploy.tuning.fine_tuning import fine_tuning
from tldeploy.tuning.job import Job, Logits, Part, Subset, Tuned

CLASS_SHARES, ORACLE = "class shares", "oracle"
BLANK = -1
DISTANCE_ROWS = 500  # of each domain


@dataclass(frozen=True)
class Adapted:
    """The network that is kept and its name, what was measured of each candidate by its name, and what was decided.

    figures: validation (source rows), test (held-out rows), score (label-free, of candidates), seconds, and details.
    decisions: the last is about the method.
    """

    name: str
    kept: Tuned
    figures: dict[str, dict[str, Any]]
    decisions: list[Choice]


class _Best:
    """Candidates as they come: their scores, and the network of the best so far alone, for networks are large."""

    def __init__(self, name: str, score: float, tuned: Tuned) -> None:
        self.name, self.tuned, self.scores = name, tuned, {name: score}

    def add(self, name: str, score: float, tuned: Tuned) -> None:
        if score >= self.scores[self.name]:
            self.name, self.tuned = name, tuned
        self.scores[name] = score


def distance(job: Job, target: Target) -> Choice:
    """How far the domains are apart, by the pretrained backbone's features of some training rows and target rows."""
    draw = np.random.default_rng(job.settings.seed)

    def features(examples: Examples, what: str) -> NDArray[np.float32]:
        rows = draw.permutation(len(examples))[:DISTANCE_ROWS].tolist()
        return extract_features(job.network, Subset(examples, tuple(rows)), f"features of {what} rows")

    source = features(job.train.examples, "source")
    found = proxy_a_distance(source, features(_examples(job, target), "target"), job.settings.seed)
    say(f"adapt: the proxy A-distance of the domains is {found.value:.2f} of 2: {found.words}")
    reason = f"proxy A-distance, 0 to 2, [{found.low:.2f}, {found.high:.2f}]: {found.words}"
    return Choice(about="distance of the domains", value=round(found.value, 2), reason=reason)


def adapt(settings: Adapt, job: Job, target: Target, name: str, source: Tuned) -> Adapted:
    """Run the candidates and keep one.

    job: of the source, with the target's held-out rows as its test rows where they have labels. name, source: the
    method of `tune` that did best on the source's validation rows, and what it left. A method that this network cannot
    do is named, and the others go on; a mistake in the recipe is raised.
    """
    examples = _examples(job, target)
    blind = replace(job, test=Part(job.test.examples, np.full_like(job.test.classes, BLANK)))
    counts = np.bincount(job.train.classes, minlength=len(job.task.labels))
    shares = counts / counts.sum() if settings.shares == "source" else None

    def judge(tuned: Tuned) -> tuple[Logits, float]:
        """The offsets of its answers, float32 [classes], 0 where the target's shares are unknown; and its score.

        Every score rewards confidence, and networks differ in how much of theirs is deserved. So each is scored at the
        temperature that suits it on the source's validation rows.
        """
        said = predict_logits(tuned.network, examples, "predict target rows")
        offsets = np.zeros(said.shape[1]) if shares is None else align_offsets(said, shares)
        temperature = fit_temperature(tuned.validation, job.validation.classes)
        return offsets.astype(np.float32), VALIDATORS[settings.choose_by](
            softmax((said + offsets) / temperature, axis=1)
        )

    offsets, score = judge(source)
    best = _Best(name, score, source)
    figures: dict[str, dict[str, Any]] = {name: {"score": best.scores[name]}}
    impossible = []
    if shares is not None:
        best.add(CLASS_SHARES, score, moved := _moved(source, offsets))
        figures[CLASS_SHARES] = _figures(job, moved, time.monotonic()) | {"score": score}
    for method in settings.methods:
        start, teacher = time.monotonic(), best.name
        try:
            found = _run(method, blind, examples, source, best.tuned, shares)
            offsets, score = judge(found)
        except (IncapableError, QualityError, DataError) as error:  # it diverged, in the last two
            say(f"adapt: {method} is not possible: {error.found}")
            impossible.append(Choice(about=method, value=IMPOSSIBLE, reason=error.found))
            continue
        found = _moved(found, offsets)
        best.add(method, score, found)
        figures[method] = _figures(job, found, start) | {"score": score}
        if method == "noisy-student":
            figures[method]["teacher"] = teacher
    table = ", ".join(f"{method} {value:.4f}" for method, value in best.scores.items())
    reason = f"best {settings.choose_by} of its answers on {len(examples)} unlabelled target rows: {table}"
    choice = Choice(about="method", value=best.name, reason=reason)
    if target.oracle is not None:
        start = time.monotonic()
        oracle = fine_tuning(replace(job, train=Part(examples, target.oracle.classes)))
        figures[ORACLE] = _figures(job, oracle, start)
    return Adapted(best.name, best.tuned, figures, [*impossible, choice])


def about_target(target: Target) -> Choice:
    """What the held-out figures are of."""
    if target.test is None:
        where, reason = "source", "the target has no labels, so nothing is known of how right answers are there"
    else:
        where = "target"
        reason = f"{len(target.test)} labelled target rows, which no method and no choice has seen"
    return Choice(about="held-out rows", value=where, reason=reason)


def _examples(job: Job, target: Target) -> Examples:
    return job.task.examples(target.unlabelled, job.cache)


def _run(method: Adaptation, job: Job, target: Examples, source: Tuned, best: Tuned, shares: Scores | None) -> Tuned:
    """best: of the candidates so far."""
    match method:
        case "noisy-student":
            return noisy_student(job, target, best, shares)
        case "self-training":
            return self_training(job, target, source, shares)
        case "pretraining":
            return pretraining(job, target)
        case "adabn":
            return adabn(job, target, source)
        case "coral" | "mmd" | "dann":
            return aligning(job, target, method)


def _moved(found: Tuned, offsets: Logits) -> Tuned:
    """A copy with offsets in its head's bias, and its answers with them."""
    network = copy.deepcopy(found.network)
    with torch.no_grad():
        network.head.bias.add_(torch.from_numpy(offsets).to(network.head.bias.device))
    return replace(found, network=network, validation=found.validation + offsets, test=found.test + offsets)


def _figures(job: Job, found: Tuned, start: float) -> dict[str, Any]:
    parts = {"validation": (job.validation, found.validation), "test": (job.test, found.test)}
    measured = {
        name: job.task.measure(part.classes, job.task.decode(logits)).as_json()
        for name, (part, logits) in parts.items()
    }
    return {**measured, "seconds": round(time.monotonic() - start, 1), **found.details}
