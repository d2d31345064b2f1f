"""What the rows say: how they are split, how the classes are filled, what repeats, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tldeploy.artifacts import Choice
from tldeploy.data import health
from tldeploy.data.rows import Labelled, Splits
from tldeploy.draft.columns import Found
from tldeploy.draft.writing import printable, quoted
from tldeploy.errors import DataError

UNEVEN = 3  # times as many rows in the largest class as in the smallest
FEW_SHOT_BELOW = 16  # training rows of a class
SHOWN = 8
OWN = "a folder of its own, which stays as it is."


@dataclass(frozen=True)
class Classes:
    """How the training rows fill the classes."""

    rows: int
    largest: str
    most: int
    smallest: str
    fewest: int

    @classmethod
    def of(cls, splits: Splits) -> Classes:
        counts = np.bincount(splits.train.classes, minlength=len(splits.labels)).tolist()
        pairs = sorted(zip(counts, splits.labels, strict=True))
        return cls(len(splits.train), pairs[-1][1], pairs[-1][0], pairs[0][1], pairs[0][0])

    @property
    def are_uneven(self) -> bool:
        return self.most > UNEVEN * self.fewest


def refuse_mostly_broken(rows: Labelled) -> None:
    """Raises DataError when more images are broken than can be used: that is no accident of a few files."""
    broken, total = rows.left_out, len(rows.left_out) + len(rows.inputs)
    if rows.column == "image" and 2 * len(broken) > total:
        fix = "check that these are images, and that the paths lead to them; mend them or take them out"
        raise DataError(f"use {len(broken):,} of the {total:,} images of {rows.path}", _named(broken, "; "), fix)


def shares(rows: Labelled, own: Mapping[str, Path]) -> list[Choice]:
    """Fewer rows, larger shares: the held-out figure's interval narrows with the root of the rows behind it.

    own: the folders of data.test and data.validation that have one, and take no share.
    """
    count, classes = len(rows.inputs), len(set(rows.labels))
    sizes = ((1_000, 0.3, 0.2), (10_000, 0.2, 0.15), (100_000, 0.1, 0.1))
    test, validation = next(((test, val) for below, test, val in sizes if count < below), (0.05, 0.05))
    test = _at_least(test, count, classes)
    held_out = 0 if "data.test" in own else math.ceil(test * count)
    validation = _at_least(validation, count - held_out, classes)
    points = 98 / math.sqrt(max(held_out, 1))  # half the 95% interval of a share of one half
    about_test = (
        f"{held_out:,} of {count:,} rows are never learnt from; they tell accuracy to about ±{points:.1f} points."
    )
    about_validation = (
        f"{math.ceil(validation * (count - held_out)):,} of what is left; every choice is made on these rows."
    )
    found = [
        Choice(about="data.test", value=test, reason=about_test),
        Choice(about="data.validation", value=validation, reason=about_validation),
    ]
    given = {about: Choice(about=about, value=str(path.resolve()), reason=OWN) for about, path in own.items()}
    return [given.get(choice.about, choice) for choice in found]


def _at_least(share: float, rows: int, classes: int) -> float:
    """The share, raised where it would hold fewer rows than there are classes, in hundredths; at most one half."""
    return min(max(share, math.ceil(100 * classes / max(rows, 1)) / 100), 0.5)


def balance(splits: Splits) -> str:
    parts = (splits.train.classes, splits.validation.classes, splits.test.classes)
    counts = np.bincount(np.concatenate(parts), minlength=len(splits.labels)).tolist()
    largest = sorted(zip(counts, splits.labels, strict=True), key=lambda pair: -pair[0])
    total = sum(counts)
    shown = [f"{quoted(label[:40])} {count:,} ({count / total:.1%})" for count, label in largest[:SHOWN]]
    more = f", and {len(largest) - SHOWN} more" if len(largest) > SHOWN else ""
    uneven = (
        " The classes are uneven, so weighted F1 says more than accuracy."
        if counts and max(counts) > UNEVEN * min(counts)
        else ""
    )
    return f"each {splits.train.column} gets one of {len(counts)} classes: {', '.join(shown)}{more}.{uneven}"


def about_file(found: Found, splits: Splits) -> str:
    """How many rows, and what health.py finds in them, a line each."""
    what = splits.train.column
    total = sum(len(part) for part in (splits.train, splits.validation, splits.test)) + len(splits.left_out)
    rows = f"{total:,} rows with {found.columns} columns" if found.columns else f"{total:,} images"
    missing = "cannot be read" if what == "image" else "have no text"
    left_out = f", of which {len(splits.left_out):,} {missing} and are left out" if splits.left_out else ""
    findings = [one.choice for one in health.findings(splits)]
    lines = [f"{one.about}: {one.value:,} ({one.reason})." for one in findings]
    once = "" if any(one.about == "duplicates" for one in findings) else f" No {what} occurs twice."
    return "\n".join([f"{rows}{left_out}.{once}", *map(printable, lines)])


def broken(splits: Splits) -> list[Choice]:
    """What to do with broken images: nothing where there is none."""
    if splits.train.column != "image" or not splits.left_out:
        return []
    reason = f"{len(splits.left_out):,} cannot be used; mend them, or they are left out:\n{_named(splits.left_out)}"
    return [Choice(about="data.broken", value="skip", reason=reason)]


def _named(left_out: Sequence[tuple[str, str]], between: str = "\n") -> str:
    named = [printable(f"{place}: {reason}") for place, reason in left_out[:SHOWN]]
    return between.join([*named, *([f"and {len(left_out) - SHOWN:,} more"] if len(left_out) > SHOWN else [])])
