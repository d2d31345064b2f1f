"""The text of a config.pbtxt to a configuration, with every mistake of the text named and not only the first.

A mistake is mended or blanked in a copy of the text, line by line as it was, and the copy is read again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tldeploy.triton.lint.layout import read_layout
from tldeploy.triton.lint.rules import Edit, Finding

if TYPE_CHECKING:
    from google.protobuf.text_format import ParseError
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_NO_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<name>\w+)"')
_NO_VALUE = re.compile(r'Enum type "(?P<type>[\w.]+)" has no value named (?P<name>\w+)')
_TWICE = re.compile(r'should not have multiple "(?P<name>\w+)" fields')
_ONE_OF = re.compile(r'Field "(?P<name>[\w.]+)" is specified along with field "(?P<other>[\w.]+)"')
SCHEDULERS = {"dynamic_batching", "sequence_batching", "ensemble_scheduling"}
# Names nearer than this are taken for a slip of the pen.
CLOSE = 0.7


def nearest(found: str, known: Sequence[str]) -> list[str]:
    """The known names that `found` may have been meant for, the nearest first."""
    return difflib.get_close_matches(found, known, n=3, cutoff=CLOSE)


@dataclass
class Reading:
    """A configuration as far as it could be read; None when it could not. text: the copy that was read."""

    text: str
    config: ModelConfig | None = None
    findings: list[Finding] = field(default_factory=list)


def read_config(text: str, model: str, file: str) -> Reading:
    """Read the text of `file`, the config.pbtxt of `model`."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    reading = Reading(text)
    if broken := read_layout(text).unbalanced:
        fix = "close what is open, or take out what is too many"
        reading.findings.append(Finding("braces", model, file, broken.line, broken.found, fix))
        return reading
    while True:
        try:
            reading.config = text_format.Parse(reading.text, ModelConfig())
            return reading
        except text_format.ParseError as error:
            finding, mended = _understood(error, reading.text, text, model, file)
            reading.findings.append(finding)
            if mended is None or mended == reading.text:
                return reading
            reading.text = mended


def _understood(error: ParseError, text: str, original: str, model: str, file: str) -> tuple[Finding, str | None]:
    """The finding of one parse error, and the text without the mistake if reading can go on.

    A fix is offered only while the text is still the original, whose characters it counts.
    """
    said, line, start = str(error), error.GetLine(), _offset(text, error)
    known: tuple[tuple[re.Pattern[str], str, Callable[[str], list[str]]], ...] = (
        (_NO_FIELD, "unknown-field", _fields_of),
        (_NO_VALUE, "unknown-value", _values_of),
    )
    for pattern, rule, names_of in known:
        if match := pattern.search(said):
            kind, name = match["type"], match["name"]
            close = nearest(name, names_of(kind))
            what = "field" if rule == "unknown-field" else "value"
            found = f"{kind.rpartition('.')[2]} has no {what} named {name}"
            fix = f"write `{close[0]}`" if close else f"take it out; known: {', '.join(names_of(kind))}"
            edit = Edit(start, start + len(name), close[0], f"{name} is now {close[0]}") if len(close) == 1 else None
            mended = _replaced(text, start, start + len(name), close[0]) if close else _without(text, start)
            return Finding(rule, model, file, line, found, fix, edit=edit if text == original else None), mended
    if match := _TWICE.search(said):
        name = match["name"]
        found, fix = f"{name} is given twice", "keep one of the two"
        return Finding("field-twice", model, file, line, found, fix), _without(text, start)
    match = _ONE_OF.search(said)
    if match and {match["name"], match["other"]} <= SCHEDULERS:
        found, fix = f"both {match['other']} and {match['name']} are set", "keep one of the two"
        return Finding("two-schedulers", model, file, line, found, fix), _without(text, start)
    found = re.sub(r"^\d+:\d+ : ", "", said).strip()
    return Finding("config-text", model, file, line or None, found, "write it as protobuf text: `field: value`"), None


def _offset(text: str, error: ParseError) -> int:
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: (error.GetLine() or 1) - 1])) + (error.GetColumn() or 1) - 1


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _without(text: str, start: int) -> str | None:
    """The text with the field that has something at `start` blanked, its lines kept."""
    layout = read_layout(text)
    around = [spot for spot in layout.spots.values() if spot.start <= start < spot.end]
    if not around:
        return None
    spot = max(around, key=lambda spot: spot.start)
    return _replaced(text, spot.start, spot.end, re.sub(r"\S", " ", text[spot.start : spot.end]))


def _fields_of(kind: str) -> list[str]:
    from google.protobuf import descriptor_pool

    return [field.name for field in descriptor_pool.Default().FindMessageTypeByName(kind).fields]


def _values_of(kind: str) -> list[str]:
    from google.protobuf import descriptor_pool

    return [value.name for value in descriptor_pool.Default().FindEnumTypeByName(kind).values]
