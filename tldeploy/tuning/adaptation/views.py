"""Another view of target rows, of which the class stays the same: what the student of self-training sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tldeploy.errors import RecipeError
from tldeploy.recipe import Tune
from tldeploy.tasks.classification import Examples, Tensors
from tldeploy.tasks.image_classification import ImageExamples
from tldeploy.tasks.text_classification import TextExamples
from tldeploy.tuning.augmentation import augment

WORD_DROP = 0.2


def altered(
    examples: Examples, rows: Sequence[int], draw: np.random.Generator, settings: Tune, word_drop: float = WORD_DROP
) -> Tensors:
    """A batch of some rows: texts with a share of their tokens left out, images augmented."""
    if isinstance(examples, TextExamples):
        return examples.encoder.pad([drop_tokens(examples.ids[row], word_drop, draw) for row in rows])
    if isinstance(examples, ImageExamples):
        how = (draw, settings.augmentation, settings.mirroring)
        return {"pixels": np.stack([augment(examples.pixels[row], *how) for row in rows])}
    raise RecipeError("alter rows", f"no view of {type(examples).__name__} is known", "use texts or images")


def drop_tokens(ids: Sequence[int], rate: float, draw: np.random.Generator) -> list[int]:
    """`ids` without those that chance takes; the first and the last, most tokenizers' own, always stay."""
    keep = draw.random(len(ids)) >= rate
    keep[[0, -1]] = True
    return [token for token, kept in zip(ids, keep, strict=True) if kept]
