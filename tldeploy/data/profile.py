"""What a person's own table holds, found out from the file alone, for a first recipe.

1. `open_table`: the encoding and the delimiter with which the file reads as a table.
2. `find_text`, `find_label`: which column is which, each with its reason.
3. `cut_into_bins`: where to cut a column of numbers into classes, and whether to.
4. `Lengths`: how long the chosen texts are.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tldeploy.artifacts import Choice
from tldeploy.data.parquet import PARQUET
from tldeploy.data.rows import FEWEST_ROWS_A_CLASS
from tldeploy.data.sources import DELIMITERS, JSON_LINES, Table, read_table, read_text
from tldeploy.errors import DataError

# Names that people give to label columns, the likeliest first.
LABEL_NAMES = (
    *("label", "labels", "class", "category", "sentiment", "target", "intent", "topic"),
    *("rating", "ratings", "stars", "star", "score", "grade", "polarity", "valence", "emotion"),
)
# Numbers under these names say how much, under those which one; under any other name the numbers themselves must tell.
AMOUNTS = {"rating", "ratings", "stars", "star", "score", "grade", "polarity", "valence", "sentiment"}
CLASS_IDS = {"class", "category", "intent", "topic", "emotion", "id", "index", "type", "queue"}

FEWEST_DISTINCT_TEXTS = 0.2  # of a column's cells; below that it is a category in several words
MOST_NUMBERS_OF_A_SCALE = 11  # 0 to 10
MOST_CLASSES = 200
NEUTRAL_SHARE = 0.1  # of the scale, on each side of its middle: 3 of 1 to 5, 5 and 6 of 1 to 10


@dataclass(frozen=True)
class Source:
    """A table and how it was read. delimiter: None for JSON lines and Parquet."""

    table: Table
    encoding: str
    delimiter: str | None

    @property
    def delimiter_is_implied(self) -> bool:
        return self.delimiter in {None, DELIMITERS.get(self.table.path.suffix.lower(), ",")}


@dataclass(frozen=True)
class Lengths:
    """Text lengths: the median, the 99th percentile and the longest, in tokens or in an estimate of them."""

    median: int
    p99: int
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        ordered = sorted(lengths)
        return cls(ordered[len(ordered) // 2], ordered[math.ceil(0.99 * len(ordered)) - 1], ordered[-1])


def open_table(path: Path) -> Source:
    """Read a CSV, TSV, JSON lines or Parquet file, whatever its delimiter and encoding.

    Raises DataError for a file that is absent, empty, damaged, binary, plain JSON, or no table with any delimiter.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET and path.exists():
        return Source(read_table(path), "utf-8", None)
    encoding = _find_encoding(path)
    if suffix in JSON_LINES:
        return Source(read_table(path, encoding), encoding, None)
    implied = DELIMITERS.get(suffix, ",")
    start = read_text(path, encoding)[:100_000]
    widths = {one: _header_width(start, one) for one in dict.fromkeys([implied, ",", ";", "\t", "|"])}
    likeliest = sorted(widths, key=lambda one: (one != implied, -widths[one]))
    refused: list[DataError] = []
    for delimiter in [one for one in likeliest if widths[one] > 1]:
        try:
            return Source(read_table(path, encoding, delimiter), encoding, delimiter)
        except DataError as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return Source(read_table(path, encoding, implied), encoding, implied)


def _find_encoding(path: Path) -> str:
    asked = f"read {path}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(asked, "there is no such file", "check the path") from None
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise DataError(asked, found, "name a CSV, TSV, JSONL or Parquet file that you may read") from error
    if path.suffix.lower() == ".json":
        raise DataError(asked, "it is JSON, not JSON lines", "save it as .jsonl, with one object a line")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            # Western text has no zero bytes; spreadsheets, archives and Parquet files do.
            if b"\0" in content:
                found = "it is no text file"
                raise DataError(asked, found, "save it as CSV, TSV or JSONL in UTF-8, or as Parquet") from None
            continue
        return encoding
    return "latin-1"


