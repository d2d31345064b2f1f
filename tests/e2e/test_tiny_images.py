"""The whole image job on a small made-up set: as whatever file an image comes, it is served as the graph answers it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_images import COLOURS, write_image_project, write_squares
from tldeploy import artifacts, pipeline
from tldeploy.data.rows import Rows
from tldeploy.errors import DataError, RequestError, UsageError
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.triton import Client, Protocol
from tldeploy.tasks import load_task
from tldeploy.triton.server import Server

ORIENTATION = 0x0112  # the EXIF tag; 6 says that the camera was turned
PROTOCOLS: tuple[Protocol, Protocol] = ("http", "grpc")


def write_odd_images(folder: Path) -> None:
    """Files that a person's folder has beside plain RGB ones: alpha, 16 bits of grey, a turned camera."""
    draw = np.random.default_rng(1)
    for label, colour in COLOURS.items():
        pixels = np.full((30, 40, 3), colour, dtype=np.uint8)
        pixels[:, 20:] = draw.integers(0, 256, (30, 20, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        clear = image.copy()
        clear.putalpha(128)
        clear.save(folder / label / "alpha.png")
        Image.merge("LA", (image.convert("L"), Image.new("L", image.size, 200))).save(folder / label / "grey-alpha.png")
        Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257).save(folder / label / "16-bit.png")
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        image.save(folder / label / "turned.jpg", exif=exif)


ODD = ("alpha.png", "grey-alpha.png", "16-bit.png", "turned.jpg")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job, run with odd files among the images and broken ones, which the recipe skips."""
    folder = write_image_project(tmp_path_factory.mktemp("job") / "tiny-images")
    write_odd_images(folder / "squares")
    whole = (folder / "squares" / "red" / "000.jpg").read_bytes()
    (folder / "squares" / "red" / "cut-off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "squares" / "blue" / "no-image.png").write_bytes(b"not an image")
    recipe = folder / "recipe.yaml"
    skipping = recipe.read_text(encoding="utf-8").replace("data:\n", "data:\n  broken: skip\n")
    recipe.write_text(skipping.replace("  variants: [fp32]\n", "  variants: [fp32, fused]\n"), encoding="utf-8")
    assert [outcome.stage for outcome in pipeline.run(folder)] == ["tune", "export", "deploy", "bench"]
    return folder


@pytest.fixture(scope="module")
def runner(project: Path) -> OnnxRunner:
    manifest = artifacts.load(project / "onnx", "export")
    return OnnxRunner(project / "onnx" / "fp32.onnx", load_task(manifest.task, project / "onnx", manifest.labels))


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with Server(project / "triton_repo", http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    protocol: Protocol = request.param
    url = server.http_url if protocol == "http" else server.grpc_url
    with Client(url=url, model="tiny-images", protocol=protocol) as opened:
        yield opened


def test_every_held_out_image_is_served_as_the_graph_answers_it_in_process(
    project: Path, runner: OnnxRunner, client: Client
) -> None:
    rows = Rows.load(project / "tuned" / "test.jsonl").inputs
    assert len(rows) == 40
    served = np.concatenate([client.predict([row]) for row in rows])
    np.testing.assert_allclose(served, np.concatenate([runner.predict([row]) for row in rows]), atol=1e-6)
    np.testing.assert_allclose(client.predict(rows), served, atol=1e-6)


def test_the_served_model_has_learnt_the_colours(project: Path) -> None:
    report = json.loads((project / "report.json").read_text(encoding="utf-8"))
    values = {engine["name"]: engine["metric"]["value"] for engine in report["engines"]}
    served = ["triton http", "triton grpc", "triton http shared memory"]
    assert list(values) == ["torch eager", "onnxruntime fp32", *served]
    assert len(set(values.values())) == 1
    assert values["triton http"] > 0.6


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("label", COLOURS)
def test_an_unusual_file_is_served_as_it_is_answered_in_process(
    project: Path, runner: OnnxRunner, client: Client, name: str, label: str
) -> None:
    path = project / "squares" / label / name
    np.testing.assert_allclose(client.predict([str(path)]), runner.predict([str(path)]), atol=1e-6)


def test_a_turned_camera_changes_nothing(client: Client, project: Path, tmp_path: Path) -> None:
    turned = project / "squares" / "red" / "turned.jpg"
    stored = Image.open(turned)
    upright = tmp_path / "upright.png"
    stored.transpose(Image.Transpose.ROTATE_270).save(upright)
    np.testing.assert_allclose(client.predict([str(turned)]), client.predict([str(upright)]), atol=1e-6)
    lying = tmp_path / "lying.png"
    Image.fromarray(np.asarray(stored)).save(lying)
    assert np.abs(client.predict([str(turned)]) - client.predict([str(lying)])).max() > 1e-4


def test_bytes_are_answered_as_the_file_they_come_from(client: Client, project: Path) -> None:
    paths = sorted((project / "squares" / "green").glob("00*"))
    from_bytes = client.predict([path.read_bytes() for path in paths])
    np.testing.assert_allclose(from_bytes, client.predict([str(path) for path in paths]), atol=1e-6)
    labels = [answer[0].label for answer in client.classify([path.read_bytes() for path in paths])]
    assert [answer[0].label for answer in client.classify([str(path) for path in paths])] == labels


def test_a_bad_image_is_refused_alone(client: Client, project: Path) -> None:
    good = (project / "squares" / "red" / "001.png").read_bytes()
    before = client.predict([good])
    for bad, reason in (
        (b"not an image", "it is no image of a known format"),
        (b"", "it is empty"),
        (good[:90], "it "),
    ):
        with pytest.raises(RequestError, match=reason):
            client.predict([bad])
        with pytest.raises(RequestError, match="image 1 cannot be used"):
            client.predict([good, bad])
    np.testing.assert_array_equal(client.predict([good]), before)


def test_a_path_that_is_not_there_is_refused_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(UsageError, match=r"shoe\.png cannot be read"):
        client.predict(["shoe.png"])


def test_one_model_answers_images_of_any_size(client: Client) -> None:
    for size in ((1, 1), (300, 200)):
        stream = io.BytesIO()
        Image.new("RGB", size, COLOURS["blue"]).save(stream, "PNG")
        np.testing.assert_allclose(client.predict([stream.getvalue()]).sum(), 1, atol=1e-5)


def test_skipped_images_are_counted_and_named_with_their_reasons(project: Path) -> None:
    decisions = artifacts.load(project / "tuned", "tune").decisions
    left_out = next(choice for choice in decisions if choice.about == "rows left out")
    assert left_out.value == 2
    assert "blue/no-image.png (it is no image of a known format" in left_out.reason
    assert "red/cut-off.jpg (it is cut off)" in left_out.reason


def test_broken_images_are_named_and_refused_where_the_recipe_does_not_skip_them(tmp_path: Path) -> None:
    folder = write_image_project(tmp_path / "tiny-images")
    (folder / "squares" / "red" / "broken.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"red/broken\.png: it is empty"):
        pipeline.tune(folder)
    assert not (folder / "tuned").exists()


def test_a_network_without_attention_leaves_out_the_fused_graph_and_says_why(project: Path) -> None:
    manifest = artifacts.load(project / "onnx", "export")
    assert [variant["name"] for variant in manifest.details["variants"]] == ["fp32"]
    left_out = next(choice for choice in manifest.decisions if choice.about == "variant fused")
    assert (left_out.value, left_out.reason) == ("left out", "the architecture has no attention to fuse")


def test_the_report_page_speaks_of_images(project: Path) -> None:
    page = (project / "report.html").read_text(encoding="utf-8")
    words = page[page.index("<body>") :]
    assert "decoding the image included" in words
    assert "tokenizing" not in words
    assert "image classification" in words


def test_the_images_of_a_second_set_can_be_asked_too(client: Client, runner: OnnxRunner, tmp_path: Path) -> None:
    write_squares(tmp_path / "more", per_class=2)
    rows = [str(path) for path in sorted((tmp_path / "more").rglob("*.png"))]
    np.testing.assert_allclose(client.predict(rows), runner.predict(rows), atol=1e-6)
