"""Augmentation: another view of a training image, which a person would still give the same label.

In this order: a part of the image at the same size (random resized crop), a mirror image, a small turn, brighter or
darker with more or less contrast, and a patch of it lost (random erasing, Zhong et al., 2020). Only training does this,
on pixels that are decoded and at the network's size; nothing of it is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Strength = Literal["none", "light", "strong"]


@dataclass(frozen=True)
class Level:
    """How far a view may be from its image.

    smallest_part: share of the area that is kept at least. aspect: how much that part may be stretched, as a factor.
    turn_degrees: to either side. light, contrast: as a share, up or down.
    erased: how often a patch is lost; it is 2 to 20 % of the area.
    """

    smallest_part: float
    aspect: float
    turn_degrees: float
    light: float
    contrast: float
    erased: float


LEVELS: dict[Strength, Level | None] = {
    "none": None,
    "light": Level(smallest_part=0.7, aspect=1.1, turn_degrees=5, light=0.1, contrast=0.1, erased=0.0),
    "strong": Level(smallest_part=0.35, aspect=4 / 3, turn_degrees=15, light=0.3, contrast=0.3, erased=0.25),
}
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = 3.3


def augment(image: Pixels, draw: np.random.Generator, strength: Strength, flip: bool = True) -> Pixels:
    """A view of `image`, uint8 [height, width, 3], of the same shape; the image itself is left as it is.

    The same state of `draw` gives the same view. flip: off where left and right mean something, as for digits, text or
    traffic signs.
    """
    level = LEVELS[strength]
    if level is None:
        return image
    view = _part(Image.fromarray(image), draw, level)
    if flip and draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # The corners that a turn uncovers get the image's mean colour, which says least.
    mean = tuple(int(channel) for channel in image.mean(axis=(0, 1)).round())
    view = view.rotate(draw.uniform(-1, 1) * level.turn_degrees, Image.Resampling.BILINEAR, fillcolor=mean)
    return _erased(_lit(np.asarray(view), draw, level), draw, level)


def _part(image: Image.Image, draw: np.random.Generator, level: Level) -> Image.Image:
    """A random part, brought back to the size of the whole (Szegedy et al., 2015)."""
    area = draw.uniform(level.smallest_part, 1)
    stretch = math.exp(draw.uniform(-1, 1) * math.log(level.aspect) / 2)
    width = min(1.0, math.sqrt(area) * stretch) * image.width
    height = min(1.0, math.sqrt(area) / stretch) * image.height
    left, top = draw.random() * (image.width - width), draw.random() * (image.height - height)
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize(image.size, Image.Resampling.BILINEAR, box)


def _lit(image: Pixels, draw: np.random.Generator, level: Level) -> Pixels:
    brighter = 1 + draw.uniform(-1, 1) * level.light
    steeper = 1 + draw.uniform(-1, 1) * level.contrast
    middle = float(image.mean()) * brighter
    # One line for every value, so a table of 256 does for all pixels.
    table = (np.arange(256) * brighter - middle) * steeper + middle
    lit: Pixels = np.clip(np.rint(table), 0, 255).astype(np.uint8)[image]
    return lit


def _erased(image: Pixels, draw: np.random.Generator, level: Level) -> Pixels:
    """`image` (which is changed) with a patch of noise; often with none."""
    if draw.random() >= level.erased:
        return image
    area = draw.uniform(*ERASED_AREA)
    stretch = math.exp(draw.uniform(-1, 1) * math.log(ERASED_ASPECT) / 2)
    height = max(1, round(min(1.0, math.sqrt(area) / stretch) * image.shape[0]))
    width = max(1, round(min(1.0, math.sqrt(area) * stretch) * image.shape[1]))
    top, left = draw.integers(image.shape[0] - height + 1), draw.integers(image.shape[1] - width + 1)
    image[top : top + height, left : left + width] = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image
