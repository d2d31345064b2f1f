from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tldeploy.data.idx import write_idx_images
from tldeploy.errors import ArtifactError, DataError

NAMES = ["shirt", "ankle boot", "bag"]


def idx(values: Any) -> bytes:
    """As the set's own files are: a type, the dims, the values."""
    array = np.asarray(values, dtype=np.uint8)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4), dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.none() | st.integers(1, 4))
def test_the_first_of_every_class_are_written_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int], per_class: int | None
) -> None:
    folder, images = tmp_path_factory.mktemp("idx"), pictures(len(labels))
    count = write_idx_images(idx(images), idx(labels), NAMES, folder, per_class)
    expected = [i for i, label in enumerate(labels) if per_class is None or labels[:i].count(label) < per_class]
    digits = len(str(len(labels) - 1))
    written = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    assert count == len(expected)
    assert set(written) == {f"{NAMES[labels[i]]}/{i:0{digits}}.png" for i in expected}
    for i in expected:
        with Image.open(written[f"{NAMES[labels[i]]}/{i:0{digits}}.png"]) as image:
            assert (np.asarray(image) == images[i]).all()


IMAGES, LABELS = idx(pictures(3)), idx([0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (b"hello", LABELS, "it is no gzip file"),
        (IMAGES[:-9], LABELS, "it is no gzip file"),
        (LABELS, LABELS, "it is no IDX file of 3 dims"),
        (IMAGES, IMAGES, "it is no IDX file of 1 dim of"),
        (IMAGES, gzip.compress(b"", mtime=0), "it is no IDX file"),
        (gzip.compress(gzip.decompress(IMAGES)[:-1], mtime=0), LABELS, "it says 3 × 5 × 4 and holds 59 bytes"),
        (IMAGES, idx([0, 1]), "there are 3 images and 2 labels"),
    ],
)
def test_files_that_are_damaged_or_do_not_belong_together_are_refused(
    tmp_path: Path, images: bytes, labels: bytes, said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        write_idx_images(images, labels, NAMES, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b"], "the labels go to 2, and there are names for 2 classes"),
        (["T-shirt/top", "b", "c"], "'T-shirt/top' cannot be the name of a folder"),
        (["..", "b", "c"], "'..' cannot be"),
        (["a", "a", "c"], "two classes have the same name"),
    ],
)
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_idx_images(IMAGES, LABELS, names, tmp_path)
    assert not list(tmp_path.iterdir())
