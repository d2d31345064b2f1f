"""The recipe: the whole job, declared in `models/<name>/recipe.yaml`, one section a stage.

Each section is a frozen model. Whatever is wrong in a file is named in one error, see mistakes.py. Relative paths in a
recipe are relative to its folder.

values.py    what settings are made of
rows.py      fetch, data, adapt
tuning.py    backbone, tune and its parts
serving.py   export, deploy, bench
options.py   the parts of deploy
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from tldeploy.devices import Device
from tldeploy.errors import RecipeError
from tldeploy.mistakes import validated
from tldeploy.recipe.options import Cuda, Metrics, Queue, RateLimit, TensorRT, Tracing
from tldeploy.recipe.rows import ADAPTATIONS, Adapt, Adaptation, Bin, Data, Fetch, FetchedFile, FetchedImages, Table
from tldeploy.recipe.serving import ENGINES, ON, VARIANTS, Bench, Deploy, Engine, Export, Variant
from tldeploy.recipe.tuning import (
    NOT_SEARCHED,
    Backbone,
    Distillation,
    FewShot,
    Keep,
    Lora,
    Method,
    Range,
    Search,
    Tune,
)
from tldeploy.recipe.values import NAME, Count, Name, Section, Seed, Split

__all__ = [
    "ADAPTATIONS",
    "ENGINES",
    "NAME",
    "NOT_SEARCHED",
    "RECIPE_FILE",
    "VARIANTS",
    "Adapt",
    "Adaptation",
    "Backbone",
    "Bench",
    "Bin",
    "Count",
    "Cuda",
    "Data",
    "Deploy",
    "Distillation",
    "Engine",
    "Export",
    "Fetch",
    "FetchedFile",
    "FetchedImages",
    "FewShot",
    "Keep",
    "Lora",
    "Method",
    "Metrics",
    "Name",
    "Queue",
    "Range",
    "RateLimit",
    "Recipe",
    "Search",
    "Section",
    "Seed",
    "Split",
    "Table",
    "TaskName",
    "TensorRT",
    "Tracing",
    "Tune",
    "Variant",
]

RECIPE_FILE = "recipe.yaml"
TaskName = Literal["text-classification", "image-classification"]


class Recipe(Section):
    """A whole job. Make one with `Recipe.load("models/review-sentiment")`."""

    name: Name
    task: TaskName
    fetch: list[Fetch] = Field(default=[])
    data: Data
    backbone: Backbone
    tune: Tune = Tune()
    adapt: Adapt | None = None
    export: Export = Export()
    deploy: Deploy = Deploy()
    bench: Bench = Bench()
    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, place: str | Path) -> Recipe:
        """Read a recipe file, or the recipe.yaml of a folder.

        Raises RecipeError naming every mistake in it.
        """
        path = Path(place)
        path = path / RECIPE_FILE if path.is_dir() else path
        asked = f"read the recipe {path}"
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            fix = "give a folder with a recipe.yaml, or write one with `tldeploy init`"
            raise RecipeError(asked, "there is no such file", fix) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(asked, str(error), "make it a readable UTF-8 text file") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Recipe:
        """Validate the text of a recipe that stands, or will stand, at `path`."""
        recipe = validated(cls, text, f"use the recipe {path}")
        recipe._folder = path.parent
        return recipe

    @property
    def folder(self) -> Path:
        """The folder that the recipe lies in."""
        return self._folder

    def path(self, relative: str) -> Path:
        """A path of the recipe, from the folder that the recipe lies in."""
        path = self.folder / relative
        return path.resolve() if ".." in path.parts else path

    def bench_device(self) -> Device:
        """Where the engines that are not served are measured."""
        return self.bench.device or ON[self.export.target]

    def section(self, *names: str) -> dict[str, Any]:
        """Some sections as JSON, for fingerprints: without what only says where, or how fast, the same is computed."""
        return self.model_dump(mode="json", include=set(names), exclude={"tune": {"device", "compile"}})
