"""Images to pixels, once and for all: training, calibration, benchmarks and the served decoding step use this file.

`tldeploy deploy` copies it, byte for byte, beside the Triton step that runs it. So it may import only numpy and
Pillow, which the server's workers have, and nothing of tldeploy.

1. `open_image` reads the header: the format, and what decoding would take. Small files can be made to take very much.
2. `decode` makes it an upright RGB image of 8 bits, whatever it was.
3. `ImageEncoder.fit` brings that to the network's size.

Colour profiles are not applied. Of an animation the first frame counts.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # 150 MB decoded; a few kilobytes of PNG can hold far more
# A progressive JPEG is decoded once over for each scan, of a few bytes each if somebody wants it; cameras make ten.
MAX_SCANS = 50
MAX_STRIPS = 100_000  # of a TIFF; each becomes an object of some hundred bytes
ROWS_AT_ONCE = 64
RESIZES = ("crop", "squash", "pad")
RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_ORIENTATION = 0x0112  # the EXIF tag
# The next marker of a JPEG, past what is filled in, escaped, or restarts within a scan.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Of a TIFF, what is counted: BitsPerSample, StripOffsets, TileOffsets.
_COUNTED = {258, 273, 324}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageEncoder:
    """Turns encoded images into `pixels`, uint8 [images, image_size, image_size, 3], RGB.

    resize: "crop" scales the shorter side to image_size / crop_share and cuts the middle out; "squash" scales each side
    by itself; "pad" scales the longer side and fills the rest with black.
    resample: "nearest", "bilinear", "bicubic" or "lanczos", with antialiasing when an image gets smaller.
    """

    def __init__(
        self,
        image_size: int,
        resize: str = "crop",
        crop_share: float = 1.0,
        resample: str = "bilinear",
        **unused: Any,
    ) -> None:
        if unused:
            raise TypeError(f"unknown settings of an image encoder: {', '.join(sorted(unused))}")
        if image_size < 1 or not 0 < crop_share <= 1:
            raise ValueError(f"image_size {image_size} is below 1, or crop_share {crop_share} is not in 0 .. 1")
        if resize not in RESIZES or resample not in RESAMPLES:
            raise ValueError(f"no way to resize is called {resize!r}, or none to resample {resample!r}")
        self.settings: dict[str, Any] = {
            "image_size": image_size,
            "resize": resize,
            "crop_share": crop_share,
            "resample": resample,
        }
        self.image_size, self.resize, self.crop_share = image_size, resize, crop_share
        self._resample = RESAMPLES[resample]

    def encode(self, images: Sequence[bytes]) -> dict[str, Pixels]:
        """Raises ValueError, with the image's index and the reason, for one that cannot be decoded."""
        pixels = np.empty((len(images), self.image_size, self.image_size, 3), dtype=np.uint8)
        for index, image in enumerate(images):
            try:
                pixels[index] = self.fit(decode(image))
            except ValueError as error:
                raise ValueError(f"image {index} cannot be used: {error}") from None
        return {"pixels": pixels}

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB image at the network's size, uint8 [image_size, image_size, 3]."""
        size, (width, height) = self.image_size, image.size
        if self.resize == "pad":
            longest = max(width, height)
            inner = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
            square = Image.new("RGB", (size, size))
            square.paste(image.resize(inner, self._resample), ((size - inner[0]) // 2, (size - inner[1]) // 2))
            return np.asarray(square)
        box = (0.0, 0.0, float(width), float(height))
        if self.resize == "crop":
            # The middle is cut out and scaled in one go. Scaled first, a strip of 1 × 50,000,000 would fill the memory.
            side = self.crop_share * min(width, height)
            box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        return np.asarray(image.resize((size, size), self._resample, box))


def open_image(image: bytes) -> Image.Image:
    """An image of which only the header is read; `.format` is its format ("MPO" is a JPEG with further pictures).

    Raises ValueError with the reason when it is no image of a known format, or has too many pixels to decode.
    """
    if not image:
        raise ValueError("it is empty")
    if (strips := _strips(image)) > MAX_STRIPS:
        raise ValueError(f"it is cut into {strips:,} pieces, the limit is {MAX_STRIPS:,}")
    try:
        opened = Image.open(io.BytesIO(image), formats=FORMATS)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(f"it is no image of a known format ({known}), or its first bytes are damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit, above ours.
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise ValueError(_too_many(int(count[1]) if count else MAX_PIXELS + 1)) from None
    except Exception as error:  # noqa: BLE001 — a parser fed with damaged bytes raises about anything
        raise ValueError(_damage(error)) from None
    if opened.width * opened.height > MAX_PIXELS:
        raise ValueError(_too_many(opened.width * opened.height))
    if opened.format in {"JPEG", "MPO"} and (scans := _scans(image)) > MAX_SCANS:
        raise ValueError(f"it is drawn in {scans:,} passes, the limit is {MAX_SCANS}")
    return opened


def _strips(image: bytes) -> int:
    """The most strips or tiles that a TIFF's first directory speaks of; 0 for what is no TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(image[:2])
    if order is None:
        return 0
    is_big = image[2:4] in {b"\x2b\0", b"\0\x2b"}
    first, number, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    try:
        (at,) = struct.unpack_from(order + first, image, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + number, image, at)
        table = image[at + struct.calcsize(order + number) :][: entries * struct.calcsize(order + entry)]
        return max((count for tag, _, count in struct.iter_unpack(order + entry, table) if tag in _COUNTED), default=0)
    except (struct.error, OverflowError):
        return 0  # damaged, as Pillow will say


def _scans(image: bytes) -> int:
    """How often the decoder of a JPEG goes over its pixels."""
    at, scans = 2, 0
    while (marker := _MARKER.search(image, at)) and (kind := marker[1][0]) != _END_OF_IMAGE:
        scans += kind == _START_OF_SCAN
        at = marker.end() + int.from_bytes(image[marker.end() : marker.end() + 2], "big")
    return scans


def decode(image: bytes) -> Image.Image:
    """An encoded image, turned upright as its EXIF data says, as RGB of 8 bits; what is transparent becomes white.

    Raises ValueError with the reason, for instance "it is cut off".
    """
    opened = open_image(image)
    try:
        opened.load()
        return _upright(_rgb(opened), opened)
    except ValueError as error:
        raise ValueError(str(error) if isinstance(error, _Unusable) else _damage(error)) from None
    except Exception as error:  # noqa: BLE001 — a decoder fed with damaged bytes raises about anything
        raise ValueError(_damage(error)) from None


class _Unusable(ValueError):
    """A sound image whose values do not say what they mean."""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        grey, alpha = _eight_bits(image)
        image = Image.merge("RGBA", (grey, grey, grey, alpha)) if alpha else Image.merge("RGB", (grey, grey, grey))
    elif image.mode == "LAB":
        raise _Unusable("its colours are CIE L*a*b*, which needs a colour profile; save it as RGB")
    elif image.mode == "RGB" and max(image.info.get("transparency", (0,))) > 255:
        # The transparent colour of 16 bits, where the pixels have been cut to their upper 8.
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    if not image.has_transparency_data:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of more than 8 bits as grey of 8, and its alpha, if it has one.

    Whole numbers are of 16 bits, 0 to 65,535. Fractions are 0 to 1, or 0 to 255 if one of them is above 1. The scale is
    never stretched to an image's own darkest and lightest value: the same grey must be the same in every image.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    is_whole = image.mode != "F"
    most = 65535.0 if is_whole else 255.0 if high > 1 else 1.0
    if not 0 <= low <= high <= most:
        held = "not numbers everywhere" if np.isnan(low + high) else f"from {low:g} to {high:g}"
        raise _Unusable(f"its grey values are {held}, and white is not known; save it with 8 or 16 bits")
    grey = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), ROWS_AT_ONCE):  # the whole as float64 would take eight times its memory
        rows = slice(top, top + ROWS_AT_ONCE)
        grey[rows] = np.rint(values[rows] * (255.0 / most))
    transparent = image.info.get("transparency") if is_whole else None
    if not isinstance(transparent, int):
        return Image.fromarray(grey), None
    return Image.fromarray(grey), Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255)))


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """`image` turned as the EXIF data of `opened` says; damaged EXIF data says nothing."""
    try:
        turn = _UPRIGHT.get(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 — as for any damaged bytes
        return image
    return image if turn is None else image.transpose(turn)


def _too_many(count: int) -> str:
    return f"it has {count / 1e6:,.1f} million pixels, the limit is {MAX_PIXELS / 1e6:,.0f} million"


def _damage(error: Exception) -> str:
    said = str(error).strip().rstrip(".").lower()
    if "truncated" in said or "end of file" in said or isinstance(error, EOFError):
        return "it is cut off"
    return f"it is damaged ({said or type(error).__name__})"
