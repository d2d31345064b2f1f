"""Image classification: an image in, the probability of each class out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.arrays import read_array, writing_array
from tldeploy.tasks.classification import ENCODER, Classification, Row, Tensors
from tldeploy.tasks.pixels import ImageEncoder

SAMPLE_BATCH = 3
PARITY_BATCHES = (1, 3, 8)
ENCODED_AT_ONCE = 64


class ImageExamples:
    """Images as pixels, uint8 [images, size, size, 3], in memory or mapped from a file."""

    lengths = None

    def __init__(self, pixels: NDArray[np.uint8], key: str) -> None:
        self.pixels, self._key = pixels, key

    @property
    def key(self) -> str:
        return self._key

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> Tensors:
        return {"pixels": self.pixels[list(indices)]}


class ImageClassification(Classification):
    """Rows are image files: their paths, or their bytes. The input is uint8 [batch, height, width, 3], RGB."""

    name = "image-classification"
    column = "image"
    inputs = ("pixels",)
    axes = ("batch",)

    def __init__(self, labels: Sequence[str], encoder: ImageEncoder) -> None:
        super().__init__(labels)
        self.encoder = encoder

    @classmethod
    def load(cls, folder: Path, labels: Sequence[str]) -> ImageClassification:
        settings: dict[str, Any] = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
        return cls(labels, ImageEncoder(**settings))

    def save(self, folder: Path) -> None:
        (folder / ENCODER).write_text(json.dumps(self.encoder.settings, indent=2) + "\n", encoding="utf-8")

    @property
    def preprocessing(self) -> dict[str, Any]:
        return dict(self.encoder.settings)

    def encode(self, rows: Sequence[Row]) -> Tensors:
        encoded: Tensors = self.encoder.encode([_bytes(row) for row in rows])
        return encoded

    def examples(self, rows: Sequence[Row], cache: Path | None = None) -> ImageExamples:
        size = self.encoder.image_size
        digest = hashlib.sha256(json.dumps(self.encoder.settings, sort_keys=True).encode())
        for row in rows:
            digest.update(hashlib.sha256(_bytes(row)).digest())
        key, shape = digest.hexdigest(), (len(rows), size, size, 3)
        if cache is None:
            pixels = np.empty(shape, dtype=np.uint8)
            self._fill(pixels, rows)
            return ImageExamples(pixels, key)
        file = cache / f"pixels-{key[:32]}.npy"
        if not file.exists():
            with writing_array(file, shape, np.uint8) as mapped:
                self._fill(mapped, rows)
        return ImageExamples(read_array(file), key)

    def _fill(self, pixels: NDArray[np.uint8], rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), ENCODED_AT_ONCE):
            pixels[start : start + ENCODED_AT_ONCE] = self.encode(rows[start : start + ENCODED_AT_ONCE])["pixels"]

    def sample(self) -> Tensors:
        size = self.encoder.image_size
        return {"pixels": np.random.default_rng(0).integers(0, 256, (SAMPLE_BATCH, size, size, 3), dtype=np.uint8)}

    def parity_batches(self, rows: Sequence[Row]) -> list[Tensors]:
        """Real images in batches of several sizes, and noise, which no photograph is like."""
        taken = [[rows[(start + at) % len(rows)] for at in range(size)] for start, size in enumerate(PARITY_BATCHES)]
        return [*(self.encode(part) for part in taken), self.sample()]


def _bytes(row: Row) -> bytes:
    return row if isinstance(row, bytes) else Path(row).read_bytes()
