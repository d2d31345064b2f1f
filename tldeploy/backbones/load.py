"""From a recipe's backbone to the network that is tuned and the task that encodes its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork
from tldeploy.recipe import Recipe
from tldeploy.tasks.classification import Classification


def load_pretrained(recipe: Recipe, labels: Sequence[str], folder: Path) -> tuple[Network, Classification]:
    """The pretrained backbone under a fresh head, and its task; what the task needs is kept in `folder`.

    Raises what load_text_backbone and load_image_backbone raise, RecipeError for an image_size that it cannot read.
    """
    if recipe.task == "text-classification":
        return _text(recipe, labels, folder)
    return _image(recipe, labels)


def _text(recipe: Recipe, labels: Sequence[str], folder: Path) -> tuple[Network, Classification]:
    from tldeploy.backbones.text import load_text_backbone
    from tldeploy.tasks.text_classification import TOKENIZER, TextClassification

    loaded = load_text_backbone(recipe.backbone, recipe.folder)
    (folder / TOKENIZER).write_text(loaded.tokenizer_json, encoding="utf-8")
    network = TextNetwork(loaded.model, recipe.backbone.pooling, len(labels), recipe.tune.dropout)
    return network, TextClassification(labels, loaded.encoder, folder / TOKENIZER)


def _image(recipe: Recipe, labels: Sequence[str]) -> tuple[Network, Classification]:
    from tldeploy.backbones.images import check_size, load_image_backbone
    from tldeploy.tasks.image_classification import ImageClassification
    from tldeploy.tasks.pixels import ImageEncoder

    settings = recipe.backbone
    loaded = load_image_backbone(settings.source, settings.revision, recipe.folder)
    preparation = dict(loaded.preparation)
    encoder = ImageEncoder(
        image_size=settings.image_size or preparation["image_size"],
        resize=settings.resize or preparation["resize"],
        crop_share=preparation["crop_share"],
        resample=preparation["resample"],
    )
    check_size(loaded.model, encoder.image_size, f"use the backbone {settings.source}")
    normalisation = {name: preparation[name] for name in ("mean", "std", "rescale_factor", "channels")}
    network = ImageNetwork(loaded.model, normalisation, len(labels), recipe.tune.dropout)
    return network, ImageClassification(labels, encoder)
