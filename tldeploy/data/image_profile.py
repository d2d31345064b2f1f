"""What a person's own images are like, found out for a first recipe, as profile.py does for tables.

1. `find_image`: the column of a table that holds images, as the paths of files or as bytes.
2. `Pictures`: formats, sizes and shapes, from the headers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.artifacts import Choice
from tldeploy.data.images import ENDINGS
from tldeploy.data.parquet import ParquetFile
from tldeploy.data.sources import Table
from tldeploy.errors import DataError
from tldeploy.tasks.pixels import open_image

LOOKED_AT = 100  # cells of a column
MEASURED_IMAGES = 2_000


@dataclass(frozen=True)
class Pictures:
    """Images as they are stored. formats: the commonest first. width, height: the medians, in pixels.

    count: how many were looked at. side: the median of the longer sides. stretch: the median of longer by shorter side.
    """

    count: int
    formats: dict[str, int]
    width: int
    height: int
    side: int
    stretch: float

    @classmethod
    def of(cls, paths: Sequence[str]) -> Pictures:
        """Look at images that can be read, at MEASURED_IMAGES of them at most, evenly."""
        opened = [open_image(Path(path).read_bytes()) for path in paths[:: -(-len(paths) // MEASURED_IMAGES)]]
        formats = Counter("JPEG" if image.format == "MPO" else str(image.format) for image in opened)
        sizes = np.array([image.size for image in opened])
        width, height = np.median(sizes, axis=0).round().astype(int).tolist()
        longer, shorter = sizes.max(axis=1), sizes.min(axis=1)
        stretch = float(np.median(longer / shorter))
        commonest = dict(sorted(formats.items(), key=lambda pair: (-pair[1], pair[0])))
        return cls(len(opened), commonest, width, height, round(float(np.median(longer))), stretch)


def find_image(table: Table, label: str | None) -> Choice | None:
    """The column whose cells are mostly images; None when there is none."""
    shares = {name: _share_of_images(table, name) for name in [*table.columns, *table.unusable] if name != label}
    likely = sorted((name for name, share in shares.items() if share > 0.5), key=lambda name: -shares[name])
    if not likely:
        return None
    others = f" Other columns of images: {', '.join(map(repr, likely[1:7]))}." if likely[1:] else ""
    reason = f"its cells are images: {shares[likely[0]]:.0%} of those that were looked at.{others}"
    return Choice(about="data.image", value=likely[0], reason=reason)


def refuse_absent_images(table: Table) -> None:
    """Raises DataError when a column names images, none of which is there."""
    for name in table.columns:
        cells = _some(table.column(name, "--image"))
        if cells and 2 * sum(1 for cell in cells if _names_an_image(cell)) > len(cells):
            found = f"the column {name!r} names images that are not there, such as {cells[0]}"
            fix = f"put them where it says, as seen from {table.path.parent}; or name the column of texts with --text"
            raise DataError(f"find the images of {table.path}", found, fix)


def _share_of_images(table: Table, name: str) -> float:
    """Of the cells of a column that are looked at; those of a table evenly, those of bytes from the beginning."""
    cells: list[Any]
    if name in table.unusable:
        cells = [cell for (cell,) in islice(ParquetFile(table.path).rows([name]), LOOKED_AT)]
    else:
        cells = _some(table.column(name, "--image"))
    return sum(_is_image(cell, table.path.parent) for cell in cells) / max(len(cells), 1)


def _some(cells: Sequence[str]) -> list[str]:
    full = [cell.strip() for cell in cells if cell.strip()]
    return full[:: -(-len(full) // LOOKED_AT) or 1]


def _is_image(cell: Any, folder: Path) -> bool:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    try:
        if isinstance(cell, bytes):
            return bool(open_image(cell).format)
        return isinstance(cell, str) and _names_an_image(cell) and (folder / cell.strip()).is_file()
    except (ValueError, OSError):  # no image; or no name that a file could have
        return False


def _names_an_image(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in ENDINGS
