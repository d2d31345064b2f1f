"""Labelled images: an image folder, a table of paths, or a Parquet file, as one list of files with their labels.

1. The rows are listed: a folder's files (a class per subfolder), a table's paths, a Parquet file's paths or bytes.
2. Every image is decoded once, so that training meets none that it cannot use.
3. Images that lie inside a Parquet file are written into a cache, each under the hash of its bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tldeploy.data.parquet import PARQUET, ROWS_AT_ONCE, ParquetFile
from tldeploy.data.sources import read_table
from tldeploy.environment import usable_cores
from tldeploy.errors import DataError
from tldeploy.progress import progress
from tldeploy.tasks.pixels import decode, open_image

ENDINGS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
CACHE_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
SPLIT_NAMES = {"train", "training", "valid", "val", "validation", "dev", "test", "testing", "eval"}
SHOWN = 8


@dataclass(frozen=True)
class Skipped:
    """A row that was left out, and why its image cannot be used."""

    place: str
    reason: str


@dataclass(frozen=True)
class LabelledImages:
    """Images and the label of each, one row each; labels are as the data has them, empty ones included.

    places: each row's name for a person: its path below the folder, "line 7" or "row 7".
    digests: sha256 of each file's bytes, so that the same image is known wherever it lies.
    ignored: files of an image folder that are hidden or have no ending of an image.
    """

    paths: list[Path]
    labels: list[str]
    places: list[str]
    digests: list[str]
    skipped: list[Skipped]
    ignored: int = 0


@dataclass(frozen=True)
class _Row:
    """content: the image's bytes, where they lie in no file of their own. shown: `place` with the path it names."""

    place: str
    label: str
    path: Path | None
    content: bytes | None
    shown: str


def read_images(
    place: Path,
    image: str,
    label: str | None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    broken: Literal["refuse", "skip"] = "refuse",
    *,
    cache: Path,
) -> LabelledImages:
    """Read the images of a folder or a file.

    image, label: the columns of a file; without a column of labels, labels are empty. Paths are relative to the file's
    folder; in Parquet, images may also be bytes, or Hugging Face's records of bytes and path. cache: the folder that
    images out of Parquet are written to.
    Raises DataError for an absent place, columns that are not there, a folder without class folders, images that cannot
    be used (unless they are skipped; then for none that can).
    """
    ignored = 0
    rows: Iterable[_Row]
    if place.is_dir():
        rows, ignored = _folder_rows(place)
        total = len(rows)
    elif place.suffix.lower() in PARQUET:
        file = ParquetFile(place)
        rows, total = _parquet_rows(file, image, label), len(file)
    else:
        rows = _table_rows(place, image, label, encoding, delimiter)
        total = len(rows)
    usable, skipped = [], []
    for row, outcome in _verified(rows, total, cache):
        if isinstance(outcome, str):
            skipped.append(Skipped(row.shown, outcome))
        else:
            usable.append((row, *outcome))
    if skipped and (broken == "refuse" or not usable):
        raise DataError(f"use {len(skipped):,} of the {total:,} images of {place}", _named(skipped), _fix(broken))
    return LabelledImages(
        paths=[path for _, path, _ in usable],
        labels=[row.label for row, _, _ in usable],
        places=[row.place for row, _, _ in usable],
        digests=[digest for _, _, digest in usable],
        skipped=skipped,
        ignored=ignored,
    )


def named_files(file: Path, image: str, encoding: str = "utf-8", delimiter: str | None = None) -> Iterator[Path]:
    """The files that a table or a Parquet file names in the column `image`, whether they are there or not."""
    rows: Iterable[_Row]
    if file.suffix.lower() in PARQUET:
        rows = _parquet_rows(ParquetFile(file), image, None)
    else:
        rows = _table_rows(file, image, None, encoding, delimiter)
    return (row.path for row in rows if row.path is not None)


