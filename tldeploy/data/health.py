"""What is wrong with labelled rows that can be learnt from all the same: each finding with its number and its reason.

`findings` looks at how rows repeat and how classes are filled, whatever a row is, and at what texts look like;
`target_findings` does for the rows of another domain. Nothing is changed or refused here: a finding is for a person to
read, beside the choices of a stage, and names the rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tldeploy.artifacts import Choice
from tldeploy.data.rows import Rows, Splits
from tldeploy.data.target import Target
from tldeploy.tasks.metrics import Classes

LARGEST_RATIO = 10.0  # of the largest class to the smallest
FEWEST_TRAINING_ROWS = 10  # of a class
LONGEST_TEXT = 10_000  # characters: about 2,000 tokens, more than most encoders take
SHOWN = 8

# UTF-8 that was read as cp1252 or latin-1: é became Ã©, ’ became â€™, 😀 became ðŸ˜€, п became Ð¿.
_UPPER = "".join(bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xC0)) + "\x80-\xbf"
_MOJIBAKE = re.compile(f"[ÃÂ][{_UPPER}]|â[€‚„†ˆ‰\x80-\x8f][{_UPPER}]|ðŸ[{_UPPER}]{{2}}|(?:[ÐÑ][{_UPPER}]){{2}}")


@dataclass(frozen=True)
class Finding:
    """What was found, how much of it (most often of rows), and what that means.

    rows: every row that it is about, by its place; of two that should differ, as `line 9 = line 2`. None where it is
    about classes.
    """

    about: str
    value: float
    meaning: str
    rows: Sequence[str] = ()

    @classmethod
    def of(cls, rows: Sequence[str], about: str, meaning: str) -> Finding:
        return cls(about, len(rows), meaning, rows)

    @property
    def choice(self) -> Choice:
        """For the lists of choices, with the first of the rows."""
        reason = f"{self.meaning}: {named(self.rows)}" if self.rows else self.meaning
        return Choice(about=self.about, value=self.value, reason=reason)


def named(rows: Sequence[str], between: str = ", ") -> str:
    """The first SHOWN of the rows, and how many more there are."""
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return between.join(rows[:SHOWN]) + more


def findings(splits: Splits) -> list[Finding]:
    """Repeated rows, leaks between splits, contradicting labels, classes with too few rows, and damaged texts."""
    return [
        *_repeated(splits),
        *_unbalanced(splits.labels, splits.train.classes),
        *_damaged(splits.train, splits.validation, splits.test),
    ]


def target_findings(target: Target, splits: Splits) -> list[Finding]:
    """Likewise of the rows to adapt to, which have no labels: rows left out, repeated ones, and those known otherwise.

    splits: the source's, with the target's held-out rows as `test` where they have labels.
    """
    rows, what = target.rows, target.column
    sources = [splits.train, splits.validation, *([splits.test] if target.test is None else [])]
    so_many = f"of {len(rows):,} rows, so many"
    found = [
        left_out(target.left_out),
        Finding.of(_repeats(rows), "duplicates", f"{so_many} repeat the {what} of another, and count more than once"),
        Finding.of(
            _shared(rows, *sources),
            "rows of the source",
            f"{so_many} have {_a(what)} of the source's too: they tell nothing of how the domains differ",
        ),
    ]
    if target.test is not None:
        meaning = f"so many of the {len(target.test):,} held-out rows have {_a(what)} that is adapted to"
        leaked = _shared(target.test, rows)
        found.append(Finding.of(leaked, "leaks into the held-out rows", f"{meaning}: they flatter the score"))
    return [replace(one, about=f"target: {one.about}") for one in [*found, *_damaged(rows)] if one.value]


def left_out(rows: Sequence[tuple[str, str]]) -> Finding:
    """rows: the place of each, and why it was left out."""
    because = [f"{place} ({why})" for place, why in rows]
    return Finding.of(because, "rows left out", "there is nothing to learn from them")


def _repeated(splits: Splits) -> list[Finding]:
    train, validation, test, what = splits.train, splits.validation, splits.test, splits.train.column
    every = (train, validation, test)
    found = [
        Finding.of(
            _repeats(*every),
            "duplicates",
            f"of {sum(map(len, every)):,} rows, so many repeat the {what} of another; {len(_repeats(train)):,} of them "
            "are training rows, which count more than once",
        ),
        Finding.of(
            _contradictions(splits.labels, *every),
            "contradicting labels",
            f"so many {what}s stand there with different labels: whatever is answered, some of their rows are wrong",
        ),
        Finding.of(
            _shared(test, train, validation),
            "leaks into the test rows",
            f"so many of the {len(test):,} test rows have {_a(what)} that is learnt from or chosen by: they flatter "
            "the score",
        ),
        Finding.of(
            _shared(validation, train),
            "leaks into the validation rows",
            f"so many of the {len(validation):,} validation rows have {_a(what)} that is learnt from: they flatter "
            "choices",
        ),
    ]
    return [one for one in found if one.value]


def _repeats(*parts: Rows) -> list[str]:
    """Each row that is the same as one before it, with the first such row."""
    first: dict[str, str] = {}
    repeated = []
    for key, place in _places(*parts):
        if key in first:
            repeated.append(f"{place} = {first[key]}")
        else:
            first[key] = place
    return repeated


def _shared(rows: Rows, *others: Rows) -> list[str]:
    """Each of the rows that is among the others too, with the first such row there."""
    first: dict[str, str] = {}
    for key, place in _places(*others):
        first.setdefault(key, place)
    return [f"{place} = {first[key]}" for key, place in _places(rows) if key in first]


def _contradictions(labels: Sequence[str], *parts: Rows) -> list[str]:
    """Each text or image that has several labels, with two of its rows."""
    first: dict[str, tuple[str, int]] = {}
    found: dict[str, str] = {}
    classes = [number for part in parts for number in part.classes.tolist()]
    for (key, place), number in zip(_places(*parts), classes, strict=True):
        other, said = first.setdefault(key, (place, number))
        if said != number and key not in found:
            found[key] = f"{place} ({labels[number]!r}) = {other} ({labels[said]!r})"
    return list(found.values())


def _places(*parts: Rows) -> Iterator[tuple[str, str]]:
    return (pair for part in parts for pair in zip(part.identities, part.places, strict=True))


def _a(what: str) -> str:
    return f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"


def _unbalanced(labels: Sequence[str], classes: Classes) -> list[Finding]:
    counts = dict(zip(labels, np.bincount(classes, minlength=len(labels)).tolist(), strict=True))
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    found = []
    if counts[largest] > LARGEST_RATIO * counts[smallest]:
        ratio = round(counts[largest] / max(1, counts[smallest]), 1)
        most, least = f"{largest!r} ({counts[largest]:,})", f"{smallest!r} ({counts[smallest]:,})"
        meaning = f"times as many training rows of {most} as of {least}"
        fix = "class weights or balanced sampling keep rare classes from being ignored"
        found.append(Finding("imbalance", ratio, f"{meaning}; {fix}"))
    few = sorted((name for name in counts if counts[name] < FEWEST_TRAINING_ROWS), key=lambda name: counts[name])
    if few:
        classes_named = named([f"{name!r} ({counts[name]})" for name in few])
        meaning = f"classes with fewer than {FEWEST_TRAINING_ROWS} training rows: {classes_named}"
        found.append(Finding("near-empty classes", len(few), f"{meaning}; label more, or merge them"))
    return found


def _damaged(*parts: Rows) -> list[Finding]:
    if parts[0].column != "text":
        return []
    return text_findings([text for part in parts for text in part.inputs], [at for part in parts for at in part.places])


def text_findings(texts: Sequence[str], places: Sequence[str]) -> list[Finding]:
    """Texts that were damaged on their way, are empty, or are very long. places: each text's name, such as "line 7"."""
    named_texts = list(zip(texts, places, strict=True))
    found = [
        Finding.of([place for text, place in named_texts if is_odd(text)], about, meaning)
        for about, is_odd, meaning in _ODDITIES
    ]
    return [one for one in found if one.value]


def _has_control_characters(text: str) -> bool:
    return not text.isprintable() and any(
        unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in text
    )


_ODDITIES: tuple[tuple[str, Callable[[str], object], str], ...] = (
    (
        "replacement characters",
        lambda text: "\ufffd" in text,
        "texts with �, where a character was lost when they were read in a wrong encoding",
    ),
    (
        "mojibake",
        _MOJIBAKE.search,
        "texts with characters such as Ã©, which are UTF-8 read as latin-1 or cp1252; set data.encoding, or mend them",
    ),
    ("control characters", _has_control_characters, "texts with control characters, which no tokenizer knows"),
    ("empty texts", lambda text: not text.strip(), "texts with nothing in them"),
    (
        "very long texts",
        lambda text: len(text) > LONGEST_TEXT,
        f"texts of more than {LONGEST_TEXT:,} characters, of which the model sees only the beginning",
    ),
)
