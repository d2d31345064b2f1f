"""How the images of a pretrained network were prepared: what its files say of it, in a few plain settings.

That is preprocessor_config.json as transformers writes it, or else, of a network of timm, `pretrained_cfg` in its
config.json, which is read without timm.

image_size, resize, crop_share, resample: how an image is brought to image_size × image_size, in the words of the image
encoder: "crop" scales the shorter side to image_size / crop_share and cuts the middle out, "squash" scales each side.
rescale_factor, mean, std: a pixel of 0 to 255 becomes (pixel * rescale_factor - mean) / std, channel by channel.
channels: "rgb" or "bgr", the order in which the network wants them, and that mean and std are in.
"""

from __future__ import annotations

import math
from typing import Any

from tldeploy.errors import ArtifactError

# What torchvision's checkpoints want, and the default where nothing is known.
IMAGENET: dict[str, Any] = {
    "image_size": 224,
    "resize": "crop",
    "crop_share": 0.875,
    "resample": "bilinear",
    "rescale_factor": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "channels": "rgb",
}
LITE = {
    **IMAGENET,
    "resample": "bicubic",
    "rescale_factor": 1.0,
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
}

# Pillow's numbers; box and hamming, which no known network wants, become the nearest of those that the encoder has.
_RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}

# timm's words; what it takes where a network's own are missing stands in `parse_timm`.
_TIMM_RESIZES = {"center": "crop", "squash": "squash", "border": "pad"}
_TIMM_RESAMPLES = {
    **dict.fromkeys(("bilinear", "box", "hamming", "random"), "bilinear"),
    **{name: name for name in ("nearest", "bicubic", "lanczos")},
}


def read_preparation(source: str, revision: str | None, config: Any, asked: str) -> dict[str, Any]:
    """The preparation that a folder or hub id says, with ImageNet's for what it leaves open.

    config: the network's; where no preprocessor_config.json is, its pretrained_cfg counts, or its image_size. Raises
    ArtifactError for images that are not square, or settings that cannot be read.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    of_timm: dict[str, Any] | None = getattr(config, "pretrained_cfg", None)
    written: dict[str, Any] | None = None
    file = "preprocessor_config.json"
    try:
        written, _ = ImageProcessingMixin.get_image_processor_dict(source, revision=revision)
    except (OSError, ValueError):  # it has none
        file = "config.json"
    try:
        if written is None and of_timm is not None:
            return parse_timm(of_timm)
        _, height, width = trained_shape(config)
        defaults = {**IMAGENET, **({"image_size": height} if isinstance(height, int) and height == width else {})}
        return defaults if written is None else parse_preparation(written, defaults)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        found = f"what its {file} says of images cannot be used ({error})"
        raise ArtifactError(asked, found, "mend the file, or take those settings away for ImageNet's") from error


def trained_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a network was trained with; 3, 224 and 224 where it does not say.

    config: the network's, with `pretrained_cfg` if it is one of timm.
    """
    if of_timm := getattr(config, "pretrained_cfg", None):
        channels, height, width = of_timm.get("input_size") or (3, 224, 224)
        return int(channels), int(height), int(width)
    size = getattr(config, "image_size", None) or IMAGENET["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width


def parse_timm(written: dict[str, Any]) -> dict[str, Any]:
    """The pretrained_cfg of a network of timm as a preparation, with timm's own defaults.

    Two things are not said the same: bars beside an image that is padded are black, in timm of the mean colour; and an
    image that is squashed or padded is seen whole, where timm cuts 1 - crop_pct of it off, which is 0 in nearly all.
    Raises ValueError for what cannot be said in one; TypeError or KeyError for settings of another form.
    Source: timm.data.resolve_data_config and transforms_imagenet_eval, 1.0.
    """
    channels, height, width = written.get("input_size") or (3, 224, 224)
    if height != width:
        raise ValueError(f"images of {height} × {width} are not square")
    mean, std = written.get("mean") or IMAGENET["mean"], written.get("std") or IMAGENET["std"]
    if not channels == len(mean) == len(std) == 3:
        raise ValueError(f"{channels} channels, {len(mean)} means and {len(std)} deviations, where there are 3 colours")
    resize = _TIMM_RESIZES[written.get("crop_mode") or "center"]
    scaled = math.floor(height / min(1.0, written.get("crop_pct") or 0.875))  # of which `height` is cut out
    return {
        "image_size": int(height),
        "resize": resize,
        "crop_share": height / scaled if resize == "crop" else 1.0,
        "resample": _TIMM_RESAMPLES[written.get("interpolation") or "bicubic"],
        "rescale_factor": 1 / 255,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "channels": "rgb",
    }


def parse_preparation(written: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The settings of an image processor of transformers as a preparation.

    Raises ValueError for what cannot be said in one; TypeError or KeyError for settings of another form.
    """
    kind = str(written.get("image_processor_type") or written.get("feature_extractor_type") or "")
    resample = written.get("resample", 2)
    return {
        **_geometry(written, kind, defaults["image_size"]),
        "resample": resample if isinstance(resample, str) else _RESAMPLES[resample],
        **_scale(written, kind),
        "channels": "bgr" if written.get("do_flip_channel_order", False) else "rgb",
    }


def _geometry(written: dict[str, Any], kind: str, default: int) -> dict[str, Any]:
    size = written.get("size", default)
    crop = written.get("crop_size") if written.get("do_center_crop", "crop_size" in written) else None
    cropped = _side(crop) if crop is not None else None
    scaled = _side(size)
    if kind.startswith("ConvNext") and scaled < 384:  # its size is the one after the crop
        return {"image_size": scaled, "resize": "crop", "crop_share": float(written.get("crop_pct") or 224 / 256)}
    if kind.startswith("ConvNext"):
        return {"image_size": scaled, "resize": "squash", "crop_share": 1.0}
    if cropped is not None:
        return {"image_size": cropped, "resize": "crop", "crop_share": min(1.0, cropped / scaled)}
    keeps_aspect = isinstance(size, dict) and "shortest_edge" in size
    return {"image_size": scaled, "resize": "crop" if keeps_aspect else "squash", "crop_share": 1.0}


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    if size["height"] != size["width"]:
        raise ValueError(f"images of {size['height']} × {size['width']} are not square")
    return int(size["height"])


def _scale(written: dict[str, Any], kind: str) -> dict[str, Any]:
    factor = float(written.get("rescale_factor", 1 / 255)) if written.get("do_rescale", True) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if written.get("do_normalize", True):
        mean = [float(value) for value in written.get("image_mean", IMAGENET["mean"])]
        std = [float(value) for value in written.get("image_std", IMAGENET["std"])]
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"{len(mean)} means and {len(std)} deviations for three channels")
    if kind.startswith("EfficientNet"):
        if written.get("rescale_offset", False):
            mean = [value + 1 for value in mean]
        if written.get("include_top", True):  # it divides by the deviation once more
            std = [value * value for value in std]
    return {"rescale_factor": factor, "mean": mean, "std": std}
