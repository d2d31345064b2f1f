from __future__ import annotations

import numpy as np

from tldeploy.recipe import Tune
from tldeploy.tasks.image_classification import ImageExamples
from tldeploy.tuning.adaptation.views import WORD_DROP, altered, drop_tokens


def test_dropped_tokens_leave_the_order_and_both_ends() -> None:
    ids = list(range(1000))
    left = drop_tokens(ids, WORD_DROP, np.random.default_rng(0))
    assert left == sorted(left)
    assert (left[0], left[-1]) == (0, 999)
    assert 750 < len(left) < 850


def test_a_text_without_words_stays() -> None:
    assert drop_tokens([2, 3], 1.0, np.random.default_rng(0)) == [2, 3]
    assert drop_tokens([0], 1.0, np.random.default_rng(0)) == [0]


def test_images_are_augmented_and_the_originals_left() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    before, examples = pixels.copy(), ImageExamples(pixels, "key")
    seen = altered(examples, [2, 0], np.random.default_rng(1), Tune(augmentation="light"))["pixels"]
    assert seen.shape == (2, 16, 16, 3)
    assert (seen != pixels[[2, 0]]).any(axis=(1, 2, 3)).all()
    same = altered(examples, [2, 0], np.random.default_rng(1), Tune(augmentation="none"))["pixels"]
    np.testing.assert_array_equal(same, pixels[[2, 0]])
    np.testing.assert_array_equal(pixels, before)
