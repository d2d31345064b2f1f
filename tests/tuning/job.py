"""A job of the tiny project for one method, as the tune stage would make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.tiny_images import RECIPE as IMAGE_RECIPE
from tests.tiny_images import write_image_backbone, write_squares
from tests.tiny_project import RECIPE, write_backbone, write_reviews
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import Network
from tldeploy.data.rows import Rows, split_rows
from tldeploy.recipe import Recipe, Tune
from tldeploy.tuning.job import Job, Part


def write_text_recipe(folder: Path, layers: int = 2, rows: int = 200) -> Path:
    folder.mkdir(parents=True)
    write_backbone(folder / "backbone", layers)
    write_reviews(folder / "reviews.csv", rows)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def write_image_recipe(folder: Path, per_class: int = 20) -> Path:
    folder.mkdir(parents=True)
    write_image_backbone(folder / "backbone")
    write_squares(folder / "squares", per_class)
    (folder / "recipe.yaml").write_text(IMAGE_RECIPE, encoding="utf-8")
    return folder


def make_job(folder: Path, **tune: Any) -> Job:
    """The job of the recipe in `folder`, with some settings of tune."""
    recipe = Recipe.load(folder)
    splits = split_rows(recipe.data, folder, recipe.task)
    network, task = load_pretrained(recipe, splits.labels, folder)
    cache = folder / ".cache"

    def part(rows: Rows) -> Part:
        return Part(task.examples(rows.inputs, cache), rows.classes)

    settings = Tune.model_validate(recipe.tune.model_dump() | tune)
    parts = [part(rows) for rows in (splits.train, splits.validation, splits.test)]
    return Job(settings, task, network, "weights", *parts, cache, folder, splits.train.inputs)


class Bare(Network):
    """A backbone of any kind, its hidden states as they are."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__(backbone, features=1, classes=2, dropout=0)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def features(self, **inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.backbone(**inputs).last_hidden_state
        return hidden
