"""A served model as its server describes it: makes requests of rows or tensors, and results of what is answered.

A published model is two that can be asked: the one by its own name takes rows as they are (texts, image files), its
last step, `<name>.graph`, takes the tensors that rows are encoded to. Nothing here sends or waits for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError, RequestError, UsageError
from tldeploy.runtime.triton.request import Request, Tensor, plain
from tldeploy.tasks.classification import Row


class Classification(NamedTuple):
    """A label with its probability, by Triton's classification extension (which rounds to six decimals)."""

    label: str
    probability: float


def probabilities(answers: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The answers to the parts of one call: float32 [rows, classes]."""
    return np.concatenate(answers).astype(np.float32, copy=False)


def classifications(answers: Sequence[NDArray[Any]], count: int) -> list[list[Classification]]:
    """The labels of each of `count` rows, out of the answers to the parts of one call."""
    found = [_classification(cell) for answer in answers for cell in answer.reshape(-1)]
    each = len(found) // count
    return [found[start : start + each] for start in range(0, len(found), each)] if each else []


def _classification(cell: bytes) -> Classification:
    """Read `score:index:label`; the label may have colons."""
    score, _, label = cell.decode("utf-8").split(":", 2)
    return Classification(label, float(score))


def configuration(answer: Any) -> dict[str, Any]:
    """A model's configuration, out of what `get_model_config` gave: HTTP has it bare, gRPC inside a message."""
    config = plain(answer)
    inner: dict[str, Any] = config.get("config", config)
    return inner


def next_model(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name and version of the model whose output a configured model gives: an ensemble's last step, or, of the one
    that splits requests between a canary and the stable version, the stable one; None for a model that computes.

    The version is empty for the newest one.
    """
    if steps := config.get("ensemble_scheduling", {}).get("step", []):
        version = int(steps[-1].get("model_version", -1))
        return steps[-1]["model_name"], str(version) if version > 0 else ""
    if stable := config.get("parameters", {}).get("stable"):
        return stable["string_value"], ""
    return None


@dataclass(frozen=True)
class Endpoint:
    """One Triton model. max_batch_size: 0 for a model without a batch axis."""

    name: str
    version: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    max_batch_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any], version: str = "") -> Endpoint:
        """config: as the server gives it."""
        limit = int(config.get("max_batch_size", 0))

        def tensor(described: Mapping[str, Any]) -> Tensor:
            datatype = described["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
            dims = tuple(int(dim) for dim in described["dims"])
            return Tensor(described["name"], datatype, (-1, *dims) if limit else dims)

        return cls(config["name"], version, tuple(map(tensor, config["input"])), tensor(config["output"][0]), limit)

    def request(self, inputs: Mapping[str, NDArray[Any]], class_count: int = 0) -> Request:
        output = self.output
        if self.max_batch_size:
            rows = len(next(iter(inputs.values())))
            output = replace(output, dims=(rows, *output.dims[1:]))
        return Request(self.name, self.version, inputs, output, class_count)

    def parts(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Batches that the server takes, in order."""
        rows = len(next(iter(inputs.values())))
        size = self.max_batch_size or rows
        for start in range(0, rows, size):
            yield {name: array[start : start + size] for name, array in inputs.items()}


@dataclass(frozen=True)
class Served:
    """rows: the model that was asked for. tensors: its last step. provider: what computes, as a report names it.

    steps: the models that a request goes through, in order; of one without steps, itself.
    """

    rows: Endpoint
    tensors: Endpoint
    provider: str
    steps: tuple[str, ...]

    @classmethod
    def of(cls, version: str, configs: Sequence[Mapping[str, Any]]) -> Served:
        """version: of the server. configs: of the model, and of each `next_model` behind it."""
        *before, graph = configs
        _, pinned = (next_model(before[-1]) if before else None) or ("", "")
        steps = [step["model_name"] for step in configs[0].get("ensemble_scheduling", {}).get("step", [])]
        provider = f"Triton {version}, {graph['backend']}{_gpus(graph)}"
        return cls(Endpoint.of(configs[0]), Endpoint.of(graph, pinned), provider, tuple(steps or [configs[0]["name"]]))

    def row_requests(self, rows: Sequence[Row], top: int | None = None) -> list[Request]:
        """One for each batch of rows. top: so many labels of each are wanted, and not the output itself.

        Raises UsageError for what is no list of rows, DataError and RequestError for a bad text.
        """
        if top is not None and top < 1:
            raise UsageError(f"call {self.rows.name!r}", f"top is {top}", "ask for 1 label of each row, or more")
        self._check_rows(rows)
        given, size = self.rows.inputs[0].name, self.rows.max_batch_size or 1
        # dtype object keeps empty strings and NUL bytes; numpy's own string types cut these off.
        cells = [[self._bytes(index, row)] for index, row in enumerate(rows)]
        parts = (np.array(cells[start : start + size], dtype=object) for start in range(0, len(rows), size))
        return [self.rows.request({given: part}, top or 0) for part in parts]

    def tensor_requests(self, tensors: Any) -> list[Request]:
        """One for each batch of encoded rows, given as arrays by name.

        Raises UsageError that names all that the graph would not take.
        """
        graph, wanted = self.tensors, ", ".join(map(_described, self.tensors.inputs))
        if not isinstance(tensors, Mapping):
            found = f"the tensors are of type {type(tensors).__name__}, not a dictionary of arrays by name"
            raise UsageError(f"call {graph.name!r}", found, f"give {wanted}")
        if found := "; ".join(_mistakes(graph, tensors)):
            raise UsageError(f"call {graph.name!r}", found, f"give {wanted}")
        return [graph.request(part) for part in graph.parts(tensors)]

    def _check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse what is no list of rows; a single text is a sequence too, of one text for each character."""
        asked = f"call {self.rows.name!r}"
        names = [tensor.name for tensor in self.rows.inputs]
        if [tensor.datatype for tensor in self.rows.inputs] != ["BYTES"]:
            found = f"it takes tensors ({', '.join(names)}), not texts or image files"
            raise UsageError(asked, found, "use predict_tensors, or name the published model that it is a step of")
        of_images = names == ["image"]
        what = "an image file: its path, or its bytes" if of_images else "a text"
        fix = (
            'give a list of paths, such as ["shoe.png"]'
            if of_images
            else 'give a list of texts, such as ["Great camera"]'
        )
        if isinstance(rows, str | bytes):
            raise UsageError(asked, f"the rows are a single {'image' if of_images else 'text'}, not a list", fix)
        if not rows:
            raise UsageError(asked, "there are no rows", fix)
        if wrong := [row for row in rows if not isinstance(row, str | bytes if of_images else str)]:
            raise UsageError(asked, f"a row is of type {type(wrong[0]).__name__}, not {what}", fix)

    def _bytes(self, index: int, row: Row) -> bytes:
        """What is sent of a row: the text in UTF-8, or the image file's content."""
        if isinstance(row, bytes):
            return row
        asked = f"call {self.rows.name!r}"
        if self.rows.inputs[0].name == "image":
            try:
                return Path(row).read_bytes()
            except OSError as error:
                found = f"{row} cannot be read ({error.strerror})"
                raise UsageError(asked, found, "give the path of an image file") from None
        try:
            return row.encode("utf-8")
        except UnicodeEncodeError as error:
            if "\udc80" <= row[error.start] <= "\udcff":  # a byte that was no UTF-8, as Python hands it over
                found = f"text {index} is not UTF-8 (byte {len(row[: error.start].encode('utf-8'))})"
                raise DataError(asked, found, "convert it to UTF-8, as iconv does") from None
            found = f"the text has a lone surrogate at character {error.start}, which UTF-8 cannot carry"
            raise RequestError(asked, found, "decode the text with its right encoding") from None


def _gpus(graph: Mapping[str, Any]) -> str:
    """In words, the GPUs that a model's instances are on; empty where it has none."""
    groups = [group for group in graph.get("instance_group", []) if group.get("kind") == "KIND_GPU"]
    numbers = sorted({int(number) for group in groups for number in group.get("gpus", [])})
    return f" on GPU {', '.join(map(str, numbers))}" if numbers else ""


def _mistakes(graph: Endpoint, tensors: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the names, types, dtypes and shapes of the tensors for a graph."""
    wanted = {tensor.name: tensor for tensor in graph.inputs}
    yield from (f"there is no input {name!r}" for name in tensors if name not in wanted)
    yield from (f"{name} is missing" for name in wanted if name not in tensors)
    rows = set()
    for name, array in tensors.items():
        if name not in wanted:
            continue
        tensor = wanted[name]
        if not isinstance(array, np.ndarray):
            yield f"{name} is of type {type(array).__name__}, not a numpy array"
            continue
        if array.dtype != tensor.dtype:
            yield f"{name} is {array.dtype}, not {tensor.dtype}"
        fits = [found == dim or (dim == -1 and found > 0) for found, dim in zip(array.shape, tensor.dims, strict=False)]
        if len(array.shape) != len(tensor.dims) or not all(fits):
            yield f"{name} has the shape {list(array.shape)}, not {_shape(tensor)}"
        elif graph.max_batch_size:
            rows.add(len(array))
    if len(rows) > 1:
        yield f"the inputs have different numbers of rows: {', '.join(map(str, sorted(rows)))}"


def _described(tensor: Tensor) -> str:
    return f"{tensor.name}: {tensor.dtype} {_shape(tensor)}"


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join('any' if dim == -1 else str(dim) for dim in tensor.dims)}]"