def _named(skipped: list[Skipped]) -> str:
    named = "; ".join(f"{one.place}: {one.reason}" for one in skipped[:SHOWN])
    return named + (f"; and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else "")


def _fix(broken: str) -> str:
    if broken == "refuse":
        return "mend them or take them out; `data.broken: skip` leaves them out and lists them"
    return "not one image can be used: check the paths, and data.image"


def _folder_rows(folder: Path) -> tuple[list[_Row], int]:
    """The images of every class folder, sorted by class and then by path; and how many other files there are."""
    rows, loose, ignored = [], [], 0
    for child in sorted(folder.iterdir()):
        if not child.is_dir():
            is_image = _is_image(child.name)
            loose += [child.name] if is_image else []
            ignored += not is_image
            continue
        found, others = _images_below(child)
        if _is_hidden(child.name):
            ignored += len(found) + others
            continue
        ignored += others
        names = [path.relative_to(folder).as_posix() for path in found]
        rows += [_Row(name, child.name, path, None, name) for name, path in zip(names, found, strict=True)]
    asked, fix = f"take the classes of images from {folder}", "give each class a subfolder, named as the class"
    if loose:
        named = ", ".join(loose[:SHOWN])
        raise DataError(asked, f"{len(loose):,} images lie in no class folder: {named}", f"{fix}; or take them out")
    if not rows:
        raise DataError(asked, "no subfolder holds an image", fix)
    classes = {row.label for row in rows}
    if {name.lower() for name in classes} <= SPLIT_NAMES:
        fix = "name one of them in data.file and another in data.test; in each, give each class a subfolder"
        raise DataError(asked, f"its subfolders are splits, not classes: {', '.join(sorted(classes))}", fix)
    return rows, ignored


def _images_below(folder: Path) -> tuple[list[Path], int]:
    images: list[Path] = []
    others = 0
    for inside, folders, names in os.walk(folder):
        hidden = [name for name in folders if _is_hidden(name)]
        others += sum(len(files) for name in hidden for _, _, files in os.walk(Path(inside, name)))
        folders[:] = [name for name in folders if name not in hidden]
        images += [Path(inside, name) for name in names if _is_image(name)]
        others += sum(not _is_image(name) for name in names)
    return sorted(images), others


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and Path(name).suffix.lower() in ENDINGS


def _table_rows(path: Path, image: str, label: str | None, encoding: str, delimiter: str | None) -> list[_Row]:
    table = read_table(path, encoding, delimiter)
    cells = table.column(image, "data.image")
    labels = [""] * len(cells) if label is None else table.column(label, "data.label")
    return [
        _at_path(f"line {line}", one, cell, path.parent)
        for line, one, cell in zip(table.lines, labels, cells, strict=True)
    ]


def _parquet_rows(file: ParquetFile, image: str, label: str | None) -> Iterator[_Row]:
    for name, setting in ((image, "data.image"), (label, "data.label")):
        if name is not None and name not in file.columns:
            found = f"its columns are {', '.join(file.columns)}"
            raise DataError(f"find the column {name!r} in {file.path}", found, f"set {setting} to one of them")
    if label is not None and (why := file.why_no_cells(label)):
        raise DataError(f"use the column {label!r} of {file.path}", why, "set data.label to the column of labels")
    columns = [image] if label is None else [image, label]
    for number, (value, *labels) in enumerate(file.rows(columns), start=1):
        named = labels[0] if labels else None
        place, one = f"row {number}", "" if named is None else str(named)
        record = value if isinstance(value, dict) else {}
        content = value if isinstance(value, bytes) else record.get("bytes")
        path = value if isinstance(value, str) else record.get("path")
        if isinstance(content, bytes):
            yield _Row(place, one, None, content, place)
        elif value is None or isinstance(path, str):
            yield _at_path(place, one, path or "", file.path.parent)
        else:
            found = f"its cells are {type(value).__name__}s, not bytes, paths, or records of bytes and path"
            raise DataError(f"use the column {image!r} of {file.path}", found, "set data.image to the images' column")


def _at_path(place: str, label: str, cell: str, folder: Path) -> _Row:
    named = cell.strip()
    return _Row(place, label, folder / named if named else None, None, f"{place} ({named})" if named else place)


def _verified(rows: Iterable[_Row], total: int, cache: Path) -> list[tuple[_Row, tuple[Path, str] | str]]:
    """Each row with the path and digest of its image, or with the reason why it cannot be used; in the same order."""
    rows = iter(rows)
    verified: list[tuple[_Row, Any]] = []
    # Pillow decodes without Python's lock, so threads will do. Few rows at once: those of Parquet hold their bytes.
    with ThreadPoolExecutor(usable_cores()) as threads, progress("check images", total) as advance:
        while taken := list(islice(rows, ROWS_AT_ONCE)):
            for row, outcome in zip(taken, threads.map(lambda row: _verify(row, cache), taken), strict=True):
                verified.append((_Row(row.place, row.label, row.path, None, row.shown), outcome))
                advance(1)
    return verified


def _verify(row: _Row, cache: Path) -> tuple[Path, str] | str:
    content = row.content
    if content is None:
        if row.path is None:
            return "no image is named"
        try:
            content = row.path.read_bytes()
        except FileNotFoundError:
            return "there is no such file"
        except (OSError, ValueError) as error:
            return f"reading it is refused ({getattr(error, 'strerror', None) or error})"
    try:
        decode(content)
    except ValueError as error:
        return str(error)
    digest = hashlib.sha256(content).hexdigest()
    return (row.path or _unpack(content, digest, cache)), digest


def _unpack(content: bytes, digest: str, cache: Path) -> Path:
    """The file in the cache with these bytes, written now if it is not there."""
    path = cache / f"{digest}{CACHE_ENDINGS.get(open_image(content).format or '', '.tiff')}"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        beside = cache / f"{digest}.{os.getpid()}-{threading.get_ident()}.writing"
        beside.write_bytes(content)
        beside.replace(path)
    return path
