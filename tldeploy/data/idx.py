"""Image sets in the IDX format of MNIST, written as image folders."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import ArtifactError, DataError
from tldeploy.progress import progress

ADVANCE_EVERY = 500


def write_idx_images(
    images_gz: bytes, labels_gz: bytes, names: Sequence[str], folder: Path, per_class: int | None = None
) -> int:
    """Write grey images as `folder/<class>/<number in the file>.png`; how many were written.

    images_gz, labels_gz: gzipped IDX files, uint8 [images, height, width] and [images]. names: of each class.
    per_class: the first so many of every class, in the file's order; by default all.
    Raises ArtifactError for files that are damaged or do not belong together, DataError for names that are too few or
    cannot be folders.
    """
    from PIL import Image

    images, labels = _idx(images_gz, 3, "the images"), _idx(labels_gz, 1, "the labels")
    if len(images) != len(labels):
        found = f"there are {len(images):,} images and {len(labels):,} labels"
        raise ArtifactError("unpack an image set", found, "check `images` and `labels` in the recipe")
    _check_names(names, labels)
    taken = _first(labels, len(names), per_class)
    digits = len(str(len(images) - 1))
    with progress("write images", len(taken)) as advance:
        for done, index in enumerate(taken, start=1):
            target = folder / names[labels[index]] / f"{index:0{digits}}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(target)
            if done % ADVANCE_EVERY == 0 or done == len(taken):
                advance((done - 1) % ADVANCE_EVERY + 1)
    return len(taken)


def _idx(content: bytes, dims: int, what: str) -> NDArray[np.uint8]:
    """An array of unsigned bytes: 0, 0, 8 (their type), the number of dims, each dim in 4 bytes, the values."""
    asked, fix = f"unpack {what} of an image set", "check the recipe's `images` and `labels`, or download it anew"
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ArtifactError(asked, f"it is no gzip file, or damaged ({error})", fix) from None
    start = 4 + 4 * dims
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, dims)):
        raise ArtifactError(asked, f"it is no IDX file of {dims} dim{'s' * (dims > 1)} of bytes", fix)
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", dims, 4))
    held = len(raw) - start
    if held != int(np.prod(shape, dtype=object)) or 0 in shape:
        raise ArtifactError(asked, f"it says {' × '.join(map(str, shape))} and holds {held:,} bytes", fix)
    return np.frombuffer(raw, np.uint8, held, start).reshape(shape)


def _check_names(names: Sequence[str], labels: NDArray[np.uint8]) -> None:
    asked = "write an image folder"
    if labels.max() >= len(names):
        found = f"the labels go to {labels.max()}, and there are names for {len(names)} classes"
        raise DataError(asked, found, "name every class in `classes`, in order")
    if wrong := [name for name in names if not name or "/" in name or "\\" in name or name.startswith(".")]:
        raise DataError(
            asked, f"{wrong[0]!r} cannot be the name of a folder", "name the class in `classes` without / and ."
        )
    if len(set(names)) != len(names):
        raise DataError(asked, "two classes have the same name", "name each class in `classes` once")


def _first(labels: NDArray[np.uint8], classes: int, per_class: int | None) -> list[int]:
    """Indices of the first rows of every class, in the file's order."""
    taken = [np.flatnonzero(labels == number)[:per_class] for number in range(classes)]
    indices: list[int] = np.sort(np.concatenate(taken)).tolist()
    return indices
