"""Labelled rows: from the recipe's files to three splits of rows and classes.

1. The file's rows and labels are read: a text and a label column, or images (data/images.py); a number column is cut
   into classes where the recipe has `bins`.
2. Rows without a text are left out and counted; rows without a label are an error.
3. Test rows come from their own file or from a stratified split; validation rows likewise, out of what is left.
   Classes are numbered by the training rows, in the order of `bins` or else alphabetically.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from tldeploy.artifacts import file_sha256
from tldeploy.data.sources import read_table
from tldeploy.errors import DataError
from tldeploy.recipe import Bin, Data, TaskName
from tldeploy.tasks.metrics import Classes

FEWEST_ROWS_A_CLASS = 4
IMAGES = "images"
Column = Literal["text", "image"]


@dataclass(frozen=True)
class Rows:
    """Texts, or paths of image files, and the class of each, int64 [rows].

    places: where a person finds each row, such as `line 7` or `cats/07.png`; of a file other than data.file, with its
    name before it. None of rows out of an artifact.
    identities: what makes two rows the same: the text itself, or the sha256 of an image's bytes.
    """

    inputs: list[str]
    classes: Classes
    column: Column = "text"
    places: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def identities(self) -> list[str]:
        return self.inputs if self.column == "text" else [file_sha256(Path(path)) for path in self.inputs]

    def take(self, indices: Sequence[int] | Classes) -> Rows:
        return Rows(
            inputs=[self.inputs[i] for i in indices],
            classes=self.classes[np.asarray(indices, dtype=np.int64)],
            column=self.column,
            places=[self.places[i] for i in indices] if self.places else [],
        )

    def save(self, path: Path, with_images: bool = True) -> None:
        """One JSON object a line: the row and its class.

        with_images: image files are copied beside it, so that the folder can go to another machine; else the lines
        name them where they are.
        """
        with path.open("w", encoding="utf-8") as stream:
            for row, number in zip(self._kept(path.parent, with_images), self.classes.tolist(), strict=True):
                stream.write(json.dumps({self.column: row, "class": number}, ensure_ascii=False) + "\n")

    def _kept(self, folder: Path, with_images: bool) -> list[str]:
        if self.column == "text":
            return self.inputs
        if not with_images:
            return [str(Path(path).resolve()) for path in self.inputs]
        (folder / IMAGES).mkdir(exist_ok=True)
        kept = []
        for path, identity in zip(self.inputs, self.identities, strict=True):
            kept.append(f"{IMAGES}/{identity}{Path(path).suffix.lower()}")
            shutil.copyfile(path, folder / kept[-1])
        return kept

    @classmethod
    def load(cls, path: Path) -> Rows:
        with path.open(encoding="utf-8") as stream:
            records = [json.loads(line) for line in stream]
        classes = np.array([record["class"] for record in records], dtype=np.int64)
        if records and "image" in records[0]:
            return cls([str(path.parent / record["image"]) for record in records], classes, "image")
        return cls([record["text"] for record in records], classes)


@dataclass(frozen=True)
class Splits:
    """The rows to learn from, to choose by, and to report on; `labels[class]` is a class's name.

    left_out: rows without a text, and images that cannot be read, with the reason of each.
    """

    labels: list[str]
    train: Rows
    validation: Rows
    test: Rows
    left_out: list[tuple[str, str]]


@dataclass(frozen=True)
class Labelled:
    """Rows of one file with their labels. places: where each stands, in words such as `line 7`."""

    inputs: list[str]
    labels: list[str]
    places: list[str]
    path: Path
    column: Column
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def take(self, indices: Sequence[int] | Classes) -> Labelled:
        return replace(
            self,
            inputs=[self.inputs[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            places=[self.places[i] for i in indices],
        )


def split_rows(data: Data, folder: Path, task: TaskName = "text-classification") -> Splits:
    """Read and split the rows that a recipe in `folder` declares.

    Raises DataError for whatever cannot be learnt from: absent columns, empty labels, numbers outside every bin, fewer
    than two classes, a class with too few rows to split, a label that the training rows do not have.
    """
    return split_labelled(read_labelled(data, data.file, folder, task), data, folder, task)


def split_labelled(rest: Labelled, data: Data, folder: Path, task: TaskName = "text-classification") -> Splits:
    """Split the rows of data.file, which have been read; files of their own for test and validation are read here."""
    first, second = np.random.SeedSequence(data.seed).generate_state(2).tolist()
    refuse_small_classes(rest)
    left_out = rest.left_out
    if isinstance(data.test, str):
        test = read_labelled(data, data.test, folder, task)
        left_out = left_out + test.left_out
    else:
        rest, test = hold_out(rest, data.test, "data.test", first)
    if isinstance(data.validation, str):
        train, validation = rest, read_labelled(data, data.validation, folder, task)
        left_out = left_out + validation.left_out
    else:
        train, validation = hold_out(rest, data.validation, "data.validation", second)
    labels = _label_order(data, train)
    return Splits(
        labels=labels,
        train=number(train, labels),
        validation=number(validation, labels, data.validation if isinstance(data.validation, str) else ""),
        test=number(test, labels, data.test if isinstance(data.test, str) else ""),
        left_out=left_out,
    )


def read_labelled(data: Data, name: str, folder: Path, task: TaskName) -> Labelled:
    """The rows of one file (or folder of images) of a recipe in `folder`, each with its label."""
    path = folder / name
    if task == "image-classification":
        from tldeploy.data.images import read_images

        cache = folder / ".cache" / IMAGES
        found = read_images(path, data.image, data.label, data.encoding, data.delimiter, data.broken, cache=cache)
        rows, labels, places = [str(image) for image in found.paths], found.labels, found.places
        column: Column = "image"
        left_out = [(skipped.place, skipped.reason) for skipped in found.skipped]
    else:
        table = read_table(path, data.encoding, data.delimiter)
        texts, labels = table.column(data.text, "data.text"), table.column(data.label, "data.label")
        full = [index for index, text in enumerate(texts) if text.strip()]
        if not full:
            fix = "set data.text to the text column"
            raise DataError(f"learn from {path}", f"every {data.text!r} cell is empty", fix)
        left_out = [(f"line {table.lines[at]}", "its text is empty") for at in sorted({*range(len(texts))} - {*full})]
        rows, labels = [texts[at] for at in full], [labels[at] for at in full]
        places, column = [f"line {table.lines[at]}" for at in full], "text"
    labels = [label.strip() for label in labels]
    if empty := [place for place, label in zip(places, labels, strict=True) if not label]:
        found_words = f"rows without a {data.label!r}: {len(empty)}, the first on {empty[0]}"
        raise DataError(f"learn from {path}", found_words, "label those rows or take them out")
    if data.bins:
        labels = _cut_into_bins(path, places, labels, data.bins)
    for place, label in zip(places, labels, strict=True):
        if not label.isprintable():
            found_words = f"the label {label!r} on {place} holds a line break or another control character"
            raise DataError(f"learn from {path}", found_words, "give it a name on one line")
    return Labelled(rows, labels, places, path, column, left_out)


def _cut_into_bins(path: Path, places: list[str], cells: list[str], bins: dict[str, str]) -> list[str]:
    ranges = [(name, part) for name, text in bins.items() if (part := Bin.parse(text))]
    labels = []
    for place, cell in zip(places, cells, strict=True):
        try:
            number = float(cell)
        except ValueError:
            wrong = f"{place} has {cell!r} where a number is expected"
            raise DataError(f"cut labels of {path} into bins", wrong, "mend it, or take data.bins out") from None
        names = [name for name, part in ranges if part.holds(number)]
        if len(names) != 1:
            wrong = f"{cell} on {place} lies in {' and '.join(names) or 'none'} of them"
            fix = "make data.bins cover every number once"
            raise DataError(f"cut labels of {path} into bins", wrong, fix)
        labels.append(names[0])
    return labels


def hold_out(rows: Labelled, share: float, setting: str, seed: int) -> tuple[Labelled, Labelled]:
    """What is left, and a share of the rows with every class in proportion."""
    from sklearn.model_selection import train_test_split

    asked = f"hold out {share:.0%} of {rows.path}"
    indices = np.arange(len(rows.inputs))
    try:
        left, held_out = train_test_split(indices, test_size=share, stratify=rows.labels, random_state=seed)
    except ValueError as error:
        raise DataError(asked, str(error), f"raise {setting} or give more rows") from None
    return rows.take(np.sort(left)), rows.take(np.sort(held_out))


def refuse_small_classes(rows: Labelled) -> None:
    counts = Counter(rows.labels)
    if len(counts) < 2:
        found = f"all rows have the label {next(iter(counts))!r}"
        raise DataError(f"split {rows.path}", found, "check data.label; a classifier needs two classes or more")
    if few := [f"{label!r} ({count})" for label, count in sorted(counts.items()) if count < FEWEST_ROWS_A_CLASS]:
        found = f"labels with fewer than {FEWEST_ROWS_A_CLASS} rows: {', '.join(few[:8])}"
        raise DataError(f"split {rows.path}", found, "label more such rows, merge the classes, or check data.label")


def _label_order(data: Data, train: Labelled) -> list[str]:
    present = set(train.labels)
    labels = [label for label in data.bins if label in present] if data.bins else sorted(present)
    if len(labels) < 2:
        found = f"the training rows have {len(labels)} class"
        raise DataError(f"learn from {train.path}", found, "check data.label; a classifier needs two classes or more")
    return labels


def number(rows: Labelled, labels: list[str], file: str = "") -> Rows:
    """The rows with their labels as classes. file: a name for their places.

    Raises DataError for a label that is none of `labels`.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    for place, label in zip(rows.places, rows.labels, strict=True):
        if label not in numbers:
            found = f"the label {label!r} on {place} is not among those of the training rows: {', '.join(labels)}"
            raise DataError(f"use {rows.path}", found, "mend the label, or add training rows that have it")
    classes = np.array([numbers[label] for label in rows.labels], dtype=np.int64)
    return Rows(rows.inputs, classes, rows.column, places_in(file, rows.places))


def places_in(file: str, places: Sequence[str]) -> list[str]:
    """The places with the name of their file, if it is given."""
    return [f"{file}: {place}" for place in places] if file else list(places)
