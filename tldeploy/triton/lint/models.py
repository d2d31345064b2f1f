"""A model folder as the server would see it: its configuration, its versions, and what it takes and gives.

What a configuration leaves out the server completes from the graph; so do `inputs`, `outputs` and `backend` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.devices import count_gpus
from tldeploy.environment import usable_cores
from tldeploy.triton.lint.graph import Graph, read_graph
from tldeploy.triton.lint.layout import Layout, read_layout
from tldeploy.triton.lint.reading import read_config
from tldeploy.triton.lint.rules import Edit, Finding
from tldeploy.triton.transaction import CONFIG_FILE

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

# The backends that Triton ships, with the model file of each; "" where there is none, or any name will do.
BACKENDS = {
    "onnxruntime": ("model.onnx",),
    "python": ("model.py",),
    "tensorrt": ("model.plan",),
    "pytorch": ("model.pt",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
    "openvino": ("model.xml",),
    "dali": ("model.dali",),
    "vllm": ("model.json",),
    "tensorrtllm": (),
    "fil": (),
    "identity": (),
    "repeat": (),
    "square": (),
}
PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "",
}


@dataclass(frozen=True)
class Target:
    """The server that the repository is meant for: what its onnxruntime reads (Triton 26.09), its cores, its GPUs."""

    opset: int = 20
    ir_version: int = 10
    cores: int = field(default_factory=usable_cores)
    gpus: int = field(default_factory=count_gpus)


@dataclass(frozen=True)
class Port:
    """An input or output. dims: without the batch axis where the model batches; None where nobody knows."""

    name: str
    datatype: str
    dims: tuple[int, ...] | None
    optional: bool = False


class Model:
    """A model folder. config is None when its text could not be read, and empty when there is no text."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.file = f"{self.name}/{CONFIG_FILE}"
        self.findings: list[Finding] = []
        self.text: str | None = None
        self.config: ModelConfig | None = None
        self.layout: Layout = read_layout("")
        self.as_written = True
        self._read()

    def _read(self) -> None:
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        try:
            self.text = (self.folder / CONFIG_FILE).read_bytes().decode("utf-8")
        except FileNotFoundError:
            self.config = ModelConfig()
            return
        except (OSError, UnicodeDecodeError) as error:
            self.report("config-text", f"it cannot be read: {error}", "write it as a UTF-8 text file")
            return
        reading = read_config(self.text, self.name, self.file)
        self.findings += reading.findings
        self.config, self.layout = reading.config, read_layout(reading.text)
        self.as_written = reading.text == self.text

    def report(
        self,
        rule: str,
        found: str,
        fix: str,
        *at: str | int,
        file: str | None = None,
        values: dict[str, Any] | None = None,
        edit: Edit | None = None,
    ) -> None:
        """Add a finding. at: the field of the configuration that it is about. file: another one than config.pbtxt.

        An edit counts the characters of the original text, so it is dropped when another was read.
        """
        line = None if file else self.layout.line(*at)
        shown = {where: str(value) for where, value in (values or {}).items()}
        place = f"{self.name}/{file}" if file else self.file
        edit = edit if self.as_written else None
        self.findings.append(Finding(rule, self.name, place, line, found, fix, shown, edit))

    @property
    def known(self) -> ModelConfig:
        assert self.config is not None
        return self.config

    @property
    def is_ensemble(self) -> bool:
        return bool(self.known.platform == "ensemble" or self.known.HasField("ensemble_scheduling"))

    @cached_property
    def backend(self) -> str:
        """The backend that serves it, "" for an ensemble or when nothing tells."""
        config = self.known
        if config.backend or self.is_ensemble:
            return str(config.backend)
        if config.platform:
            return PLATFORMS.get(config.platform, "")
        names = {config.default_model_filename}
        names |= {path.name for version in self.on_disk for path in (self.folder / str(version)).iterdir()}
        return next((backend for backend, files in BACKENDS.items() if names & set(files)), "")

    @cached_property
    def on_disk(self) -> list[int]:
        """Version folders, ascending, as Triton counts them: whole numbers from 1 without leading zeros."""
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and not name.startswith("0"))

    @cached_property
    def asked_versions(self) -> list[int]:
        """The versions that version_policy names."""
        return list(self.known.version_policy.specific.versions)

    @cached_property
    def served(self) -> list[int]:
        """The versions that the server would load."""
        policy = self.known.version_policy
        match policy.WhichOneof("policy_choice"):
            case "specific":
                return [version for version in self.on_disk if version in self.asked_versions]
            case "all":
                return self.on_disk
        return self.on_disk[-max(1, policy.latest.num_versions) :]

    def model_file(self, version: int) -> Path | None:
        """Where the backend looks for it; None where no one file is expected."""
        expected = BACKENDS.get(self.backend, ())
        chosen = self.known.default_model_filename
        if not chosen and (not expected or self.known.cc_model_filenames):
            return None
        folder = self.folder / str(version)
        names = [chosen] if chosen else expected
        return next((folder / name for name in names if (folder / name).exists()), folder / names[0])

    def leads_out(self, path: Path) -> bool:
        """Whether a path is outside the model repository, all links followed."""
        return not path.resolve().is_relative_to(self.folder.parent.resolve())

    @cached_property
    def graphs(self) -> dict[int, Graph | str]:
        """Of every served version: what its ONNX file declares, or why that cannot be told."""
        if self.backend != "onnxruntime":
            return {}
        found: dict[int, Graph | str] = {}
        for version in self.served:
            file = self.model_file(version)
            file = file / "model.onnx" if file and file.is_dir() else file
            if file and file.is_file() and not self.leads_out(file):
                found[version] = read_graph(file)
        return found

    @cached_property
    def graph(self) -> Graph | None:
        """The newest readable one."""
        readable = [graph for graph in self.graphs.values() if isinstance(graph, Graph)]
        return readable[-1] if readable else None

    @property
    def batches(self) -> bool:
        return bool(self.known.max_batch_size > 0)

    @cached_property
    def batching_forgotten(self) -> bool:
        """Whether max_batch_size is 0 and yet every tensor is declared as if it were not."""
        if self.batches or self.graph is None or not self.known.input or not self.known.output:
            return False
        provided = {tensor.name: tensor.dims for tensor in (*self.graph.inputs, *self.graph.outputs)}
        declared = (*self.known.input, *self.known.output)
        return all(provided.get(tensor.name) == (-1, *dims_of(tensor)) for tensor in declared)

    @cached_property
    def inputs(self) -> list[Port]:
        return self._ports(self.known.input, self.graph.inputs if self.graph else ())

    @cached_property
    def outputs(self) -> list[Port]:
        return self._ports(self.known.output, self.graph.outputs if self.graph else ())

    def _ports(self, declared: Any, provided: Sequence[Any]) -> list[Port]:
        if declared:
            return [
                Port(
                    tensor.name,
                    datatype_of(tensor),
                    tuple(tensor.dims),
                    bool(getattr(tensor, "optional", False)),
                )
                for tensor in declared
            ]
        cut = 1 if self.batches else 0
        return [
            Port(tensor.name, tensor.datatype, None if tensor.dims is None else tensor.dims[cut:])
            for tensor in provided
        ]


def datatype_of(tensor: Any) -> str:
    """Its name; a number that has none can be written in a configuration, too."""
    from tritonclient.grpc.model_config_pb2 import DataType

    known = DataType.DESCRIPTOR.values_by_number.get(tensor.data_type)
    return str(known.name) if known else str(tensor.data_type)


def dims_of(tensor: Any) -> tuple[int, ...]:
    """The dims that the backend sees: those of `reshape`, where it is given."""
    return tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def words(dims: Sequence[int] | None) -> str:
    return "unknown" if dims is None else f"[{','.join(map(str, dims))}]"
