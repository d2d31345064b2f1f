"""Arrays on disk that are too large for memory: written through a map, read through a map."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tldeploy.errors import storage_errors


@contextmanager
def writing_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """A mapped array to fill; when the block ends well it is the .npy file `path`, else nothing is left.

    Its whole size is reserved first: a disk that fills up under a map ends the process (SIGBUS) instead of raising.
    Raises StorageError when the disk has no room for it.
    """
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = np.dtype(dtype)
            with beside.open("wb") as stream:
                header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                if size := math.prod(shape) * kind.itemsize:
                    os.posix_fallocate(stream.fileno(), stream.tell(), size)
            mapped = np.load(beside, mmap_mode="r+" if size else None, allow_pickle=False)
            yield mapped
            if isinstance(mapped, np.memmap):
                mapped.flush()
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped and read-only."""
    stored: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return stored
