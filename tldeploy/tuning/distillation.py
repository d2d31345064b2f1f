"""Distillation: a smaller student learns from a tuned teacher's probabilities as well as from the labels.

1. The teacher is another model's tuned artifact. Its logits for the training rows are computed once, from the rows as
   its own task encodes them, and kept in the cache.
2. The student is the job's backbone with some of its layers, evenly taken (`keep_layers`).
3. It is trained like fine-tuning, on `distillation_loss`.

Sources: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531; the layers taken as in
Sanh et al., DistilBERT, 2019, arXiv 1910.01108.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.backbones.network import Network, load_network
from tldeploy.errors import RecipeError, storage_errors
from tldeploy.recipe import Distillation
from tldeploy.tasks import load_task
from tldeploy.tuning.device import device
from tldeploy.tuning.features import predict_logits
from tldeploy.tuning.fine_tuning import Loss, learn, measured
from tldeploy.tuning.job import Job, Logits, Tuned
from tldeploy.tuning.training import cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TUNED = "tuned"


def distillation(job: Job) -> Tuned:
    """The method. Raises what `make_student` raises."""
    settings, folder, manifest, student, kept = make_student(job)
    hard = cross_entropy(job.train.classes, len(job.task.labels), job.settings)
    loss = distillation_loss(teacher_logits(folder, manifest, job), settings.temperature, settings.weight, hard)
    trained = learn(job, student, "distillation", loss=loss, teacher=manifest.sha256)
    details = {"teacher": manifest.name, "teacher_sha256": manifest.sha256, "layers_kept": kept}
    return measured(job, student, trained, details)


class Student(NamedTuple):
    """The network before it learns, the numbers of the layers that it keeps if it keeps not all, and its teacher's."""

    settings: Distillation
    folder: Path
    manifest: Manifest
    network: Network
    layers: list[int]


def make_student(job: Job) -> Student:
    """Raises RecipeError when the teacher answers another question, or layers cannot be taken out.

    Raises ArtifactError when the teacher is not tuned yet, or damaged.
    """
    settings = job.settings.distillation
    if settings is None:
        raise RecipeError("distil", "the recipe has no tune.distillation", "add it, with its teacher")
    folder = job.folder / settings.teacher / TUNED
    manifest = artifacts.load(folder, "tune")
    check_teacher(manifest, job)
    student = job.network.fresh_copy(job.settings.seed)
    kept = keep_layers(student.backbone, settings.layers) if settings.layers else []
    return Student(settings, folder, manifest, student, kept)


def check_teacher(manifest: Manifest, job: Job) -> None:
    """Raises RecipeError when the teacher has another task or other classes than the job."""
    asked, fix = f"learn from the teacher {manifest.name}", "set tune.distillation.teacher to a model of the same task"
    if manifest.task != job.task.name:
        raise RecipeError(asked, f"its task is {manifest.task}, this recipe's {job.task.name}", fix)
    if set(manifest.labels) != set(job.task.labels):
        found = f"its labels are {', '.join(manifest.labels)}; this recipe's are {', '.join(job.task.labels)}"
        raise RecipeError(asked, found, f"{fix} and labels")


def teacher_logits(folder: Path, manifest: Manifest, job: Job) -> Logits:
    """The teacher's logits for the job's training rows, float32 [rows, classes], in the order of the job's classes."""
    task = load_task(manifest.task, folder, manifest.labels)
    examples = task.examples(job.rows, job.cache)
    file = job.cache / f"teacher-{fingerprint([manifest.sha256, examples.key])[:32]}.npy"
    if not file.exists():
        teacher = load_network(folder).to(device())
        found = predict_logits(teacher, examples, "the teacher's predictions of training rows")
        with storage_errors(job.cache):
            job.cache.mkdir(parents=True, exist_ok=True)
            with (beside := file.with_suffix(f".writing-{os.getpid()}")).open("wb") as stream:  # ranks run side by side
                np.save(stream, found, allow_pickle=False)
            beside.replace(file)
    stored: Logits = np.load(file, allow_pickle=False)
    return stored[:, [manifest.labels.index(label) for label in job.task.labels]]


def keep_layers(backbone: PreTrainedModel, layers: int) -> list[int]:
    """Take layers out of an encoder, in place, so that so many stay; the numbers of those that stay.

    The first and the last stay, and between them layers at even distances: 0, 2, 4, 7, 9, 11 of twelve, as DistilBERT.
    Raises RecipeError when it has fewer, or is no stack of layers that are all alike.
    """
    asked, family = f"keep {layers} layers of the backbone", backbone.config.model_type
    fix = "leave tune.distillation.layers out, or use an encoder like BERT"
    number = getattr(backbone.config, "num_hidden_layers", None)
    stacks = [name for name, module in backbone.named_modules() if _is_stack(module, number)]
    if len(stacks) != 1:
        raise RecipeError(asked, f"a {family} is not one stack of layers that are all alike", fix)
    place, _, name = stacks[0].rpartition(".")
    parent = backbone.get_submodule(place)
    stack = list(parent.get_submodule(name).children())
    if len(stack) < layers:
        raise RecipeError(asked, f"it has {len(stack)}", f"set tune.distillation.layers to {len(stack)} or less")
    kept: list[int] = np.linspace(0, len(stack) - 1, layers).round().astype(int).tolist()
    setattr(parent, name, nn.ModuleList(stack[layer] for layer in kept))
    backbone.config.num_hidden_layers = layers
    if not _follows_from_config(backbone):
        raise RecipeError(asked, f"the config of a {family} does not say how many layers its stack has", fix)
    return kept


def _is_stack(module: nn.Module, layers: int | None) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) != layers:
        return False
    shapes = [_shapes(layer) for layer in module]
    return bool(shapes[0]) and all(shape == shapes[0] for shape in shapes)


def _follows_from_config(backbone: PreTrainedModel) -> bool:
    """Whether the saved config makes a network of the same tensors, as loading needs."""
    from transformers import AutoModel

    try:
        config = type(backbone.config).from_dict(backbone.config.to_dict())
        with torch.device("meta"):
            rebuilt = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 — every architecture checks its config in its own way
        return False
    if getattr(backbone, "pooler", None) is None:  # left out where the checkpoint had none
        rebuilt.pooler = None
    return _shapes(rebuilt) == _shapes(backbone)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def distillation_loss(teacher: Logits, temperature: float, weight: float, hard: Loss) -> Loss:
    """weight * T² * KL(teacher || student) + (1 - weight) * hard, both means over the rows of a batch.

    hard: the loss of the labels.

    teacher: float32 [rows, classes]. Probabilities are of logits divided by the temperature T; T² keeps the gradients
    of both terms at the same scale, whatever T is.
    """
    wanted = torch.log_softmax(torch.from_numpy(teacher) / temperature, dim=-1)

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        found = torch.log_softmax(logits / temperature, dim=-1)
        target = wanted[batch["rows"].cpu()].to(found.device)
        soft = nn.functional.kl_div(found, target, reduction="batchmean", log_target=True) * temperature**2
        return weight * soft + (1 - weight) * hard(logits, batch)

    return loss
