"""Texts and images that are made to take very much: the real server answers or refuses them, in little memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.tasks.test_pixels import jpeg_of_scans, png_of_size, tiff_of_strips
from tests.tiny import answer
from tests.tiny_images import COLOURS, image_answer, square, write_image_export
from tldeploy.errors import RequestError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

MAX_TEXT_BYTES = 1_000_000  # tokenize_step.py's


@pytest.fixture(scope="module")
def server(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bombs")
    publish(tiny_export, folder / "repo", "tiny", Deploy(max_batch_size=8))
    publish(write_image_export(folder / "squares"), folder / "repo", "squares", Deploy(max_batch_size=8))
    with Server(folder / "repo", http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running


@pytest.fixture
def texts(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url, model="tiny", protocol="grpc") as client:
        yield client


@pytest.fixture
def images(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url, model="squares", protocol="grpc") as client:
        yield client


def most_resident_mb(server: Server, model: str) -> float:
    """The most that the worker of a model ever held in memory."""
    assert server.pid is not None
    for process in psutil.Process(server.pid).children(recursive=True):
        if process.name() == "triton_python_backend_stub" and f"/{model}/" in " ".join(process.cmdline()):
            return int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
    raise AssertionError(f"{model} has no worker")


def test_a_text_of_100000_words_gets_its_answer(server: Server, texts: Client, tiny_export: Path) -> None:
    long = "great phone " * 50_000
    np.testing.assert_allclose(texts.predict([long]), answer(tiny_export, [long]), atol=1e-6, rtol=0)
    assert most_resident_mb(server, "tiny.tokenize") < 400


def test_many_long_texts_are_tokenized_a_few_at_a_time(server: Server, texts: Client, tiny_export: Path) -> None:
    """All at once they take 360 MB each: each sign becomes a token, before what is too long is cut off."""
    long = ["." * MAX_TEXT_BYTES, "good", "!" * MAX_TEXT_BYTES, "bad", "?" * MAX_TEXT_BYTES]
    np.testing.assert_allclose(texts.predict(long), answer(tiny_export, long), atol=1e-6, rtol=0)
    assert most_resident_mb(server, "tiny.tokenize") < 700


def test_a_text_of_50_mb_is_refused_before_it_is_tokenized(server: Server, texts: Client, tiny_export: Path) -> None:
    """It took 4,400 MB and 50 seconds."""
    with pytest.raises(RequestError, match="text 1 has 50,000,000 bytes, the limit is 1,000,000"):
        texts.predict(["good", "good phone" * 5_000_000])
    np.testing.assert_allclose(texts.predict(["good"]), answer(tiny_export, ["good"]), atol=1e-6, rtol=0)
    assert most_resident_mb(server, "tiny.tokenize") < 800


def of(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)  # type: ignore[arg-type]  # each format has options of its own
    return stream.getvalue()


def png_with_notes(count: int, size: int) -> bytes:
    """A small image with as many compressed texts, each of so many bytes when it is unpacked."""
    packed, plain = zlib.compress(b"a" * size), square("red")
    notes = [b"note%d\0\0" % number + packed for number in range(count)]
    chunks = [
        struct.pack(">I", len(note)) + b"zTXt" + note + struct.pack(">I", zlib.crc32(b"zTXt" + note)) for note in notes
    ]
    return plain[:33] + b"".join(chunks) + plain[33:]


LARGE = (5000, 4000)
FRAMES = [Image.new("RGB", (500, 500), colour) for colour in COLOURS.values()] * 30
REFUSED = {
    "png of 10,000 million pixels": (lambda: png_of_size(100_000, 100_000), "the limit is 50 million"),
    "png with notes": (lambda: png_with_notes(20, 60_000_000), "it is damaged"),
    "jpeg in passes": (lambda: jpeg_of_scans(3000), "it is drawn in 3,010 passes, the limit is 50"),
    "tiff in strips": (lambda: tiff_of_strips(500_000), "it is cut into 500,000 pieces, the limit is 100,000"),
    "cut off": (lambda: square("red", "JPEG")[:-200], "it is cut off"),
}
ANSWERED = {
    "gif of frames": lambda: of(FRAMES[0], "GIF", save_all=True, append_images=FRAMES),
    "webp of frames": lambda: of(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[:9], lossless=True),
    "tiff of pages": lambda: of(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES, compression="tiff_deflate"),
    "cmyk": lambda: of(Image.new("CMYK", LARGE, (0, 200, 200, 0)), "TIFF", compression="tiff_deflate"),
    "16 bits": lambda: of(Image.fromarray(np.full(LARGE, 30_000, dtype=np.uint16)), "PNG"),
    "fractions": lambda: of(Image.fromarray(np.full(LARGE, 0.3, dtype=np.float32)), "TIFF", compression="tiff_deflate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_take_too_much_is_refused(server: Server, images: Client, name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(RequestError, match=f"image 1 cannot be used: .*{reason}"):
        images.predict([square("red"), make()])
    assert images.classify([square("red")])[0][0].label == "red"
    assert most_resident_mb(server, "squares.decode") < 700


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_large_and_sound_gets_its_answer(server: Server, images: Client, name: str) -> None:
    image = ANSWERED[name]()
    np.testing.assert_allclose(images.predict([image])[0], image_answer(image), atol=1e-4, rtol=0)
    assert most_resident_mb(server, "squares.decode") < 700


def test_a_request_of_large_images_takes_the_memory_of_one(server: Server, images: Client) -> None:
    """Each takes 300 MB while it is decoded, and 60 MB decoded."""
    clear = of(Image.new("RGBA", LARGE, (*COLOURS["green"], 200)), "PNG")
    assert [row[0].label for row in images.classify([clear] * 4)] == ["green"] * 4
    assert most_resident_mb(server, "squares.decode") < 700
