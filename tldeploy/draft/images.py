"""A backbone for images: what is known of it before the first run, and the settings that follow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tldeploy.artifacts import Choice
from tldeploy.data.image_profile import Pictures
from tldeploy.data.rows import Splits
from tldeploy.draft.rows import Classes
from tldeploy.draft.source import is_on_hub, read_config
from tldeploy.draft.stages import budget, methods, rhythm, weights
from tldeploy.draft.writing import relative
from tldeploy.errors import ArtifactError, UsageError

# The model_type of networks that are convolutions throughout, and whose pooling takes images of any size.
CONVOLUTIONAL = {
    *("bit", "densenet", "efficientnet", "efficientnet-lite", "hgnet_v2", "mobilenet_v1", "mobilenet_v2"),
    *("regnet", "resnet", "resnet-caffe", "vgg"),
}
ANY_SIZE = CONVOLUTIONAL | {"convnext", "convnextv2"}
CONVOLUTIONAL_NAME = re.compile(r"resnet|densenet|efficientnet|mobilenet[-_]?v[12]|regnet|vgg", re.IGNORECASE)
FILES = {".safetensors", ".pth", ".pt"}
FIX = "give a folder with config.json and model.safetensors, or a .safetensors, .pth or .pt file of tensors"

ENLARGED = 2  # times; more shows a network nothing new
STRIDE = 32  # pixels of an image to one of the last feature map, in nearly every network
USUAL_SIZE = 224
SMALLEST = 64  # a feature map of 2 × 2
LONG = 1.5  # longer by shorter side: more than photographs have
SMALL_IMAGE = 64  # pixels; less has no details to cut out or to erase
NARROW = 512  # channels of the features
CHARACTERS = 10  # classes with names of one character each: letters or digits


@dataclass(frozen=True)
class ImageBackbone:
    """kind: its model_type; empty for one on the hub, of which nothing is known but its name.

    preparation: how its images were prepared, see preparation.py. width: the length of its features.
    """

    source: str
    where: str
    kind: str = ""
    width: int | None = None
    has_norms: bool = True
    preparation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def look_at(cls, backbone: str, recipe_folder: Path) -> ImageBackbone:
        """Raises UsageError for what is no folder, file or name; ArtifactError for a folder or file of no use."""
        asked = f"use the backbone {backbone}"
        place = Path(backbone).expanduser()
        if place.is_dir():
            return cls._of_folder(place, recipe_folder, asked)
        if place.is_file():
            return cls._of_file(place, recipe_folder, asked)
        if not is_on_hub(backbone) or place.suffix in FILES:
            found = "it is no folder, no file, and no name that the hub could have"
            raise UsageError(asked, found, f"{FIX}, or a hub id such as microsoft/resnet-50")
        return cls(backbone, "a name on the hub; loaded at the first run. Images are prepared as it was trained.")

    @classmethod
    def _of_folder(cls, folder: Path, recipe_folder: Path, asked: str) -> ImageBackbone:
        from tldeploy.backbones.preparation import read_preparation

        config = read_config(folder, asked, FIX)
        kind = str(config.get("model_type", ""))
        if "vocab_size" in config and not config.keys() & {"num_channels", "image_size", "vision_config"}:
            found = f"it reads texts ({kind}), and the rows are images"
            raise ArtifactError(asked, found, f"{FIX}; if the rows are texts, name their column with --text")
        return cls(
            source=relative(folder.resolve(), recipe_folder),
            where=f"a folder on this machine; a {kind or 'network of no known kind'}.",
            kind=kind,
            width=_width(config),
            has_norms=kind != "vgg" or bool(config.get("batch_norm")),
            preparation=read_preparation(str(folder), None, SimpleNamespace(**config), asked),
        )

    @classmethod
    def _of_file(cls, file: Path, recipe_folder: Path, asked: str) -> ImageBackbone:
        from tldeploy.backbones.preparation import IMAGENET
        from tldeploy.backbones.state_dicts import load_state_dict

        config = load_state_dict(file, asked).config.to_dict()
        kind = str(config["model_type"])
        return cls(
            source=relative(file.resolve(), recipe_folder),
            where=f"a file of tensors on this machine; by their names and shapes a {kind}.",
            kind=kind,
            width=_width(config),
            has_norms=kind != "vgg" or bool(config.get("batch_norm")),
            preparation=IMAGENET,
        )

    def settings(self, splits: Splits) -> list[Choice]:
        rows = [*splits.train.inputs, *splits.validation.inputs, *splits.test.inputs]
        pictures = Pictures.of(rows)
        return [*self._backbone(pictures), *self._tune(splits, pictures), budget()]

    def _backbone(self, pictures: Pictures) -> list[Choice]:
        formats = ", ".join(f"{name} {count:,}" for name, count in pictures.formats.items())
        looked = f"{pictures.count:,} images were measured: {formats}; the median is {pictures.width} × "
        looked += f"{pictures.height} pixels."
        source = Choice(about="backbone.source", value=self.source, reason=f"{self.where}\n{looked}")
        return [source, *self._image_size(pictures), *self._resize(pictures)]

    def _image_size(self, pictures: Pictures) -> list[Choice]:
        trained = int(self.preparation.get("image_size", USUAL_SIZE))
        needed = max(SMALLEST, STRIDE * math.ceil(ENLARGED * pictures.side / STRIDE))
        if not self.preparation and (needed >= trained or not self._is_convolutional):
            return []
        if self.kind not in ANY_SIZE and not self._is_convolutional:
            size, reason = trained, f"pixels of each side, as it was trained; a {self.kind} may fit no other size."
        elif needed < trained:
            size = needed
            who = "it was" if self.preparation else "most are"
            reason = f"{who} trained at {trained} pixels, but half of the images have no side above {pictures.side}: "
            reason += f"enlarged to {size} they show all they have, at {(size / trained) ** 2:.0%} of the computation. "
            reason += f"{trained} may do better; try it if time allows."
        else:
            size, reason = trained, "pixels of each side, as it was trained. More show finer details, and cost more."
        return [Choice(about="backbone.image_size", value=size, reason=reason)] if 16 <= size <= 1024 else []

    def _resize(self, pictures: Pictures) -> list[Choice]:
        trained, share = self.preparation.get("resize"), float(self.preparation.get("crop_share", 1.0))
        shape = f"the longer side of the median image is {pictures.stretch:.2g} times the shorter"
        seen = share**2 / pictures.stretch
        if pictures.stretch > LONG:
            way, reason = "squash", f"{shape}: cutting out the middle, {1 - seen:.0%} of it would not be seen."
        elif trained == "crop":
            way, reason = "crop", f"as it was trained; {shape}, and {seen:.0%} of it is seen. `squash` shows all."
        elif trained:
            way, reason = trained, f"as it was trained; {shape}."
        else:
            return []
        return [Choice(about="backbone.resize", value=way, reason=reason)]

    def _tune(self, splits: Splits, pictures: Pictures) -> list[Choice]:
        classes = Classes.of(splits)
        sizes = ((200, 20, 8), (1_000, 12, 16), (5_000, 8, 32), (50_000, 3, 32), (200_000, 2, 64))
        epochs, batch = next(((epochs, batch) for below, epochs, batch in sizes if classes.rows < below), (1, 64))
        return [
            *methods(classes),
            *rhythm(classes.rows, epochs, batch),
            self._learning_rate(),
            _augmentation(splits, pictures),
            *weights(classes),
        ]

    def _learning_rate(self) -> Choice:
        is_narrow = self.width is not None and self.width <= NARROW
        if not self.has_norms:
            rate, why = 3e-5, "without normalisation layers a network bears small steps only"
        elif self._is_convolutional:
            rate, why = (1e-3, f"a narrow network ({self.width} features)") if is_narrow else (3e-4, "convolutions")
            why += " takes larger steps than a vision transformer" if is_narrow else " take larger steps than attention"
        else:
            rate, why = (
                (1e-4, "narrow ones take larger steps than ViT-base") if is_narrow else (5e-5, "usual for ViT-base")
            )
        return Choice(about="tune.learning_rate", value=rate, reason=f"{why}; lower it if training diverges.")

    @property
    def _is_convolutional(self) -> bool:
        return self.kind in CONVOLUTIONAL or (not self.kind and bool(CONVOLUTIONAL_NAME.search(self.source)))


def _width(config: Mapping[str, Any]) -> int | None:
    if config.get("model_type") == "vgg" and config.get("classifier"):
        return int(config["classifier_size"])
    sizes = config.get("hidden_sizes") or [config.get("hidden_dim") or config.get("hidden_size")]
    return sizes[-1] if isinstance(sizes, list) and isinstance(sizes[-1], int) else None


def _augmentation(splits: Splits, pictures: Pictures) -> Choice:
    rows, labels = len(splits.train), splits.labels
    mirrored = "Images are mirrored too: `none` where left and right mean something."
    if len(labels) >= CHARACTERS and all(len(label) == 1 for label in labels):
        strength, reason = "none", "the classes look like digits or letters, which are others when mirrored."
    elif rows >= 2_000:
        strength, reason = "light", f"{rows:,} images differ enough by themselves. {mirrored}"
    elif pictures.side < SMALL_IMAGE:
        strength, reason = "light", f"images of {pictures.side} pixels have no parts to cut out. {mirrored}"
    else:
        strength, reason = "strong", f"{rows:,} images are soon known by heart; as other views they last. {mirrored}"
    return Choice(about="tune.augmentation", value=strength, reason=reason)
