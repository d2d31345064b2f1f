from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tldeploy.recipe import Tune
from tldeploy.tasks.image_classification import ImageExamples
from tldeploy.tuning.augmentation import ERASED_AREA, LEVELS, Pixels, Strength, augment
from tldeploy.tuning.batches import collate
from tldeploy.tuning.job import Part
from tldeploy.tuning.order import Key


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(image: Pixels, strength: Strength, count: int, flip: bool = True) -> list[Pixels]:
    draw = np.random.default_rng(0)
    return [augment(image, draw, strength, flip) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(list(LEVELS)), st.integers(0, 2**32), st.booleans())
def test_a_view_has_the_shape_of_its_image_and_is_the_same_for_the_same_draw(
    height: int, width: int, strength: Strength, seed: int, flip: bool
) -> None:
    image = noise(height, width)
    view = augment(image, np.random.default_rng(seed), strength, flip)
    assert (view.shape, view.dtype) == (image.shape, np.uint8)
    assert (augment(image, np.random.default_rng(seed), strength, flip) == view).all()
    assert (image == noise(height, width)).all()


def test_no_augmentation_changes_nothing_and_draws_nothing() -> None:
    draw = np.random.default_rng(3)
    image = noise(8, 8)
    assert (augment(image, draw, "none") == image).all()
    assert draw.random() == np.random.default_rng(3).random()


def test_views_differ_from_each_other() -> None:
    for strength in ("light", "strong"):
        assert len({view.tobytes() for view in views(noise(16, 16), strength, 20)}) == 20


def gradient() -> Pixels:
    """Bright on the right, with an edge for turns to blur."""
    return np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)


def test_strong_is_further_from_the_image_than_light() -> None:
    image = gradient()
    far = {
        strength: np.mean([np.abs(view.astype(int) - image).mean() for view in views(image, strength, 60, flip=False)])
        for strength in ("light", "strong")
    }
    assert 1 < far["light"] < far["strong"] < 64


@pytest.mark.parametrize(("mirroring", "least", "most"), [(True, 30, 70), (False, 0, 0)])
def test_the_recipe_says_whether_images_are_mirrored(mirroring: bool, least: int, most: int) -> None:
    examples = ImageExamples(np.stack([gradient()] * 100), "key")
    part = Part(examples, np.zeros(100, dtype=np.int64))
    found = collate(part, Tune(mirroring=mirroring))([Key(0, row, 1.0) for row in range(100)])["pixels"].numpy()
    assert least <= sum(bool(view[:, :8].mean() > view[:, -8:].mean()) for view in found) <= most


def test_half_of_the_views_are_mirrored_and_none_without_flip() -> None:
    def mirrored(flip: bool) -> int:
        return sum(bool(view[:, :8].mean() > view[:, -8:].mean()) for view in views(gradient(), "light", 200, flip))

    assert 70 <= mirrored(flip=True) <= 130
    assert mirrored(flip=False) == 0


def test_an_image_of_one_colour_only_gets_lighter_or_darker() -> None:
    image = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    for view in views(image, "light", 30):
        assert np.ptp(view.reshape(-1, 3).astype(int), axis=0).max() <= 1
        assert np.abs(view.astype(int) - image).max() <= 0.1 * 255 + 0.1 * 128


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_as_many_views_lose_a_patch_as_the_level_says(strength: Strength) -> None:
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    noisy = [len(np.unique(view.reshape(-1, 3), axis=0)) > 2 for view in views(image, strength, 200)]
    level = LEVELS[strength]
    assert level is not None
    assert abs(np.mean(noisy) - level.erased) <= 0.08


def test_a_lost_patch_stays_within_its_share_of_the_area() -> None:
    image = np.full((64, 64, 3), 128, dtype=np.uint8)
    for view in views(image, "strong", 100):
        colour = np.bincount(view[..., 0].reshape(-1)).argmax()
        lost = (np.abs(view.astype(int) - int(colour)) > 1).any(axis=-1).mean()
        assert lost <= ERASED_AREA[1] * 1.1
