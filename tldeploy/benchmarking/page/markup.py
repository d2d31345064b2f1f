"""Cells and tables of report.html. Whatever comes from data, labels or a manifest is escaped here, and only here.

A number is written as `<data value="…">`, which carries the exact figure of report.json behind the rounded one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Show = Callable[[float], str]


@dataclass(frozen=True)
class Cell:
    """The inside of a table cell, as markup. Numbers stand right. shade: in [0, 1], how strongly it is coloured."""

    markup: str = ""
    is_number: bool = False
    shade: float | None = None

    def as_data(self) -> str:
        kind = ' class="number"' if self.is_number else ""
        style = "" if self.shade is None else f' style="--shade:{self.shade:.3f}"'
        return f"<td{kind}{style}>{self.markup}</td>"


EMPTY = Cell()


def words(value: Any) -> Cell:
    """A text as it is; anything else as JSON."""
    return Cell(escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def number(value: float | None, show: Show | str, shade: float | None = None) -> Cell:
    """A figure, shown by a function or a format; an absent one leaves the cell empty."""
    return EMPTY if value is None else Cell(_data(value, show), is_number=True, shade=shade)


def with_interval(value: float, low: float, high: float, show: Show | str) -> Cell:
    interval = f"<small>{_data(low, show)} – {_data(high, show)}</small>"
    return Cell(f"{_data(value, show)} {interval}", is_number=True)


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], marked: int | None = None) -> str:
    """A table whose first column names its rows; `marked` is the row to point out. Empty columns are left out."""
    used = [at for at in range(len(head)) if at == 0 or any(row[at].markup for row in rows)]
    headings = "".join(_heading(head[at], any(row[at].is_number for row in rows)) for at in used)
    body = "\n".join(_row(row[0], [row[at] for at in used[1:]], at == marked) for at, row in enumerate(rows))
    return (
        f'<div class="scroll"><table id="{name}">\n<thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(name: Cell, cells: Sequence[Cell], is_marked: bool) -> str:
    start = '<tr class="marked">' if is_marked else "<tr>"
    return f'{start}<th scope="row">{name.markup}</th>{"".join(cell.as_data() for cell in cells)}</tr>'


def _heading(title: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f'<th scope="col"{kind}>{escape(title)}</th>'


def _data(value: float, show: Show | str) -> str:
    text = format(value, show) if isinstance(show, str) else show(value)
    return f'<data value="{json.dumps(value)}">{escape(text)}</data>'
