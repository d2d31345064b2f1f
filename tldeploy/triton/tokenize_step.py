"""The tokenizing step of a served text model: strings in, `input_ids` and `attention_mask` out.

`publish` copies this file as `model.py` into `<name>.tokenize/<version>/`, with tldeploy/tasks/encoding.py beside it as
`encoding.py` and the model's tokenizer.json and encoder.json. It runs in a Triton worker, with numpy and tokenizers and
nothing of tldeploy. Because the encoder is the very file that training used, served tokens cannot differ.

The texts of all requests handed over are tokenized in as few calls as their size allows; each request is padded by
itself, so that an answer never depends on what else was being asked. A tokenizer reads the whole of a text before it
cuts off what is too much for the network, with up to 400 bytes of memory for each: so there is a limit.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

MAX_TEXT_BYTES = 1_000_000  # of a text, and of those that are tokenized at a time


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.text = config["input"][0]["name"]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.encoder = load_encoder(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        texts: list[str] = []
        slices: list[slice | str] = []
        for request in requests:
            try:
                own = self._texts(request)
            except ValueError as error:
                slices.append(str(error))
                continue
            slices.append(slice(len(texts), len(texts) + len(own)))
            texts += own
        ids = [ids for part in parts(texts, MAX_TEXT_BYTES) for ids in self.encoder.token_ids(part)]
        return [self._refusal(part) if isinstance(part, str) else self._tokens(ids[part]) for part in slices]

    def _texts(self, request: Any) -> list[str]:
        """The texts of a request, BYTES [rows, 1]. Raises ValueError for what is not UTF-8, or too long."""
        rows = pb_utils.get_input_tensor_by_name(request, self.text).as_numpy().reshape(-1)
        texts = []
        for index, row in enumerate(rows):
            if len(row) > MAX_TEXT_BYTES:
                raise ValueError(f"text {index} has {len(row):,} bytes, the limit is {MAX_TEXT_BYTES:,}")
            try:
                texts.append(row.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"text {index} is not UTF-8: {error.reason} at byte {error.start}") from None
        return texts

    @staticmethod
    def _refusal(reason: str) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))

    def _tokens(self, ids: list[list[int]]) -> Any:
        encoded = self.encoder.pad(ids)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, encoded[name]) for name in self.outputs]
        )


def parts(texts: list[str], most: int) -> Iterator[list[str]]:
    """The texts in order, as few at a time as keep to `most` bytes together, each of which keeps to it alone."""
    part: list[str] = []
    held = 0
    for text in texts:
        size = len(text.encode("utf-8", "surrogatepass"))
        if part and held + size > most:
            yield part
            part, held = [], 0
        part.append(text)
        held += size
    if part:
        yield part


def load_encoder(folder: Path) -> Any:
    """The encoder of this version. Loaded by path: several versions run in one server, each with its own file."""
    spec = importlib.util.spec_from_file_location("encoding", folder / "encoding.py")
    assert spec is not None
    assert spec.loader is not None
    encoding = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(encoding)
    settings = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return encoding.TextEncoder.from_file(folder / "tokenizer.json", settings)