def _header_width(start: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), []))
    except csv.Error:
        return 0


def find_text(table: Table, label: str | None) -> Choice:
    """The column with the longest, mostly distinct texts in words. Raises DataError when there is none."""
    scores = {name: _text_score(_full(table, name)) for name in table.columns if name != label}
    likely = sorted((name for name, score in scores.items() if score), key=lambda name: -scores[name])
    if not likely:
        found = "no column holds mostly distinct texts of several words; " + _described(table)
        raise DataError(f"find the text column of {table.path}", found, "name the text column with --text")
    cells = _full(table, likely[0])
    length = round(sum(map(len, cells)) / len(cells))
    distinct = len(set(cells)) / len(cells)
    reason = f"the column of long, mostly distinct texts: {length} characters on average, {distinct:.0%} distinct."
    return Choice(about="data.text", value=likely[0], reason=f"{reason}{_others(likely[1:], 'texts')}")


def _text_score(cells: Sequence[str]) -> float:
    """Characters of a cell on average, weighed by the share of distinct cells; 0 for what is no text."""
    wordy = sum(1 for cell in cells if _is_wordy(cell))
    if wordy == 0 or wordy < len(cells) / 2:
        return 0.0
    distinct = len(set(cells)) / len(cells)
    return 0.0 if distinct < FEWEST_DISTINCT_TEXTS else distinct * sum(map(len, cells)) / len(cells)


def _is_wordy(cell: str) -> bool:
    """Several words, or a script that may do without spaces; so no number, key, address or file name."""
    return any(map(str.isalpha, cell)) and (len(cell.split()) > 1 or any(c.isalpha() and c > "\u02ff" for c in cell))


def find_label(table: Table, text: str) -> Choice:
    """The column of classes or ratings: by its name, else by how few values it has.

    Raises DataError when no column has at least two values and few enough of them.
    """
    others = [name for name in table.columns if name != text]
    ranks = {name: rank for name in others if (rank := _label_rank(table, name, len(others) == 1)) is not None}
    if not ranks:
        found = f"beside {text!r} no column has a few values that repeat; {_described(table, others)}"
        raise DataError(f"find the label column of {table.path}", found, "name the label column with --label")
    likely = sorted(ranks, key=lambda name: ranks[name])
    name = likely[0]
    values = _full(table, name)
    if name in values and len(text.split()) > 1:
        found = f"its first line looks like a row and not like names of columns: {name!r} is a label too"
        fix = "give it a header line such as text,label; if it has one, name the columns with --text and --label"
        raise DataError(f"find the label column of {table.path}", found, fix)
    by_name = "named as label columns are" if ranks[name][0] < len(LABEL_NAMES) else "the column that repeats most"
    reason = f"{by_name}, with {len(set(values))} values in {len(values):,} rows.{_others(likely[1:], 'labels')}"
    return Choice(about="data.label", value=name, reason=reason)


