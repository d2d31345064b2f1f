"""Accuracy against examples: what pretrained weights are worth, by how many labelled images there are.

1. A head on a network's frozen features, its upper layers, and all of it learn from 10, 50 and 200 images a class; and
   the same network from random weights, for twice as many steps. The seed draws images, head and order.
2. Every run is scored on the same held-out images; transfer.<recipe>.json keeps each answer, so that figures can be
   derived again.
3. The records become a table and a plot, transfer.md and transfer.svg.

.venv/bin/tldeploy fetch models/fashion-resnet50     # and models/fashion-vgg16, once
.venv/bin/python bench/transfer.py bench/results/<machine> [--only fashion-resnet50] [--seeds 0 1 2]

Runs that are recorded already are kept, so it can be stopped and go on later.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures.transfer import METHODS, PER_CLASS, page, plot
from numpy.typing import NDArray

from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import ImageNetwork
from tldeploy.data.rows import number, read_labelled
from tldeploy.recipe import Recipe, Tune
from tldeploy.tasks.image_classification import ImageExamples
from tldeploy.tasks.metrics import weighted_f1
from tldeploy.tuning.features import extract_features, fit_head, head_logits, predict_logits
from tldeploy.tuning.from_scratch import initialised, without_transfer
from tldeploy.tuning.job import Part
from tldeploy.tuning.training import train

ROOT = Path(__file__).parent.parent
BATCH = 16
# Epochs that pretrained weights learn for, by images a class: 98, 192 and 250 steps. From scratch it is twice that.
EPOCHS = {10: 14, 50: 6, 200: 2}
SCRATCH_TIMES = 2


@dataclass(frozen=True)
class Settings:
    """image_size: pixels a side, fewer than in the recipe, so that the sweep ends. frozen: groups of the layer map."""

    image_size: int
    frozen: tuple[str, ...]
    learning_rate: float
    scratch_learning_rate: float


SETTINGS = {
    "fashion-resnet50": Settings(48, ("stem", "layer [0-9]", "layer 1[0-2]"), 3e-4, 1e-3),  # all but the last stage
    "fashion-vgg16": Settings(48, ("layer [0-9]",), 1e-4, 3e-4),  # all but the last block
}


class Subject:
    """One recipe's network, with all images of the recipe encoded at the sweep's size."""

    def __init__(self, name: str) -> None:
        self.settings = SETTINGS[name]
        recipe = Recipe.load(ROOT / "models" / name)
        recipe = recipe.model_copy(
            update={"backbone": recipe.backbone.model_copy(update={"image_size": self.settings.image_size})}
        )
        found = [read_labelled(recipe.data, place, recipe.folder, recipe.task) for place in ("data/train", "data/test")]
        labels = sorted(set(found[0].labels))
        train_rows, test_rows = (number(part, labels) for part in found)
        with tempfile.TemporaryDirectory() as folder:
            network, task = load_pretrained(recipe, labels, Path(folder))
        assert isinstance(network, ImageNetwork)
        self.network = network
        self.train = Part(task.examples(train_rows.inputs), train_rows.classes)
        self.test = Part(task.examples(test_rows.inputs), test_rows.classes)
        self._features: list[NDArray[np.float32]] = []

    def features(self) -> list[NDArray[np.float32]]:
        """Of all training and all test images, by the frozen backbone; computed once."""
        self._features = self._features or [
            extract_features(self.network, part.examples, "features") for part in (self.train, self.test)
        ]
        return self._features

    def draw(self, per_class: int, seed: int) -> NDArray[np.int64]:
        """Training rows; those of 10 a class are among those of 50, and those among those of 200."""
        shuffled = np.random.default_rng(seed).permutation(len(self.train.classes))
        classes = self.train.classes[shuffled]
        return np.concatenate([shuffled[classes == one][:per_class] for one in np.unique(classes)])


def run(subject: Subject, method: str, per_class: int, seed: int) -> dict[str, Any]:
    """One record: what was done, and the answer to each test image."""
    rows = subject.draw(per_class, seed)
    start = time.monotonic()
    if method == "frozen":
        network = subject.network.fresh_copy(seed)
        of_train, of_test = subject.features()
        details: dict[str, Any] = {"C": fit_head(network, of_train[rows], subject.train.classes[rows], seed)}
        logits = head_logits(network, of_test)
    else:
        details, logits = learn(subject, method, per_class, seed, rows)
    answers = logits.argmax(axis=1)
    truth = subject.test.classes
    return {
        "method": method,
        "per_class": per_class,
        "seed": seed,
        "accuracy": float((answers == truth).mean()),
        "weighted_f1": weighted_f1(truth, answers, int(truth.max()) + 1).as_json(),
        "seconds": round(time.monotonic() - start, 1),
        **details,
        "answers": "".join(map(str, answers.tolist())),
    }


def learn(
    subject: Subject, method: str, per_class: int, seed: int, rows: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    settings = subject.settings
    tune = Tune(
        epochs=EPOCHS[per_class],
        learning_rate=settings.learning_rate,
        batch_size=BATCH,
        freeze=list(settings.frozen) if method == "partly frozen" else [],
        augmentation="none",
        precision="bf16",
        seed=seed,
    )
    network = subject.network.fresh_copy(seed)
    if method == "from scratch":
        more = {"epochs": SCRATCH_TIMES * tune.epochs, "learning_rate": settings.scratch_learning_rate}
        tune, network = without_transfer(tune.model_copy(update=more)), initialised(subject.network, seed)
        # Inputs of about unit variance; pretrained weights expect 0 to 255 less a mean.
        rescaled = 1 / 64 / network.get_buffer("scale")
        for name in ("scale", "offset"):
            network.get_buffer(name).mul_(rescaled)
    examples = subject.train.examples
    assert isinstance(examples, ImageExamples)
    part = Part(ImageExamples(examples.pixels[rows], f"{per_class}/{seed}"), subject.train.classes[rows])
    trained = train(network, part, tune, f"{method}, {per_class} a class, seed {seed}")
    details = {
        "epochs": tune.epochs,
        "steps": int(trained.details["steps"]),
        "learning_rate": tune.learning_rate,
        "learnt_parameters": trained.details["trained_parameters"],
    }
    return details, predict_logits(network, subject.test.examples, "answer")


def sweep(file: Path, name: str, seeds: list[int]) -> None:
    records = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []
    done = {(record["method"], record["per_class"], record["seed"]) for record in records}
    subject = Subject(name)
    about = {
        "network": name,
        "image_size": subject.settings.image_size,
        "batch_size": BATCH,
        "precision": "bfloat16 products, float32 weights; answers in float32",
        "threads": torch.get_num_threads(),
        "environment": environment.describe(),
    }
    for seed, per_class, method in itertools.product(seeds, PER_CLASS, METHODS):
        if (method, per_class, seed) not in done:
            records.append(run(subject, method, per_class, seed))
            write_file(file, json.dumps({**about, "records": records}, indent=1) + "\n")
            print(f"{name}, {method}, {per_class}, seed {seed}: {records[-1]['accuracy']:.3f}", file=sys.stderr)


def write_report(out: Path) -> None:
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("transfer.*.json"))]
    write_file(out / "transfer.md", page(reports))
    write_file(out / "transfer.svg", plot(reports))


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy against examples")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else SETTINGS:
        sweep(arguments.out / f"transfer.{name}.json", name, arguments.seeds)
    write_report(arguments.out)


if __name__ == "__main__":
    main()
