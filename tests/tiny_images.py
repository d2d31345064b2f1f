"""A whole image job at the smallest size that still learns: a small random ResNet, and coloured squares.

`write_image_export` is an export artifact without a job behind it: it tells colours by the mean of all pixels.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.tasks.pixels import ImageEncoder

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
  scenarios: []
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


def square(label: str, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), COLOURS[label]).save(stream, form)
    return stream.getvalue()


def write_image_export(folder: Path) -> Path:
    """Write an export artifact of one variant, whose golden rows are a square of each colour."""
    encoder = ImageEncoder(SIZE, "squash")
    with artifacts.writing(folder) as new:
        onnx.save(make_image_graph(), new / "fp32.onnx")
        (new / "encoder.json").write_text(json.dumps(encoder.settings), encoding="utf-8")
        golden = {
            "rows": [base64.b64encode(square(label)).decode() for label in COLOURS],
            "probabilities": [image_answer(square(label)).tolist() for label in COLOURS],
        }
        (new / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
        manifest = Manifest(
            kind="export",
            name="squares",
            inputs=artifacts.fingerprint(COLOURS),
            task="image-classification",
            labels=list(COLOURS),
            preprocessing=encoder.settings,
            details={"chosen": "fp32", "variants": [{"name": "fp32", "file": "fp32.onnx"}]},
        )
        artifacts.seal(new, manifest)
    return folder


def image_answer(image: bytes) -> np.ndarray:
    """The probabilities of the graph, float32 [classes], worked out by hand."""
    mean = ImageEncoder(SIZE, "squash").encode([image])["pixels"].astype(np.float32).mean(axis=(0, 1, 2)) / 255
    exponents = np.exp(mean @ _LINEAR)
    return exponents / exponents.sum()


# Which colour a pixel has tells its class: its share of blue, green and red.
_LINEAR = np.array([[-4, -4, 8], [-4, 8, -4], [8, -4, -4]], dtype=np.float32)


def make_image_graph() -> onnx.ModelProto:
    """Mean of all pixels, linear, softmax."""
    weights = {"white": np.float32(255), "axes": np.array([1, 2]), "linear": _LINEAR}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["colour"]),
        helper.make_node("MatMul", ["colour", "linear"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    given = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(COLOURS)])
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "squares", [given], [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
