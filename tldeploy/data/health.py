"""What is wrong with labelled rows that can be learnt from all the same: each finding with its number and its reason.

`findings` looks at how rows repeat and how classes are filled, whatever a row is; `text_findings` at what texts look
like. Nothing is changed or refused here: a finding is for a person to read, beside the choices of a stage.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tldeploy.artifacts import Choice
from tldeploy.data.profile import repeats
from tldeploy.data.rows import Rows, Splits
from tldeploy.tasks.metrics import Classes

LARGEST_RATIO = 10.0  # of the largest class to the smallest
FEWEST_TRAINING_ROWS = 10  # of a class
LONGEST_TEXT = 10_000  # characters: about 2,000 tokens, more than most encoders take
SHOWN = 8

# UTF-8 that was read as cp1252 or latin-1: é became Ã©, ’ became â€™, 😀 became ðŸ˜€, п became Ð¿.
_UPPER = "".join(bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xC0)) + "\x80-\xbf"
_MOJIBAKE = re.compile(f"[ÃÂ][{_UPPER}]|â[€‚„†ˆ‰\x80-\x8f][{_UPPER}]|ðŸ[{_UPPER}]{{2}}|(?:[ÐÑ][{_UPPER}]){{2}}")


@dataclass(frozen=True)
class Part:
    """One split: what identifies each row (its text, or the digest of its image), and its class, int64 [rows]."""

    keys: Sequence[str]
    classes: Classes


def findings(labels: Sequence[str], train: Part, validation: Part, test: Part, what: str = "text") -> list[Choice]:
    """Repeated rows, leaks between splits, contradicting labels, and classes with too few rows.

    what: a row's name for a person, "text" or "image".
    """
    return [*_repeated(labels, train, validation, test, what), *_unbalanced(labels, train.classes)]


def _repeated(labels: Sequence[str], train: Part, validation: Part, test: Part, what: str) -> list[Choice]:
    rows = [Rows(list(part.keys), part.classes) for part in (train, validation, test)]
    none = Rows([], np.array([], dtype=np.int64))
    found = repeats(Splits(list(labels), rows[0], rows[1], rows[2], []))
    inside = repeats(Splits(list(labels), rows[0], none, none, [])).rows
    total = sum(len(part.keys) for part in (train, validation, test))
    lines = []
    if found.rows:
        reason = f"of {total:,} rows, this many have the {what} of an earlier row; {inside:,} of them are training rows"
        lines.append(Choice(about="duplicates", value=found.rows, reason=f"{reason}, which count more than once"))
    if found.contradictions:
        reason = (
            f"so many {what}s stand there with different labels: whatever is answered, some of their rows are wrong"
        )
        lines.append(Choice(about="contradicting labels", value=found.contradictions, reason=reason))
    if found.leaked:
        reason = f"so many of the {len(test.keys):,} test rows have {_a(what)} that is learnt from or chosen by"
        lines.append(
            Choice(about="leaks into the test rows", value=found.leaked, reason=f"{reason}: they flatter the score")
        )
    if leaked := repeats(Splits(list(labels), rows[0], none, rows[1], [])).leaked:
        reason = f"so many of the {len(validation.keys):,} validation rows have {_a(what)} that is learnt from"
        lines.append(
            Choice(about="leaks into the validation rows", value=leaked, reason=f"{reason}: they flatter choices")
        )
    return lines


def _a(what: str) -> str:
    return f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"


def _unbalanced(labels: Sequence[str], classes: Classes) -> list[Choice]:
    counts = dict(zip(labels, np.bincount(classes, minlength=len(labels)).tolist(), strict=True))
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    lines = []
    if counts[largest] > LARGEST_RATIO * counts[smallest]:
        ratio = round(counts[largest] / max(1, counts[smallest]), 1)
        most, least = f"{largest!r} ({counts[largest]:,})", f"{smallest!r} ({counts[smallest]:,})"
        reason = f"times as many training rows of {most} as of {least}"
        fix = "class weights or balanced sampling keep rare classes from being ignored"
        lines.append(Choice(about="imbalance", value=ratio, reason=f"{reason}; {fix}"))
    few = sorted((name for name in counts if counts[name] < FEWEST_TRAINING_ROWS), key=lambda name: counts[name])
    if few:
        named = ", ".join(f"{name!r} ({counts[name]})" for name in few[:SHOWN]) + ", …" * (len(few) > SHOWN)
        reason = f"classes with fewer than {FEWEST_TRAINING_ROWS} training rows: {named}; label more, or merge them"
        lines.append(Choice(about="near-empty classes", value=len(few), reason=reason))
    return lines


def text_findings(texts: Sequence[str], places: Sequence[str]) -> list[Choice]:
    """Texts that were damaged on their way, are empty, or are very long. places: each text's name, such as "line 7"."""
    lines = []
    for about, is_odd, reason in _ODDITIES:
        if odd := [place for text, place in zip(texts, places, strict=True) if is_odd(text)]:
            lines.append(Choice(about=about, value=len(odd), reason=f"{reason}; the first is {odd[0]}"))
    return lines


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
