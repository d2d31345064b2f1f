from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from tests.backbones import families
from tests.tuning.job import make_job, write_text_recipe
from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.backbones.checkpoints import load_weights
from tldeploy.backbones.network import load_network
from tldeploy.errors import ArtifactError, RecipeError
from tldeploy.recipe import Tune
from tldeploy.tuning.distillation import (
    check_teacher,
    distillation,
    distillation_loss,
    keep_layers,
    teacher_logits,
)
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.fine_tuning import fine_tuning
from tldeploy.tuning.job import Job
from tldeploy.tuning.training import cross_entropy

LABELS = ["negative", "neutral", "positive"]
PLAIN = {"teacher": "../teacher", "layers": 1, "temperature": 2.0, "weight": 1.0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model of two layers, as the tune stage leaves one: its labels in another order than the student's."""
    folder = write_text_recipe(tmp_path_factory.mktemp("models") / "teacher")
    job = make_job(folder, epochs=15)
    found = fine_tuning(job)
    turned = [2, 0, 1]
    with torch.no_grad():
        found.network.head.weight.copy_(found.network.head.weight[turned])
        found.network.head.bias.copy_(found.network.head.bias[turned])
    with artifacts.writing(folder / "tuned") as new:
        found.network.save(new)
        job.task.save(new)
        labels = [LABELS[number] for number in turned]
        artifacts.seal(new, Manifest(kind="tune", name="big", inputs="", task="text-classification", labels=labels))
    return folder


@pytest.fixture(scope="module")
def job(teacher: Path) -> Job:
    folder = write_text_recipe(teacher.parent / "student")
    return make_job(folder, epochs=25, distillation=PLAIN)


def manifest_of(teacher: Path) -> Manifest:
    return artifacts.load(teacher / "tuned", "tune")


def test_the_loss_is_what_the_paper_says() -> None:
    draw = torch.Generator().manual_seed(0)
    student, taught = torch.randn(4, 3, generator=draw), torch.randn(9, 3, generator=draw)
    rows, labels = torch.tensor([7, 0, 3, 3]), torch.tensor([0, 1, 2, 1])
    p, q = torch.softmax(taught[rows] / 3, dim=1), torch.softmax(student / 3, dim=1)
    divergence = float((p * (p / q).log()).sum(dim=1).mean())
    entropy = float(-torch.log_softmax(student, dim=1)[range(4), labels].mean())
    hard = cross_entropy(labels.numpy(), 3, Tune())
    found = distillation_loss(taught.numpy(), 3, 0.7, hard)(student, {"labels": labels, "rows": rows})
    assert float(found) == pytest.approx(0.7 * 9 * divergence + 0.3 * entropy, rel=1e-5)
    same = distillation_loss(taught.numpy(), 3, 1.0, hard)(taught[rows], {"labels": labels, "rows": rows})
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_rare_classes_weigh_more_for_a_student_too() -> None:
    classes, logits = np.array([0, 0, 0, 1]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    hard = cross_entropy(classes, 2, Tune(class_weights=True))
    loss = distillation_loss(logits.numpy(), 1, 0.0, hard)
    each = [float(loss(logits[:1], {"labels": torch.tensor([label]), "rows": torch.tensor([0])})) for label in (0, 1)]
    plain = [float(-torch.log_softmax(logits[0], 0)[label]) for label in (0, 1)]
    assert each == pytest.approx([plain[0] * 2 / 3, plain[1] * 2])


def test_the_teacher_answers_in_the_order_of_the_students_classes(teacher: Path, job: Job) -> None:
    found = teacher_logits(teacher / "tuned", manifest_of(teacher), job)
    assert (found.argmax(axis=1) == job.train.classes).mean() > 0.9


def test_the_teacher_answers_once(teacher: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    found = teacher_logits(teacher / "tuned", manifest_of(teacher), job)
    runs: list[object] = []
    original = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda *given, **named: runs.append(given) or original(*given, **named))
    np.testing.assert_array_equal(teacher_logits(teacher / "tuned", manifest_of(teacher), job), found)
    assert not runs
    fewer = replace(job, rows=job.rows[:5])
    np.testing.assert_allclose(teacher_logits(teacher / "tuned", manifest_of(teacher), fewer), found[:5], atol=1e-5)
    assert runs


def test_the_teacher_reads_rows_as_its_own_task_encodes_them(teacher: Path, job: Job) -> None:
    """Other ids for the student, here none at all, change nothing for the teacher."""
    without = job.train._replace(examples=job.task.examples([]))
    shutil.rmtree(job.cache, ignore_errors=True)
    found = teacher_logits(teacher / "tuned", manifest_of(teacher), replace(job, train=without))
    network = load_network(teacher / "tuned")
    direct = predict_logits(network, job.task.examples(job.rows), "direct")
    np.testing.assert_allclose(found, direct[:, [1, 2, 0]], atol=1e-5)


def test_a_student_of_fewer_layers_comes_close_to_its_teacher(teacher: Path, job: Job, tmp_path: Path) -> None:
    found = distillation(job)
    wanted = predict_logits(load_network(teacher / "tuned"), job.test.examples, "teacher")[:, [1, 2, 0]]
    assert _distance(found.test, wanted) < _distance(predict_logits(job.network, job.test.examples, "x"), wanted) / 4
    assert (found.test.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9
    assert found.details["layers_kept"] == [0]
    assert found.details["teacher"] == "big"
    found.network.save(tmp_path)
    assert json.loads((tmp_path / "backbone" / "config.json").read_text())["num_hidden_layers"] == 1
    loaded = load_network(tmp_path)
    assert len(loaded.backbone.encoder.layer) == 1
    np.testing.assert_allclose(predict_logits(loaded, job.test.examples, "loaded"), found.test, atol=1e-5)
    assert len(job.network.backbone.encoder.layer) == 2


def _distance(logits: np.ndarray, wanted: np.ndarray) -> float:
    """Mean KL divergence of the probabilities from the teacher's."""
    p, q = (torch.log_softmax(torch.from_numpy(x), dim=1) for x in (wanted, logits))
    return float((p.exp() * (p - q)).sum(dim=1).mean())


@pytest.mark.parametrize(
    ("of", "keep", "kept"), [(12, 6, [0, 2, 4, 7, 9, 11]), (3, 2, [0, 2]), (3, 1, [0]), (2, 2, [0, 1])]
)
def test_layers_are_taken_evenly(of: int, keep: int, kept: list[int]) -> None:
    model = families.make("bert", num_hidden_layers=of)
    layers = list(model.encoder.layer)
    assert keep_layers(model, keep) == kept
    assert list(model.encoder.layer) == [layers[number] for number in kept]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "vit"])
def test_what_is_left_is_saved_and_loaded(family: str, tmp_path: Path) -> None:
    model = families.make(family)
    inputs = families.inputs(model)
    with torch.inference_mode():
        whole = model(**inputs).last_hidden_state
        keep_layers(model, 2)
        left = model(**inputs).last_hidden_state
        model.save_pretrained(tmp_path)
        loaded = load_weights(str(tmp_path), None, "load")(**inputs).last_hidden_state
    torch.testing.assert_close(loaded, left)
    assert float((left - whole).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "family", ["albert", "modernbert", "convnext", "dinov2", "efficientnet", "resnet", "swin", "vgg"]
)
def test_what_is_no_stack_of_equal_layers_keeps_them_all(family: str) -> None:
    with pytest.raises(RecipeError, match="cannot keep 2 layers of the backbone"):
        keep_layers(families.make(family), 2)


def test_more_layers_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(RecipeError, match=r"it has 3\n.*set tune\.distillation\.layers to 3 or less"):
        keep_layers(families.make("bert"), 4)


def test_a_teacher_of_another_question_is_refused(teacher: Path, job: Job) -> None:
    manifest = manifest_of(teacher)
    check_teacher(manifest, job)
    with pytest.raises(RecipeError, match="its labels are no, yes; this recipe's are negative, neutral, positive"):
        check_teacher(manifest.model_copy(update={"labels": ["no", "yes"]}), job)
    with pytest.raises(RecipeError, match="its task is image-classification, this recipe's text-classification"):
        check_teacher(manifest.model_copy(update={"task": "image-classification"}), job)


def test_a_teacher_that_is_not_tuned_yet_is_named(job: Job) -> None:
    absent = make_job(job.folder, distillation=PLAIN | {"teacher": "../nobody"})
    with pytest.raises(ArtifactError, match="nobody/tuned as a tune artifact"):
        distillation(absent)
