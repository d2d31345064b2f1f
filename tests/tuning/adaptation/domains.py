"""Two made-up domains: reviews with three words a class, and a target with other fillers and further words a class.

Of the target's rows that are learnt from, many have a known word beside a new one, so that there is something to find
out without labels.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

from tests.tiny_project import FILLERS, WORDS, write_backbone
from tldeploy.backbones.load import load_pretrained
from tldeploy.data.rows import split_rows
from tldeploy.data.target import Target, read_target
from tldeploy.recipe import Recipe
from tldeploy.tuning.job import Job, Part

KNOWN = 3  # words of each class that the source has
SHARES = {"negative": 0.4, "neutral": 0.2, "positive": 0.4}

RECIPE = """\
name: moved
task: text-classification
data: {file: source.csv, test: 0.1, validation: 0.2}
backbone: {source: backbone, max_length: 32}
tune: {methods: [fine-tuning], epochs: 6, learning_rate: 0.003, batch_size: 16}
adapt: {file: target.csv, test: 0.5, methods: [self-training], oracle: true}
"""


def write_domains(folder: Path, recipe: str = RECIPE) -> Path:
    """A folder with recipe.yaml, source.csv, target.csv and backbone/."""
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder / "backbone")
    draw = random.Random(0)
    write_rows(folder / "source.csv", [_source_row(draw) for _ in range(360)])
    write_rows(folder / "target.csv", [_target_row(draw) for _ in range(400)])
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder


def write_rows(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def read_rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row["text"], row["label"]) for row in csv.DictReader(stream)]


def make_job(folder: Path, scratch: Path) -> tuple[Recipe, Job, Target]:
    """What the methods of the recipe in `folder` start from."""
    recipe = Recipe.load(folder)
    assert recipe.adapt is not None
    splits = split_rows(recipe.data, folder, recipe.task)
    target = read_target(recipe.adapt, recipe.data, splits.labels, folder, recipe.task)
    network, task = load_pretrained(recipe, splits.labels, scratch)
    train, validation, test = (
        Part(task.examples(rows.inputs), rows.classes)
        for rows in (splits.train, splits.validation, target.test or splits.test)
    )
    return recipe, Job(recipe.tune, task, network, "weights", train, validation, test, scratch, folder), target


def _source_row(draw: random.Random) -> tuple[str, str]:
    label = draw.choices(list(SHARES), weights=list(SHARES.values()))[0]
    return _text(draw, FILLERS[:7], [draw.choice(WORDS[label][:KNOWN])]), label


def _target_row(draw: random.Random) -> tuple[str, str]:
    label = draw.choices(list(SHARES), weights=list(SHARES.values()))[0]
    words = [draw.choice(WORDS[label][KNOWN:])]
    if draw.random() < 0.6:
        words.append(draw.choice(WORDS[label][:KNOWN]))
    return _text(draw, FILLERS[7:], words), label


def _text(draw: random.Random, fillers: list[str], words: list[str]) -> str:
    found = draw.choices(fillers, k=draw.randint(1, 5)) + words
    draw.shuffle(found)
    return " ".join(found)