def _label_rank(table: Table, name: str, is_alone: bool) -> tuple[int, bool, bool, int, int] | None:
    """How unlikely a column is as the label; None if it cannot be. Names go first, then words, then few values."""
    cells = _full(table, name)
    values = set(cells)
    words = _words(name)
    hint = next((place for place, hint in enumerate(LABEL_NAMES) if hint in words), len(LABEL_NAMES))
    exact = name.casefold() in LABEL_NAMES
    is_numeric = numbers_of(cells) is not None
    most = min(MOST_CLASSES, max(2, len(cells) // FEWEST_ROWS_A_CLASS))
    is_amount = is_numeric and (is_alone or bool(AMOUNTS & words))
    if len(values) < 2 or (len(values) > most and not is_amount):
        return None
    return hint, not exact, is_numeric, len(values), -table.columns.index(name)


def numbers_of(cells: Sequence[str]) -> list[float] | None:
    """The cells as finite numbers, or None when one of them is something else."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def cut_into_bins(name: str, cells: Sequence[str]) -> Choice | None:
    """Ranges that turn the numbers of a label column into classes; None where its values are the classes."""
    numbers = numbers_of([cell for cell in cells if cell.strip()])
    if numbers is None:
        return None
    values = sorted(set(numbers))
    # A scale reaches below zero or starts at 1; ids of classes count from 0 on.
    counts_from_0 = values == list(range(len(values)))
    is_id = bool(CLASS_IDS & _words(name)) or (counts_from_0 and not AMOUNTS & _words(name))
    if len(values) < 3 or (is_id and len(values) <= MOST_CLASSES):
        return None
    shown = f"{name!r} is a number from {_plain(values[0])} to {_plain(values[-1])}, cut"
    if values[0] < 0 < values[-1]:
        bins, how = _by_sign(numbers), "by its sign."
    elif len(values) <= MOST_NUMBERS_OF_A_SCALE and (found := _around_the_middle(values)):
        bins, how = found, "around the middle of its scale."
    else:
        bins, how = (
            _in_thirds(sorted(numbers)),
            "where it parts the rows as evenly as it can: it has no natural middle.",
        )
    return Choice(about="data.bins", value=bins, reason=f"{shown} {how} Name and move the cuts as you mean them.")


def _by_sign(numbers: Sequence[float]) -> dict[str, str]:
    if numbers.count(0) < FEWEST_ROWS_A_CLASS:
        return {"negative": "< 0", "positive": ">= 0"}
    return {"negative": "< 0", "neutral": "0 .. 0", "positive": "> 0"}


def _around_the_middle(values: Sequence[float]) -> dict[str, str] | None:
    """Negative, neutral and positive parts of a scale; None when all values lie on one side of its middle."""
    low, high = values[0], values[-1]
    if low >= 1 and 4 < high <= 5:
        low, high = 1, 5  # stars, of which some may not occur
    elif low >= 1 and 5 < high <= 10:
        low, high = 1, 10
    middle, margin = (low + high) / 2, NEUTRAL_SHARE * (high - low) + 1e-9
    below = [value for value in values if value < middle - margin]
    above = [value for value in values if value > middle + margin]
    neutral = values[len(below) : len(values) - len(above)]
    if len([part for part in (below, neutral, above) if part]) < 2:
        return None
    bins = {"negative": f"<= {_plain(below[-1])}"} if below else {}
    if neutral:
        bins["neutral"] = f"{_plain(neutral[0])} .. {_plain(neutral[-1])}"
    return bins | ({"positive": f">= {_plain(above[0])}"} if above else {})


def _in_thirds(ordered: Sequence[float]) -> dict[str, str]:
    lower, upper = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    if ordered[0] < lower < upper < ordered[-1]:
        return {
            "low": f"< {_plain(lower)}",
            "middle": f"{_plain(lower)} .. {_plain(upper)}",
            "high": f"> {_plain(upper)}",
        }
    # One value fills a third or more: two classes, cut at the first value from the median on that leaves rows below it.
    cut = next(value for value in (*ordered[len(ordered) // 2 :], ordered[-1]) if value > ordered[0])
    return {"low": f"< {_plain(cut)}", "high": f">= {_plain(cut)}"}


def _plain(number: float) -> str:
    """A number as recipes write it: no exponent, no needless zeros."""
    digits = format(Decimal(repr(number)), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _full(table: Table, name: str) -> list[str]:
    return [cell.strip() for cell in table.column(name, "the column") if cell.strip()]


def _words(name: str) -> set[str]:
    """The words of a column's name, in lower case: `starRating`, `STAR_RATING` and `star rating` have the same."""
    return {word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _others(names: Sequence[str], what: str) -> str:
    return f" Other columns that could be the {what}: {', '.join(map(repr, names[:6]))}." if names else ""


def _described(table: Table, names: Sequence[str] | None = None) -> str:
    """Each column with how many values it has."""
    names = table.columns if names is None else names
    counts = {name: len(set(_full(table, name))) for name in names[:8]}
    shown = [f"{name!r} ({count} value{'' if count == 1 else 's'})" for name, count in counts.items()]
    return f"the columns are {', '.join(shown)}" if shown else "there is no other column"
