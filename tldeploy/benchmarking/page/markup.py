"""Cells and tables of a page, in HTML and in Markdown. Whatever comes from data, labels or a manifest is escaped here.

A number in HTML is written as `<data value="…">`, which carries the exact figure of report.json behind the rounded one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Show = Callable[[float], str]
_MARKDOWN = re.compile(r"([\\`*_<>|#~]|(?<=\])\()")


@dataclass(frozen=True)
class Cell:
    """The inside of a table cell, as HTML and as plain text. Numbers stand right. shade: in [0, 1], how strongly it is
    coloured."""

    markup: str = ""
    text: str = ""
    is_number: bool = False
    shade: float | None = None

    def as_data(self) -> str:
        kind = ' class="number"' if self.is_number else ""
        style = "" if self.shade is None else f' style="--shade:{self.shade:.3f}"'
        return f"<td{kind}{style}>{self.markup}</td>"


EMPTY = Cell()


def words(value: Any, small: str = "") -> Cell:
    """A text as it is; anything else as JSON. small: what stands below it in small letters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    below = f" <small>{escape(small)}</small>" if small else ""
    return Cell(f"{escape(text)}{below}", f"{text} ({small})" if small else text)


def lines(cells: Sequence[Cell]) -> Cell:
    """Several cells in one, below each other."""
    return Cell("<br>".join(cell.markup for cell in cells), "; ".join(cell.text for cell in cells))


def number(value: float | None, show: Show | str, shade: float | None = None, small: str = "") -> Cell:
    """A figure, shown by a function or a format; an absent one leaves the cell empty. small: as of `words`."""
    if value is None:
        return EMPTY
    below, text = f" <small>{escape(small)}</small>" if small else "", _shown(value, show)
    return Cell(f"{_data(value, show)}{below}", f"{text} ({small})" if small else text, is_number=True, shade=shade)


def with_interval(value: float, low: float, high: float, show: Show | str) -> Cell:
    interval = f"<small>{_data(low, show)} – {_data(high, show)}</small>"
    text = f"{_shown(value, show)} [{_shown(low, show)}, {_shown(high, show)}]"
    return Cell(f"{_data(value, show)} {interval}", text, is_number=True)


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; `marked` is the row to point out. Empty columns are left out."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    marked: int | None = None

    @property
    def _used(self) -> list[int]:
        return [at for at in range(len(self.head)) if at == 0 or any(row[at].markup for row in self.rows)]

    def as_html(self) -> str:
        """Empty without rows. Scrolls by itself where the window is narrower than it, also by keyboard."""
        if not self.rows:
            return ""
        headings = "".join(_heading(self.head[at], self._has_numbers(at)) for at in self._used)
        body = "\n".join(self._row(at) for at in range(len(self.rows)))
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{self.name}"><table id="{self.name}">\n'
            f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def as_markdown(self) -> str:
        """A table as GitHub renders it; the marked row in bold."""
        if not self.rows:
            return ""
        used = self._used
        rule = ["---:" if self._has_numbers(at) else "---" for at in used]
        body = [[self._marked(at, plain(row[column].text)) for column in used] for at, row in enumerate(self.rows)]
        head = [plain(self.head[at]) for at in used]
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])

    def _marked(self, row: int, text: str) -> str:
        return f"**{text}**" if row == self.marked and text else text

    def _has_numbers(self, column: int) -> bool:
        return column > 0 and any(row[column].is_number for row in self.rows)

    def _row(self, at: int) -> str:
        start = '<tr class="marked">' if at == self.marked else "<tr>"
        first, *others = (self.rows[at][column] for column in self._used)
        return f'{start}<th scope="row">{first.markup}</th>{"".join(cell.as_data() for cell in others)}</tr>'


def bullets(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def markdown_bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _heading(title: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f'<th scope="col"{kind}>{escape(title)}</th>'


def _shown(value: float, show: Show | str) -> str:
    return format(value, show) if isinstance(show, str) else show(value)


def _data(value: float, show: Show | str) -> str:
    return f'<data value="{json.dumps(value)}">{escape(_shown(value, show))}</data>'
