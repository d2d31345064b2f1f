"""Where each field of a protobuf text stands, so that a finding can name its line and a fix can change just that.

Comments and layout survive a fix, because it is an edit of the text and not a new text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[\w.+-]+)|(?P<sign>.)""",
    re.DOTALL | re.VERBOSE,
)
_CLOSES = {"}": "{", "]": "[", ">": "<"}

# A field's name and which of that name it is, from the top: (("input", 0), ("dims", 1)).
Path = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Spot:
    """Characters of one field: its name begins at `start`, its value at `value`; it ends before `end`."""

    line: int
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Unbalanced:
    """The first brace or bracket that has no partner. line: where it stands."""

    line: int
    found: str


@dataclass(frozen=True)
class Layout:
    """unbalanced: what does not close; `spots` then holds only what stands before it."""

    spots: dict[Path, Spot]
    unbalanced: Unbalanced | None

    def spot(self, *names: str | int) -> Spot | None:
        """Of `("input", 1, "dims")`: the second input's first dims; a name without a number is the first."""
        return self.spots.get(_path(names))

    def line(self, *names: str | int) -> int | None:
        """The line of the deepest part of the path that the text has."""
        path = _path(names)
        known = (self.spots[path[:depth]].line for depth in range(len(path), 0, -1) if path[:depth] in self.spots)
        return next(known, None)

    def at(self, start: int) -> Spot | None:
        """The field whose name begins there."""
        return next((spot for spot in self.spots.values() if spot.start == start), None)


def _path(names: tuple[str | int, ...]) -> Path:
    path: list[tuple[str, int]] = []
    for name in names:
        if isinstance(name, int):
            path[-1] = (path[-1][0], name)
        else:
            path.append((name, 0))
    return tuple(path)


@dataclass
class _Frame:
    """What is open: a message, or the list of one field's values. field: the name that waits for its value."""

    sign: str
    line: int
    prefix: Path
    counts: dict[str, int]
    field: str = ""
    start: int = 0

    def take(self) -> Path:
        """The path of the next value of the waiting field."""
        number = self.counts.get(self.field, 0)
        self.counts[self.field] = number + 1
        return (*self.prefix, (self.field, number))


def read_layout(text: str) -> Layout:
    """Read the fields' places, up to a brace without a partner."""
    spots: dict[Path, Spot] = {}
    frames = [_Frame("", 0, (), {})]
    owners: list[tuple[Path, Spot]] = []  # of each open frame but the first; a list has none of its own
    line = 1
    for token in _TOKEN.finditer(text):
        kind, said, start = token.lastgroup, token[0], token.start()
        frame = frames[-1]
        begins = frame.start if frame.sign != "[" else start
        if kind in {"word", "string"}:
            if frame.field:
                spots[frame.take()] = Spot(line, begins, start, token.end())
                frame.field = frame.field if frame.sign == "[" else ""
            elif kind == "word":
                frame.field, frame.start = said, start
        elif said == "[":
            frames.append(_Frame("[", line, frame.prefix, frame.counts, frame.field))
            owners.append(((), Spot(line, start, start, start)))
        elif said in {"{", "<"}:
            opened = text.count("\n", 0, begins) + 1
            path = frame.take()
            spots[path] = spot = Spot(opened, begins, start, start)
            owners.append((path, spot))
            frames.append(_Frame(said, line, path, {}))
        elif said in _CLOSES:
            if frame.sign != _CLOSES[said]:
                return Layout(spots, _mismatch(said, line, frame))
            frames.pop()
            path, spot = owners.pop()
            if path:
                spots[path] = Spot(spot.line, spot.start, spot.value, token.end())
            if frames[-1].sign != "[":
                frames[-1].field = ""
        line += said.count("\n")
    if len(frames) > 1:
        return Layout(spots, Unbalanced(frames[-1].line, f"`{frames[-1].sign}` is opened here and never closed"))
    return Layout(spots, None)


def _mismatch(said: str, line: int, frame: _Frame) -> Unbalanced:
    if not frame.sign:
        return Unbalanced(line, f"`{said}` closes what was never opened")
    return Unbalanced(line, f"`{said}` stands where `{frame.sign}` of line {frame.line} is still open")
