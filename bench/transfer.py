"""Accuracy against examples: what pretrained weights are worth, by how many labelled images there are.

1. A head on a network's frozen features, its upper layers, and all of it learn from 10, 50 and 200 images a class; and
   the same network from random weights, for twice as many steps. The seed draws images, head and order.
2. Every run is scored on the same held-out images; transfer.<recipe>.json keeps each answer, so that figures can be
   derived again.
3. The records become a table and a plot, transfer.md and transfer.svg.

.venv/bin/tldeploy fetch models/fashion-resnet50     # and models/fashion-vgg16, once
.venv/bin/python bench/transfer.py bench/results/<machine> [--only fashion-resnet50] [--seeds 0 1 2] [--report]

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
from figures.table import markdown
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
PER_CLASS = (10, 50, 200)
BATCH = 16
# Epochs that pretrained weights learn for, by images a class: 98, 192 and 250 steps. From scratch it is twice that.
EPOCHS = {10: 14, 50: 6, 200: 2}
SCRATCH_TIMES = 2
METHODS = ("frozen", "partly frozen", "fine-tuned", "from scratch")


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


def cells(records: list[dict[str, Any]], method: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """A method's records by images a class, as far as there are any."""
    chosen = [record for record in records if record["method"] == method]
    found = [(per_class, [one for one in chosen if one["per_class"] == per_class]) for per_class in PER_CLASS]
    return [(per_class, some) for per_class, some in found if some]


def table(report: dict[str, Any]) -> str:
    """One row a method and number of images. With one seed the interval is the bootstrap's over test images."""
    rows = []
    for method in METHODS:
        for per_class, some in cells(report["records"], method):
            scores = [one["accuracy"] for one in some]
            f1 = [one["weighted_f1"] for one in some]
            f1_spread = (f1[0]["low"], f1[0]["high"]) if len(some) == 1 else spread([one["value"] for one in f1])
            first = some[0]
            rate = f"{first['learning_rate']:g}" if "learning_rate" in first else "L-BFGS"
            rows.append(
                [
                    method,
                    str(per_class),
                    str(len(some)),
                    f"{np.mean(scores):.3f}" + (f" [{min(scores):.3f}, {max(scores):.3f}]" if len(some) > 1 else ""),
                    f"{np.mean([one['value'] for one in f1]):.3f} [{f1_spread[0]:.3f}, {f1_spread[1]:.3f}]",
                    str(first.get("steps", "")),
                    rate,
                ]
            )
    head = ["what learns", "images a class", "seeds", "accuracy", "weighted F1", "steps", "learning rate"]
    return markdown(head, rows)


def spread(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def written(report: dict[str, Any]) -> str:
    test = len(report["records"][0]["answers"])
    about = (
        f"{report['environment']['cpu']}, {report['threads']} thread; images at {report['image_size']} pixels, batches "
        f"of {report['batch_size']}, no augmentation; {report['precision']}. {test:,} held-out images. Brackets: the "
        "lowest and highest of the seeds; with one seed, for F1, the 95 % bootstrap interval over images. Learning "
        "rates were set beforehand and not searched."
    )
    return f"## {report['network']}\n\n{about}\n\n{table(report)}\n"


COLOURS = {"frozen": "#4f8edb", "partly frozen": "#2f9e6e", "fine-tuned": "#e8833a", "from scratch": "#8b8f98"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 300, 52, 16, 58, 44


def plot(reports: list[dict[str, Any]]) -> str:
    """Accuracy over images a class, one panel a network, as SVG that needs no script; whiskers: the seeds' range."""
    size = f'width="{WIDTH * len(reports)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(reports)} {HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    panels = "".join(panel(report, WIDTH * place) for place, report in enumerate(reports))
    backdrop = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{backdrop}\n{panels}</svg>\n'


def panel(report: dict[str, Any], shift: int) -> str:
    def x(per_class: float) -> float:
        share = np.log(per_class / PER_CLASS[0]) / np.log(PER_CLASS[-1] / PER_CLASS[0])
        return float(LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20))

    def y(accuracy: float) -> float:
        return HEIGHT - BOTTOM - accuracy * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="18" font-weight="600">{report["network"]}: accuracy, held-out images</text>']
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#555">{tick:g}</text>')
    for per_class in PER_CLASS:
        place = f'x="{x(per_class):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text {place} text-anchor="middle" fill="#555">{per_class}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" fill="#555">images a class</text>')
    for place, method in enumerate(METHODS):
        colour, points = COLOURS[method], []
        for per_class, some in cells(report["records"], method):
            scores = [one["accuracy"] for one in some]
            across, up = x(per_class), y(float(np.mean(scores)))
            points.append(f"{across:.1f},{up:.1f}")
            parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}"/>')
            whisker = f"M{across:.1f} {y(min(scores)):.1f}V{y(max(scores)):.1f}"
            parts.append(f'<path d="{whisker}" stroke="{colour}" stroke-width="1.5"/>')
        line = " ".join(points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend = f'x="{LEFT + place * 88}" y="40" fill="{colour}"'
        parts.append(f"<text {legend}>{method}</text>")
    inside = "\n".join(parts)
    return f'<g transform="translate({shift} 0)">\n{inside}\n</g>\n'


def write_report(out: Path) -> None:
    files = [out / f"transfer.{name}.json" for name in SETTINGS]
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    write_file(out / "transfer.md", "\n".join(written(report) for report in reports))
    write_file(out / "transfer.svg", plot(reports))


def main() -> None:
    parser = argparse.ArgumentParser(description="accuracy against examples")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--report", action="store_true", help="only write table and plot, from the records that there are"
    )
    arguments = parser.parse_args()
    if not arguments.report:
        torch.set_num_threads(1)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in [arguments.only] if arguments.only else SETTINGS:
            sweep(arguments.out / f"transfer.{name}.json", name, arguments.seeds)
    write_report(arguments.out)


if __name__ == "__main__":
    main()
