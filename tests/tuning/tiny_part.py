"""A network with random weights and a few rows that it can learn, for tests of training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.tiny_images import write_image_backbone
from tests.tiny_project import FILLERS, WORDS, write_backbone
from tldeploy.backbones.images import load_image_backbone
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork
from tldeploy.backbones.text import load_text_backbone
from tldeploy.recipe import Backbone
from tldeploy.tasks.image_classification import ImageExamples
from tldeploy.tasks.text_classification import TextExamples
from tldeploy.tuning.job import Part


def text_network(folder: Path, rows: int = 36, dropout: float = 0.1) -> tuple[Network, Part, Part]:
    """The network, rows to learn from, and half as many to choose by."""
    if not (folder / "backbone").exists():
        write_backbone(folder / "backbone")
    loaded = load_text_backbone(Backbone(source="backbone", max_length=32), folder)
    torch.manual_seed(1)
    network = TextNetwork(loaded.model, "mean", classes=3, dropout=dropout)

    def part(count: int, seed: int) -> Part:
        draw = np.random.default_rng(seed)
        classes: NDArray[np.int64] = np.arange(count) % 3
        texts = []
        for label in classes:
            words = [str(word) for word in draw.choice(FILLERS, int(draw.integers(1, 9)))]
            texts.append(" ".join([*words, str(draw.choice(list(WORDS.values())[label]))]))
        return Part(TextExamples(loaded.encoder.token_ids(texts), loaded.encoder), classes)

    return network, part(rows, 0), part(rows // 2, 1)


def image_network(folder: Path, rows: int = 24) -> tuple[Network, Part]:
    """A small ResNet, with batch norms, and squares of noise whose brightness gives the class away."""
    if not (folder / "backbone").exists():
        write_image_backbone(folder / "backbone")
    loaded = load_image_backbone("backbone", None, folder)
    normalisation = {name: loaded.preparation[name] for name in ("mean", "std", "rescale_factor", "channels")}
    torch.manual_seed(1)
    network = ImageNetwork(loaded.model, normalisation, classes=2)
    classes: NDArray[np.int64] = np.arange(rows) % 2
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 100, (rows, 32, 32, 3)) + 100 * classes[:, None, None, None]
    return network, Part(ImageExamples(pixels.astype(np.uint8), "squares"), classes)


def sha256(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
