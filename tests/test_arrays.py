from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tldeploy.arrays import read_array, writing_array
from tldeploy.errors import StorageError


def test_what_is_filled_is_read_back(tmp_path: Path) -> None:
    with writing_array(tmp_path / "deep" / "x.npy", (3, 2), np.float32) as array:
        array[:] = [[1, 2], [3, 4], [5, 6]]
    stored = read_array(tmp_path / "deep" / "x.npy")
    assert (stored.tolist(), stored.dtype) == ([[1, 2], [3, 4], [5, 6]], np.float32)
    with pytest.raises(ValueError, match="read-only"):
        stored[0, 0] = 9


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing_array(tmp_path / "x.npy", (3,), np.uint8):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_and_not_the_end_of_the_process(small_disk: Path) -> None:
    with pytest.raises(StorageError, match="the disk is full"), writing_array(small_disk / "x.npy", (2**26,), np.uint8):
        pytest.fail("there is no room for 64 MB")
    assert list(small_disk.iterdir()) == []
