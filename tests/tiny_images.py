"""A whole image job at the smallest size that still learns: a small random ResNet, and coloured squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}
SIZE = 32

RECIPE = """\
name: tiny-images
task: image-classification
data:
  file: squares
  test: 0.3
  validation: 0.25
backbone:
  source: backbone
  image_size: 32
  resize: squash
tune:
  epochs: 3
  learning_rate: 0.003
  batch_size: 16
export:
  variants: [fp32]
deploy:
  repository: triton_repo
bench:
  engines: [torch, onnxruntime, triton-http, triton-grpc, triton-shared-memory]
  seconds: 0.3
  concurrency: [1, 4]
"""


def write_image_backbone(folder: Path) -> Path:
    """config.json, model.safetensors and preprocessor_config.json of a small ResNet."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    sizes = '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}\n'
    (folder / "preprocessor_config.json").write_text(sizes, encoding="utf-8")
    return folder


def write_squares(folder: Path, per_class: int = 40) -> Path:
    """An image folder of noisy squares; the colour gives the class away, formats and sizes vary."""
    draw = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            size = int(draw.integers(24, 48))
            pixels = draw.normal(128, 30, (size, size, 3))
            start = int(draw.integers(0, size // 2))
            pixels[start : start + size // 2, start : start + size // 2] = colour
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / label / f"{number:03d}.{'png' if number % 2 else 'jpg'}")
    return folder


def write_image_project(folder: Path) -> Path:
    """A folder with recipe.yaml, squares/ and backbone/, ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_image_backbone(folder / "backbone")
    write_squares(folder / "squares")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder
