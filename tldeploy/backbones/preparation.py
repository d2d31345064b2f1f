"""How the images of a pretrained network were prepared: its preprocessor_config.json in a few plain settings.

image_size, resize, crop_share, resample: how an image is brought to image_size × image_size, in the words of the image
encoder: "crop" scales the shorter side to image_size / crop_share and cuts the middle out, "squash" scales each side.
rescale_factor, mean, std: a pixel of 0 to 255 becomes (pixel * rescale_factor - mean) / std, channel by channel.
channels: "rgb" or "bgr", the order in which the network wants them, and that mean and std are in.
"""

from __future__ import annotations

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


def read_preparation(source: str, revision: str | None, config: Any, asked: str) -> dict[str, Any]:
    """The preparation that a folder or hub id says, with ImageNet's for what it leaves open.

    config: the network's, whose image_size counts where no preprocessor_config.json is. Raises ArtifactError for
    images that are not square, or settings that cannot be read.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    defaults = dict(IMAGENET)
    if isinstance(size := getattr(config, "image_size", None), int):
        defaults["image_size"] = size
    try:
        written, _ = ImageProcessingMixin.get_image_processor_dict(source, revision=revision)
    except (OSError, ValueError):  # it has none
        return defaults
    try:
        return parse_preparation(written, defaults)
    except (TypeError, KeyError, ValueError) as error:
        found = f"its preprocessor_config.json cannot be used ({error})"
        raise ArtifactError(asked, found, "mend the file, or take it away for ImageNet's settings") from error


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
