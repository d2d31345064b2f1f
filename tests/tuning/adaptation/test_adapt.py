"""Every method on two made-up domains, and what must hold of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from tests.tuning.adaptation.domains import make_job, write_domains
from tldeploy import artifacts, pipeline
from tldeploy.backbones.network import Network
from tldeploy.data.target import Target
from tldeploy.errors import RecipeError
from tldeploy.recipe import Adapt
from tldeploy.tasks.calibration import fit_temperature
from tldeploy.tuning.adaptation.adapt import CLASS_SHARES, ORACLE, Adapted, adapt, distance
from tldeploy.tuning.adaptation.aligning import aligning
from tldeploy.tuning.adaptation.noisy_student import noisy_student
from tldeploy.tuning.adaptation.prior import align_offsets
from tldeploy.tuning.adaptation.self_training import self_training
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.fine_tuning import fine_tuning
from tldeploy.tuning.job import Job, Tuned


class Start:
    """A job of two domains, and the network tuned on its source."""

    def __init__(self, job: Job, target: Target, settings: Adapt) -> None:
        self.job, self.target, self.settings = job, target, settings
        self.source = fine_tuning(job)
        self.examples = job.task.examples(target.unlabelled)

    def adapt(self, target: Target | None = None, job: Job | None = None, **changes: object) -> Adapted:
        settings = self.settings.model_copy(update=changes)
        return adapt(settings, job or self.job, target or self.target, "fine-tuning", self.source)

    def shortly(self) -> Job:
        """The job with a single epoch."""
        return replace(self.job, settings=self.job.settings.model_copy(update={"epochs": 1}))

    def figure(self, tuned: Tuned) -> float:
        task = self.job.task
        return task.measure(self.job.test.classes, task.decode(tuned.test)).value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("domains") / "moved")


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    recipe, job, target = make_job(folder, tmp_path_factory.mktemp("scratch"))
    assert recipe.adapt is not None
    return Start(job, target, recipe.adapt)


@pytest.fixture(scope="module")
def adapted(start: Start) -> Adapted:
    return start.adapt()


@pytest.fixture(scope="module")
def coral(start: Start) -> Tuned:
    return aligning(start.shortly(), start.examples, "coral")


def weights(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_self_training_finds_out_what_the_target_calls_things(start: Start, adapted: Adapted) -> None:
    own, moved = start.figure(start.source), adapted.figures["self-training"]["test"]["value"]
    assert moved > own + 0.05
    assert adapted.figures[ORACLE]["test"]["value"] > moved


def test_the_label_free_choice_is_what_is_kept(start: Start, adapted: Adapted) -> None:
    scores = {name: found["score"] for name, found in adapted.figures.items() if "score" in found}
    assert list(scores) == ["fine-tuning", CLASS_SHARES, "self-training"]
    assert adapted.name == max(scores, key=lambda name: scores[name])
    choice = adapted.decisions[-1]
    assert (choice.about, choice.value) == ("method", adapted.name)
    assert all(f"{name} {score:.4f}" in choice.reason for name, score in scores.items())


def density(probabilities: NDArray[np.floating]) -> float:
    unit = probabilities / np.linalg.norm(probabilities, axis=1, keepdims=True)
    similar = unit @ unit.T / 0.05
    np.fill_diagonal(similar, -np.inf)
    return float(entropy(softmax(similar, axis=1), axis=1).mean())


@pytest.mark.parametrize(
    ("choose_by", "by_hand"),
    [
        ("entropy", lambda probabilities: -entropy(probabilities, axis=1).mean()),
        ("soft-neighbourhood-density", density),
    ],
)
def test_the_best_by_another_figure_is_kept(
    start: Start, coral: Tuned, choose_by: str, by_hand: Callable[[NDArray[np.floating]], float]
) -> None:
    """Figures are of answers with the source's class shares, at the temperature that suits the source's validation."""
    found = start.adapt(replace(start.target, oracle=None), start.shortly(), methods=["coral"], choose_by=choose_by)
    shares = np.bincount(start.job.train.classes) / len(start.job.train.classes)
    expected = {}
    for name, tuned in (("fine-tuning", start.source), (CLASS_SHARES, start.source), ("coral", coral)):
        said = predict_logits(tuned.network, start.examples, "target")
        temperature = fit_temperature(tuned.validation, start.job.validation.classes)
        expected[name] = by_hand(softmax((said + align_offsets(said, shares)) / temperature, axis=1))
    assert {name: figures["score"] for name, figures in found.figures.items()} == pytest.approx(expected, rel=1e-4)
    assert found.name == max([CLASS_SHARES, "coral"], key=lambda name: expected[name])
    assert found.decisions[-1].value == found.name
    assert found.decisions[-1].reason.startswith(f"best {choose_by} of its answers on 200 unlabelled target rows: ")


def test_the_kept_network_is_the_one_whose_answers_were_measured(start: Start, adapted: Adapted) -> None:
    answers = predict_logits(adapted.kept.network, start.job.test.examples, "test")
    np.testing.assert_allclose(answers, adapted.kept.test, atol=1e-4)


def test_answers_get_the_class_shares_of_the_source(start: Start, adapted: Adapted) -> None:
    answers = softmax(predict_logits(adapted.kept.network, start.examples, "target"), axis=1)
    shares = np.bincount(start.job.train.classes) / len(start.job.train.classes)
    np.testing.assert_allclose(answers.mean(axis=0), shares, atol=1e-4)


def test_with_unknown_class_shares_answers_stay_as_they_are(start: Start) -> None:
    found = start.adapt(replace(start.target, oracle=None), methods=[], shares="unknown")
    assert list(found.figures) == ["fine-tuning"]
    assert weights(found.kept.network) == weights(start.source.network)


def test_labels_of_the_target_change_no_candidate_and_no_choice(start: Start, adapted: Adapted) -> None:
    """They are shuffled, for the held-out rows and for those learnt from."""
    draw = np.random.default_rng(0)
    target, job = start.target, start.job
    assert target.test is not None
    assert target.oracle is not None
    shuffled = replace(
        target,
        test=replace(target.test, classes=draw.permutation(target.test.classes)),
        oracle=replace(target.oracle, classes=draw.permutation(target.oracle.classes)),
    )
    again = start.adapt(shuffled, replace(job, test=job.test._replace(classes=draw.permutation(job.test.classes))))
    assert adapted.name == "self-training"
    assert weights(again.kept.network) == weights(adapted.kept.network)
    assert again.decisions == adapted.decisions
    for name in (CLASS_SHARES, "self-training"):
        assert again.figures[name]["score"] == adapted.figures[name]["score"]
    assert again.figures[ORACLE]["test"]["value"] < adapted.figures[ORACLE]["test"]["value"] - 0.2


@pytest.mark.parametrize(
    "method",
    [
        lambda job, start: aligning(job, start.examples, "coral"),
        lambda job, start: aligning(job, start.examples, "mmd"),
        lambda job, start: aligning(job, start.examples, "dann"),
        lambda job, start: self_training(job, start.examples, start.source, None),
        lambda job, start: noisy_student(job, start.examples, start.source, None),
    ],
    ids=["coral", "mmd", "dann", "self-training", "noisy-student"],
)
def test_a_method_is_decided_by_its_seed(start: Start, method: Callable[[Job, Start], Tuned]) -> None:
    job = start.shortly()
    before = weights(start.source.network), weights(job.network)
    first = method(job, start)
    assert weights(method(job, start).network) == weights(first.network)
    other = replace(job, settings=job.settings.model_copy(update={"seed": 1}))
    assert weights(method(other, start).network) != weights(first.network)
    assert (weights(start.source.network), weights(job.network)) == before
    assert not first.network.training
    assert np.isfinite(first.test).all()


def test_a_noisy_student_learns_what_its_teacher_says(start: Start, adapted: Adapted) -> None:
    longer = replace(start.job, settings=start.job.settings.model_copy(update={"epochs": 15}))
    student = noisy_student(longer, start.examples, adapted.kept, None)
    said, learnt = (predict_logits(found.network, start.examples, "target") for found in (adapted.kept, student))
    assert (said.argmax(axis=1) == learnt.argmax(axis=1)).mean() > 0.8
    assert start.figure(student) > start.figure(start.source)


def test_an_impossible_method_is_named_and_the_others_go_on(start: Start) -> None:
    found = start.adapt(replace(start.target, oracle=None), start.shortly(), methods=["adabn", "pretraining", "coral"])
    *impossible, _ = found.decisions
    assert [(choice.about, choice.value) for choice in impossible] == [
        ("adabn", "not possible"),
        ("pretraining", "not possible"),
    ]
    assert "batch norm" in impossible[0].reason
    assert "the tokenizer has no mask token" in impossible[1].reason
    assert list(found.figures) == ["fine-tuning", CLASS_SHARES, "coral"]


def test_a_mistake_in_the_recipe_is_no_impossible_method(start: Start) -> None:
    settings = start.job.settings.model_copy(update={"freeze": ["layer 7"]})
    with pytest.raises(RecipeError, match="layer 7"):
        start.adapt(replace(start.target, oracle=None), replace(start.job, settings=settings), methods=["coral"])


def test_domains_that_share_no_fillers_are_told_apart(start: Start) -> None:
    found = distance(start.job, start.target)
    assert found.value > 1.5
    assert "tells the domains apart almost always" in found.reason


def test_the_stage_keeps_the_choice_and_holds_target_rows_out(folder: Path) -> None:
    outcome = pipeline.tune(folder)
    manifest = artifacts.load(outcome.folder, "tune")
    held_out = [line for line in (outcome.folder / "test.jsonl").read_text(encoding="utf-8").splitlines() if line]
    assert len(held_out) == 200
    scores = {name: found["score"] for name, found in manifest.metrics.items() if "score" in found}
    assert manifest.details["kept"] == max(scores, key=lambda name: scores[name])
    decided = {choice.about: choice.value for choice in manifest.decisions}
    assert decided["held-out rows"] == "target"
    assert [about for about in decided if about.startswith("target: ")] == [
        *("target: duplicates", "target: leaks into the held-out rows")
    ]
    assert decided["source-only"] == "fine-tuning"
    assert decided["method"] == manifest.details["kept"]
    assert pipeline.tune(folder).skipped
