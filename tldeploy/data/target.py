"""The target domain of a recipe's `adapt`: rows to adapt to without labels, and labelled ones to check the result by.

1. The rows are read as `data` reads the source's: text, image, label and bins are those of `data` unless given.
2. Labels may be missing: a table without the column (unless `adapt.label` names it), or a folder of images whose only
   subfolder is called like no class. Then every row is learnt from, and only a file of its own can check the result.
3. With labels, the rows of `adapt.test` are held out. The share is drawn by the seed alone, and not by class as in the
   source: so labels do not even decide which rows are learnt from, and other labels give the very same networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tldeploy.data.rows import IMAGES, Column, Labelled, Rows, number, places_in, read_labelled
from tldeploy.data.sources import read_table
from tldeploy.errors import DataError
from tldeploy.recipe import Adapt, Data, TaskName

OWN = ("text", "image", "label", "bins", "encoding", "delimiter")  # where not given, as in `data`
FEWEST_ROWS = 5
UNKNOWN = -1


@dataclass(frozen=True)
class Target:
    """unlabelled: texts, or paths of image files, to learn from; there is no label in it. places: where each stands.

    test: labelled rows, held out; None where the target has no labels. oracle: the unlabelled rows again, with their
    labels, for the one network that shows what labels would have given; None unless the recipe asks for it.
    left_out: the place and the reason of rows in which there is nothing to learn from.
    """

    unlabelled: list[str]
    places: list[str]
    column: Column
    test: Rows | None
    oracle: Rows | None
    left_out: list[tuple[str, str]]

    @property
    def rows(self) -> Rows:
        """The unlabelled rows; their class, which nobody knows, is UNKNOWN."""
        return Rows(self.unlabelled, np.full(len(self.unlabelled), UNKNOWN), self.column, self.places)


def read_target(adapt: Adapt, data: Data, labels: Sequence[str], folder: Path, task: TaskName) -> Target:
    """The target rows of a recipe in `folder`. labels: the source's classes, in order.

    Raises DataError for what cannot be read, for fewer than FEWEST_ROWS rows to learn from, for a label that the source
    does not have, and for an oracle without labels to learn from.
    """
    settings = _as_data(adapt, data)
    if not _has_labels(adapt, settings, labels, folder, task):
        if adapt.oracle:
            found = f"adapt.oracle is true, and {folder / adapt.file} has no labels"
            raise DataError(
                "tune on the target's labels", found, "take adapt.oracle out, or name the column: adapt.label"
            )
        inputs, places, left_out = _unlabelled(settings, folder, task)
        _refuse_few(inputs, folder / adapt.file)
        held_out = None
        if isinstance(adapt.test, str):
            test = read_labelled(settings, adapt.test, folder, task)
            held_out, left_out = number(test, list(labels), adapt.test), left_out + test.left_out
        column: Column = "text" if task == "text-classification" else "image"
        return Target(inputs, places_in(adapt.file, places), column, held_out, None, left_out)
    rows = read_labelled(settings, adapt.file, folder, task)
    left_out = rows.left_out
    if isinstance(adapt.test, str):
        test = read_labelled(settings, adapt.test, folder, task)
        left_out = left_out + test.left_out
    else:
        rows, test = _held_out(rows, adapt.test, data.seed)
    _refuse_few(rows.inputs, rows.path)
    classes = list(labels)
    return Target(
        unlabelled=rows.inputs,
        places=places_in(adapt.file, rows.places),
        column=rows.column,
        test=number(test, classes, adapt.test if isinstance(adapt.test, str) else adapt.file),
        oracle=number(rows, classes, adapt.file) if adapt.oracle else None,
        left_out=left_out,
    )


def _as_data(adapt: Adapt, data: Data) -> Data:
    own = {
        "file": adapt.file,
        **{name: given for name in OWN if (given := getattr(adapt, name)) is not None},
    }
    return data.model_copy(update=own)


def _has_labels(adapt: Adapt, settings: Data, labels: Sequence[str], folder: Path, task: TaskName) -> bool:
    place = folder / adapt.file
    if adapt.label is not None and not isinstance(adapt.test, str):  # else it may be the column of that file
        return True
    if task == "image-classification" and place.is_dir():
        subfolders = [child.name for child in place.iterdir() if child.is_dir() and not child.name.startswith(".")]
        return len(subfolders) != 1 or subfolders[0] in labels
    return settings.label in read_table(place, settings.encoding, settings.delimiter).columns


def _unlabelled(settings: Data, folder: Path, task: TaskName) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Inputs and their places, and the place and reason of what was left out."""
    if task == "image-classification":
        from tldeploy.data.images import read_images

        found = read_images(
            folder / settings.file,
            settings.image,
            None,
            settings.encoding,
            settings.delimiter,
            settings.broken,
            cache=folder / ".cache" / IMAGES,
        )
        left_out = [(skipped.place, skipped.reason) for skipped in found.skipped]
        return [str(path) for path in found.paths], found.places, left_out
    table = read_table(folder / settings.file, settings.encoding, settings.delimiter)
    texts = table.column(settings.text, "adapt.text")
    places = [f"line {line}" for line in table.lines]
    full = [(text, place) for text, place in zip(texts, places, strict=True) if text.strip()]
    empty = [(place, "its text is empty") for text, place in zip(texts, places, strict=True) if not text.strip()]
    return [text for text, _ in full], [place for _, place in full], empty


def _held_out(rows: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    order = np.random.default_rng(seed).permutation(len(rows.inputs))
    count = max(1, round(share * len(order)))
    return rows.take(np.sort(order[count:])), rows.take(np.sort(order[:count]))


def _refuse_few(inputs: Sequence[str], path: Path) -> None:
    if len(inputs) < FEWEST_ROWS:
        found = f"{len(inputs)} rows are left to learn from"
        raise DataError(f"adapt to {path}", found, f"give at least {FEWEST_ROWS}, or hold out fewer (adapt.test)")
