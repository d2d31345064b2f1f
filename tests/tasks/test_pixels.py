from __future__ import annotations

import ast
import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tldeploy.tasks import pixels
from tldeploy.tasks.pixels import MAX_PIXELS, MAX_SCANS, MAX_STRIPS, ImageEncoder, decode, open_image


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def grey(value: float, dtype: str) -> Image.Image:
    return Image.fromarray(np.full((4, 6), value, dtype=dtype))


def png_of_size(width: int, height: int) -> bytes:
    """A sound header and next to no data."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 9))]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_of_scans(count: int, mode: str = "RGB") -> bytes:
    """A progressive image whose last scan is drawn `count` times more, a few bytes each."""
    whole = file_of(Image.new(mode, (64, 64)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def tiff_of_strips(count: int, order: str = "<") -> bytes:
    """A grey image one pixel wide, each pixel a strip of its own."""
    places = 8 + 2 + 9 * 12 + 4
    sizes = {256: 1, 257: count, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    counts = {273: count, 279: count}
    values = {**sizes, 273: places, 279: places + 4 * count}
    entries = [(tag, counts.get(tag, 1), values[tag]) for tag in sorted(values)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, number, value) for tag, number, value in entries)
    arrays = [struct.pack(f"{order}I", value) * count for value in (8, 1)]
    return head + table + struct.pack(f"{order}I", 0) + b"".join(arrays)


def palette(transparency: int | bytes | None = None) -> bytes:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return file_of(image, **({} if transparency is None else {"transparency": transparency}))


COLOUR = (200, 100, 50)
ORANGE = Image.new("RGB", (6, 4), COLOUR)
HALF = (228, 178, 152)  # that colour at half strength on white

# What a file holds, and the one colour that it decodes to.
MODES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "RGB": (file_of(ORANGE), COLOUR),
    "BMP": (file_of(ORANGE, "BMP"), COLOUR),
    "lossless WebP": (file_of(ORANGE, "WEBP", lossless=True), COLOUR),
    "TIFF": (file_of(ORANGE, "TIFF"), COLOUR),
    "grey": (file_of(Image.new("L", (6, 4), 77)), (77, 77, 77)),
    "1 bit, white": (file_of(Image.new("1", (6, 4), 1)), (255, 255, 255)),
    "1 bit, black": (file_of(Image.new("1", (6, 4), 0)), (0, 0, 0)),
    "1 bit, transparent": (file_of(Image.new("1", (6, 4), 0), transparency=0), (255, 255, 255)),
    "alpha": (file_of(Image.new("RGBA", (6, 4), (*COLOUR, 128))), HALF),
    "fully transparent": (file_of(Image.new("RGBA", (6, 4), (*COLOUR, 0))), (255, 255, 255)),
    "grey with alpha": (file_of(Image.new("LA", (6, 4), (77, 255))), (77, 77, 77)),
    "grey, transparent": (file_of(Image.new("L", (6, 4), 77), transparency=77), (255, 255, 255)),
    "RGB, transparent": (file_of(ORANGE, transparency=COLOUR), (255, 255, 255)),
    "palette": (palette(), COLOUR),
    "palette, transparent": (palette(1), (255, 255, 255)),
    "palette with alpha": (palette(b"\xff\x80"), HALF),
    "GIF": (file_of(ORANGE, "GIF"), COLOUR),
    "GIF, animated": (
        file_of(ORANGE, "GIF", save_all=True, append_images=[Image.new("RGB", (6, 4), "blue")]),
        COLOUR,
    ),
    "PNG, animated": (
        file_of(ORANGE, save_all=True, append_images=[Image.new("RGB", (6, 4), "blue")]),
        COLOUR,
    ),
    "CMYK": (file_of(Image.new("CMYK", (6, 4), (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    "16-bit grey, white": (file_of(grey(65535, "uint16")), (255, 255, 255)),
    "16-bit grey, middle": (file_of(grey(32768, "uint16")), (128, 128, 128)),
    "16-bit grey, dark": (file_of(grey(300, "uint16")), (1, 1, 1)),
    "16-bit grey, transparent": (file_of(grey(300, "uint16"), transparency=300), (255, 255, 255)),
    "16-bit grey, big-endian": (file_of(Image.new("I;16B", (6, 4), 25700), "TIFF"), (100, 100, 100)),
    "32-bit grey": (file_of(grey(25700, "int32"), "TIFF"), (100, 100, 100)),
    "fractions to 1": (file_of(grey(0.5, "float32"), "TIFF"), (128, 128, 128)),
    "fractions to 255": (file_of(grey(99.6, "float32"), "TIFF"), (100, 100, 100)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_image_becomes_the_rgb_that_a_person_sees(name: str) -> None:
    content, colour = MODES[name]
    image = decode(content)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_any_colours_decodes_within_its_loss(mode: str) -> None:
    image = Image.new("RGB", (16, 16), COLOUR).convert(mode)
    seen = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(np.asarray(decode(file_of(image, "JPEG", quality=95))) - seen).max() <= 3


def test_the_16_bit_scale_is_exact_and_monotonic() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = np.asarray(decode(file_of(Image.fromarray(values))))[..., 0].astype(int)
    assert (np.diff(decoded.reshape(-1)) >= 0).all()
    assert decoded.reshape(-1)[np.arange(256) * 257].tolist() == list(range(256))


# Where the top left corner (red) of a 3 × 2 image ends up, by the tag; EXIF 2.32, 4.6.4.
CORNERS = {1: (0, 0), 2: (2, 0), 3: (2, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 2), 8: (0, 2)}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright(orientation: int, form: str) -> None:
    image = Image.new("RGB", (3, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(file_of(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {})))
    assert upright.size == ((3, 2) if orientation < 5 else (2, 3))
    assert upright.getpixel(CORNERS[orientation]) == (255, 0, 0)


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_too_many_strips_is_refused_before_it_is_opened(order: str) -> None:
    assert decode(tiff_of_strips(1000, order)).size == (1, 1000)
    with pytest.raises(ValueError, match="it is cut into 100,001 pieces, the limit is 100,000"):
        decode(tiff_of_strips(MAX_STRIPS + 1, order))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_of_too_many_passes_is_refused(mode: str) -> None:
    own = jpeg_of_scans(0, mode).count(b"\xff\xda")
    assert decode(jpeg_of_scans(MAX_SCANS - own, mode)).size == (64, 64)
    for hidden in (b"", b"\xff\x01", b"\xff\xff\xff", b"\xff\xd0"):  # what the decoder passes over
        whole = jpeg_of_scans(MAX_SCANS - own + 1, mode)
        last = whole.rindex(b"\xff\xda")
        with pytest.raises(ValueError, match="it is drawn in 51 passes, the limit is 50"):
            decode(whole[:last] + hidden + whole[last:])


def test_what_only_looks_like_a_pass_is_not_counted() -> None:
    """The thumbnail in its EXIF data, and what cameras put behind the end of an image."""
    image = Image.new("RGB", (64, 64))
    inside = file_of(image, "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\x02" * 100)
    assert decode(inside).size == (64, 64)
    assert decode(file_of(image, "JPEG") + b"\xff\xda\0\x02" * 100).size == (64, 64)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_spoils_no_image() -> None:
    content = file_of(ORANGE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    assert decode(content).size == (6, 4)


def noise(size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(form: str, share: float) -> None:
    content = file_of(noise(), form)
    assert decode(content).size == (32, 32)
    with pytest.raises(ValueError, match=r"^it is (cut off|damaged|no image)"):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_file_cut_off_in_its_pixels_is_called_that(form: str) -> None:
    content = file_of(noise(), form)
    with pytest.raises(ValueError, match=r"^it is cut off$"):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"hello", r"it is no image of a known format \(JPEG, PNG, WEBP, BMP, GIF, TIFF\)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is no image of a known format"),
        (file_of(ORANGE, "PPM"), "it is no image of a known format"),
        (file_of(ORANGE, "ICO"), "it is no image of a known format"),
        (png_of_size(10_000, 6_000), "it has 60.0 million pixels, the limit is 50 million"),
        (png_of_size(10_000, 10_000), "it has 100.0 million pixels, the limit is 50 million"),
        (png_of_size(60_000, 60_000), "it has 3,600.0 million pixels, the limit is 50 million"),
        (file_of(grey(-1.0, "float32"), "TIFF"), "its grey values are from -1 to -1, and white is not known"),
        (file_of(grey(300.0, "float32"), "TIFF"), "its grey values are from 300 to 300"),
        (file_of(grey(float("nan"), "float32"), "TIFF"), "its grey values are not numbers everywhere"),
        (file_of(grey(70_000, "int32"), "TIFF"), "its grey values are from 70000 to 70000"),
        (file_of(Image.new("LAB", (6, 4)), "TIFF"), "its colours are CIE"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        decode(content)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
def test_damaged_bytes_make_an_image_or_a_value_error_and_nothing_else(form: str, data: st.DataObject) -> None:
    content = bytearray(file_of(noise(8), form))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(content))
    except ValueError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= MAX_PIXELS


def test_the_header_alone_tells_the_format() -> None:
    assert [open_image(file_of(ORANGE, form)).format for form in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["crop", "squash", "pad"]),
    st.sampled_from(["bilinear", "bicubic", "nearest", "lanczos"]),
    st.sampled_from([0.5, 0.875, 1.0]),
)
def test_any_image_fits_any_size(width: int, height: int, size: int, resize: str, resample: str, share: float) -> None:
    encoder = ImageEncoder(size, resize, share, resample)
    image = file_of(ramp(width, height))
    encoded = encoder.encode([image, image])["pixels"]
    assert (encoded.shape, encoded.dtype) == ((2, size, size, 3), np.uint8)
    assert (encoded[0] == encoded[1]).all()
    assert (encoded[0] == encoder.fit(decode(image))).all()


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_an_image_of_the_right_size_passes_unchanged(resize: str) -> None:
    image = noise(24)
    assert (ImageEncoder(24, resize).fit(image) == np.asarray(image)).all()


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (157, 112), (112, 112)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_a_crop_is_what_scaling_and_then_cutting_gives(width: int, height: int, share: float) -> None:
    image = ramp(width, height)
    shorter = round(56 / share)
    scaled = image.resize(
        (shorter * width // min(width, height), shorter * height // min(width, height)), Image.Resampling.BILINEAR
    )
    left, top = (scaled.width - 56) / 2, (scaled.height - 56) / 2
    cut = scaled.crop((round(left), round(top), round(left) + 56, round(top) + 56))
    fitted = ImageEncoder(56, "crop", share).fit(image)
    assert np.abs(fitted.astype(int) - np.asarray(cut)).max() <= 5  # half a pixel of the ramp, by rounding


def test_squashing_keeps_every_edge_and_padding_the_proportions() -> None:
    image = ramp(90, 30)
    squashed, padded = ImageEncoder(30, "squash").fit(image), ImageEncoder(30, "pad").fit(image)
    assert (squashed[0, 0, 0] <= 5, squashed[0, -1, 0] >= 250, squashed[-1, 0, 1] >= 250) == (True, True, True)
    assert not padded[:10].any()
    assert not padded[20:].any()
    assert (padded[10:20] == np.asarray(image.resize((30, 10), Image.Resampling.BILINEAR))).all()


def test_a_strip_of_many_pixels_takes_no_more_memory_than_itself() -> None:
    strip = Image.new("RGB", (1_000_000, 1), COLOUR)
    for resize in ("crop", "squash", "pad"):
        assert ImageEncoder(8, resize).fit(strip).shape == (8, 8, 3)


def test_no_images_make_an_empty_batch() -> None:
    assert ImageEncoder(8).encode([])["pixels"].shape == (0, 8, 8, 3)


def test_a_bad_image_is_named_by_its_index() -> None:
    with pytest.raises(ValueError, match=r"^image 1 cannot be used: it is empty$"):
        ImageEncoder(8).encode([file_of(ORANGE), b""])


def test_settings_make_the_same_encoder_again() -> None:
    encoder = ImageEncoder(24, "pad", 0.9, "bicubic")
    assert ImageEncoder(**encoder.settings).settings == encoder.settings
    assert encoder.settings == {"image_size": 24, "resize": "pad", "crop_share": 0.9, "resample": "bicubic"}


@pytest.mark.parametrize(
    "wrong", [{"image_size": 0}, {"resize": "stretch"}, {"crop_share": 0}, {"crop_share": 1.1}, {"resample": "cubic"}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not in 0|is called"):
        ImageEncoder(**({"image_size": 8} | wrong))
    with pytest.raises(TypeError, match="mean"):
        ImageEncoder(8, mean=0.5)


def test_the_file_imports_only_what_a_servers_worker_has() -> None:
    tree = ast.parse(Path(pixels.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported - sys.stdlib_module_names == {"numpy", "PIL"}
