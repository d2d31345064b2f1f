"""Pictures, and a network for them, for suites that ask only how fast images are answered."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from tldeploy.backbones.network import ImageNetwork

IMAGES, PHOTO = 64, (500, 375)


def photos() -> list[bytes]:
    """JPEGs as a camera's pictures are when they are shown on a page, smooth and of PHOTO pixels."""
    draw, made = np.random.default_rng(0), []
    for _ in range(IMAGES):
        photo = io.BytesIO()
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(PHOTO, Image.Resampling.BICUBIC).save(photo, "JPEG", quality=90)
        made.append(photo.getvalue())
    return made


def resnet18(classes: int) -> ImageNetwork:
    """Of random weights, the same each time."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "rescale_factor": 1 / 255, "channels": "rgb"}
    return ImageNetwork(ResNetModel(config).eval(), normalisation, classes).eval()
