"""Small models for a Triton repository, in our own words: a classifier, a Python step, and an ensemble of both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONFIG = """\
name: "classifier"
backend: "onnxruntime"
max_batch_size: 16
input [
  {
    name: "pixels"
    data_type: TYPE_FP32
    dims: [ 4 ]
  }
]
output [
  {
    name: "scores"
    data_type: TYPE_FP32
    dims: [ 3 ]
    label_filename: "labels.txt"
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
}
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
"""

CROP = """\
name: "crop"
backend: "python"
max_batch_size: 16
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "cropped" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""

ENSEMBLE = """\
name: "whole"
platform: "ensemble"
max_batch_size: 8
input [ { name: "file" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "answer" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "crop"
      model_version: -1
      input_map { key: "image" value: "file" }
      output_map { key: "cropped" value: "between" }
    },
    {
      model_name: "classifier"
      model_version: 1
      input_map { key: "pixels" value: "between" }
      output_map { key: "scores" value: "answer" }
    }
  ]
}
"""


def graph(
    shape: tuple[int | str, ...] = ("batch", 4),
    out: tuple[int | str, ...] = ("batch", 3),
    kind: int = TensorProto.FLOAT,
    opset: int = 20,
    ir_version: int = 10,
    inputs: tuple[str, ...] = ("pixels",),
) -> onnx.ModelProto:
    """scores = pixels as float rows @ weights; a second input is declared and not used."""
    width = math.prod(dim for dim in shape[1:] if isinstance(dim, int))
    weights = numpy_helper.from_array(np.ones((width if width > 1 else 4, 3), dtype=np.float32), "weights")
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["scores"]),
    ]
    given = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    made = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, out)]
    body = helper.make_graph(nodes, "g", given, made, [weights])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def classifier(
    place: Path, config: str | None = CONFIG, model: onnx.ModelProto | bytes | None = None, version: str = "1"
) -> Path:
    """A whole ONNX model folder; `config` and `model` instead of the good ones."""
    folder = place / "classifier"
    (folder / version).mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (folder / "labels.txt").write_text("cat\ndog\nbird\n", encoding="utf-8")
    content = model if isinstance(model, bytes) else (model or graph()).SerializeToString()
    (folder / version / "model.onnx").write_bytes(content)
    return folder


def python_model(place: Path, config: str = CROP, name: str = "crop") -> Path:
    (place / name / "1").mkdir(parents=True)
    (place / name / "1" / "model.py").write_text("class TritonPythonModel: ...\n", encoding="utf-8")
    (place / name / "config.pbtxt").write_text(config, encoding="utf-8")
    return place / name


def ensemble(place: Path, config: str = ENSEMBLE, crop: str = CROP) -> None:
    classifier(place)
    python_model(place, crop)
    (place / "whole" / "1").mkdir(parents=True)
    (place / "whole" / "config.pbtxt").write_text(config, encoding="utf-8")


def put(old: str, new: str, text: str = CONFIG) -> str:
    assert old in text
    return text.replace(old, new)
