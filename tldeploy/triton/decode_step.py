"""The decoding step of a served image model: encoded image files in, `pixels` out.

`publish` copies this file as `model.py` into `<name>.decode/<version>/`, with tldeploy/tasks/pixels.py beside it as
`pixels.py` and the model's encoder.json. It runs in a Triton worker, with numpy and Pillow and nothing of tldeploy.
Because the encoder is the very file that training used, served pixels cannot differ.

Each request is decoded by itself: an image that cannot be used refuses the request that it came in, and no other.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.image = config["input"][0]["name"]
        self.pixels = config["output"][0]["name"]
        self.encoder = load_encoder(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """The pixels of a request's images, BYTES [rows, 1], or a refusal that names the first bad one."""
        images = pb_utils.get_input_tensor_by_name(request, self.image).as_numpy().reshape(-1)
        try:
            pixels = self.encoder.encode(images.tolist())["pixels"]
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self.pixels, pixels)])


def load_encoder(folder: Path) -> Any:
    """The encoder of this version. Loaded by path: several versions run in one server, each with its own file."""
    spec = importlib.util.spec_from_file_location("pixels", folder / "pixels.py")
    assert spec is not None
    assert spec.loader is not None
    pixels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pixels)
    return pixels.ImageEncoder(**json.loads((folder / "encoder.json").read_text(encoding="utf-8")))
