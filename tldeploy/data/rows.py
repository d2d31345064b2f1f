"""Labelled rows: from the recipe's files to three splits of texts and classes.

1. The file's text and label columns are read; a number column is cut into classes where the recipe has `bins`.
2. Rows without a text are left out and counted; rows without a label are an error.
3. Test rows come from their own file or from a stratified split; validation rows likewise, out of what is left.
   Classes are numbered by the training rows, in the order of `bins` or else alphabetically.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tldeploy.data.sources import Table, read_table
from tldeploy.errors import DataError
from tldeploy.recipe import Bin, Data
from tldeploy.tasks.metrics import Classes

FEWEST_ROWS_A_CLASS = 4


@dataclass(frozen=True)
class Rows:
    """Texts and the class of each, int64 [rows]."""

    texts: list[str]
    classes: Classes

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | Classes) -> Rows:
        return Rows([self.texts[i] for i in indices], self.classes[np.asarray(indices, dtype=np.int64)])

    def save(self, path: Path) -> None:
        """One JSON object a line: text and class."""
        with path.open("w", encoding="utf-8") as stream:
            for text, number in zip(self.texts, self.classes.tolist(), strict=True):
                stream.write(json.dumps({"text": text, "class": number}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Rows:
        with path.open(encoding="utf-8") as stream:
            records = [json.loads(line) for line in stream]
        return cls([record["text"] for record in records], np.array([r["class"] for r in records], dtype=np.int64))


@dataclass(frozen=True)
class Splits:
    """The rows to learn from, to choose by, and to report on; `labels[class]` is a class's name."""

    labels: list[str]
    train: Rows
    validation: Rows
    test: Rows
    without_text: int


@dataclass(frozen=True)
class _Labelled:
    texts: list[str]
    labels: list[str]
    lines: list[int]
    path: Path
    without_text: int


def split_rows(data: Data, folder: Path) -> Splits:
    """Read and split the rows that a recipe in `folder` declares.

    Raises DataError for whatever cannot be learnt from: absent columns, empty labels, numbers outside every bin, fewer
    than two classes, a class with too few rows to split, a label that the training rows do not have.
    """
    first, second = np.random.SeedSequence(data.seed).generate_state(2).tolist()
    rest = _read(data, folder / data.file)
    _refuse_small_classes(rest)
    without_text = rest.without_text
    if isinstance(data.test, str):
        test = _read(data, folder / data.test)
        without_text += test.without_text
    else:
        rest, test = _stratified(rest, data.test, "data.test", first)
    if isinstance(data.validation, str):
        train, validation = rest, _read(data, folder / data.validation)
        without_text += validation.without_text
    else:
        train, validation = _stratified(rest, data.validation, "data.validation", second)
    labels = _label_order(data, train)
    return Splits(labels, _number(train, labels), _number(validation, labels), _number(test, labels), without_text)


def _read(data: Data, path: Path) -> _Labelled:
    table = read_table(path, data.encoding, data.delimiter)
    texts = table.column(data.text, "data.text")
    cells = table.column(data.label, "data.label")
    full = [index for index, text in enumerate(texts) if text.strip()]
    if not full:
        raise DataError(f"learn from {path}", f"every {data.text!r} cell is empty", "set data.text to the text column")
    if empty := [table.lines[i] for i in full if not cells[i].strip()]:
        found = f"rows without a {data.label!r}: {len(empty)}, the first on line {empty[0]}"
        raise DataError(f"learn from {path}", found, "label those rows or take them out")
    labels = _cut_into_bins(table, cells, data.bins) if data.bins else [cell.strip() for cell in cells]
    if unprintable := [(table.lines[i], labels[i]) for i in full if not labels[i].isprintable()]:
        line, label = unprintable[0]
        found = f"the label {label!r} on line {line} holds a line break or another control character"
        raise DataError(f"learn from {path}", found, "give it a name on one line")
    return _Labelled(
        [texts[i] for i in full],
        [labels[i] for i in full],
        [table.lines[i] for i in full],
        path,
        len(texts) - len(full),
    )


def _cut_into_bins(table: Table, cells: list[str], bins: dict[str, str]) -> list[str]:
    ranges = [(name, part) for name, text in bins.items() if (part := Bin.parse(text))]
    labels = []
    for line, cell in zip(table.lines, cells, strict=True):
        try:
            number = float(cell)
        except ValueError:
            wrong = f"line {line} has {cell!r} where a number is expected"
            raise DataError(f"cut labels of {table.path} into bins", wrong, "mend it, or take data.bins out") from None
        names = [name for name, part in ranges if part.holds(number)]
        if len(names) != 1:
            wrong = f"{cell} on line {line} lies in {' and '.join(names) or 'none'} of them"
            fix = "make data.bins cover every number once"
            raise DataError(f"cut labels of {table.path} into bins", wrong, fix)
        labels.append(names[0])
    return labels


def _stratified(rows: _Labelled, share: float, setting: str, seed: int) -> tuple[_Labelled, _Labelled]:
    """What is left, and a share of the rows with every class in proportion."""
    from sklearn.model_selection import train_test_split

    asked = f"hold out {share:.0%} of {rows.path}"
    indices = np.arange(len(rows.texts))
    try:
        left, held_out = train_test_split(indices, test_size=share, stratify=rows.labels, random_state=seed)
    except ValueError as error:
        raise DataError(asked, str(error), f"raise {setting} or give more rows") from None
    return _take(rows, np.sort(left)), _take(rows, np.sort(held_out))


def _refuse_small_classes(rows: _Labelled) -> None:
    counts = Counter(rows.labels)
    if len(counts) < 2:
        found = f"all rows have the label {next(iter(counts))!r}"
        raise DataError(f"split {rows.path}", found, "check data.label; a classifier needs two classes or more")
    if few := [f"{label!r} ({count})" for label, count in sorted(counts.items()) if count < FEWEST_ROWS_A_CLASS]:
        found = f"labels with fewer than {FEWEST_ROWS_A_CLASS} rows: {', '.join(few[:8])}"
        raise DataError(f"split {rows.path}", found, "label more such rows, merge the classes, or check data.label")


def _take(rows: _Labelled, indices: Classes) -> _Labelled:
    kept = indices.tolist()
    return _Labelled(
        [rows.texts[i] for i in kept],
        [rows.labels[i] for i in kept],
        [rows.lines[i] for i in kept],
        rows.path,
        rows.without_text,
    )


def _label_order(data: Data, train: _Labelled) -> list[str]:
    present = set(train.labels)
    labels = [label for label in data.bins if label in present] if data.bins else sorted(present)
    if len(labels) < 2:
        found = f"the training rows have {len(labels)} class"
        raise DataError(f"learn from {train.path}", found, "check data.label; a classifier needs two classes or more")
    return labels


def _number(rows: _Labelled, labels: list[str]) -> Rows:
    numbers = {label: number for number, label in enumerate(labels)}
    if unseen := [(line, label) for line, label in zip(rows.lines, rows.labels, strict=True) if label not in numbers]:
        line, label = unseen[0]
        found = f"the label {label!r} on line {line} is not among those of the training rows: {', '.join(labels)}"
        raise DataError(f"use {rows.path}", found, "mend the label, or add training rows that have it")
    return Rows(rows.texts, np.array([numbers[label] for label in rows.labels], dtype=np.int64))
