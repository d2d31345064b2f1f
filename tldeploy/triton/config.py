"""config.pbtxt as protobuf, made from the graph itself.

1. `read_signature` reads names, types and dims of a graph's inputs and outputs.
2. `step_config`, `graph_config` and `ensemble_config` describe the three Triton models that a published model is
   made of; each is put together from small functions, one a concern.
3. `to_text` and `read` write and read the text form.

Words: a dim of -1 is open; dims in a configuration leave the batch axis out when max_batch_size > 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.environment import usable_cores
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.triton import options

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
# Staged beside it: the one that takes its place at the end of a publication.
LATER_CONFIG = "later.pbtxt"
LABELS_FILE = "labels.txt"
MASK = "attention_mask"
MERGE_LENGTHS = "merge_lengths"
# Each graph for TensorRT has its engine built twice (options.py); once took up to ten minutes
# (microsoft/onnxruntime#13851).
ENGINES_WITHIN_S = 1800.0


@dataclass(frozen=True)
class Tensor:
    """An input or output: Triton's name of its type (`TYPE_INT64`), and all its dims, the batch axis included."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batches(self) -> bool:
        """Whether every tensor's first dim is open, as batching needs."""
        return all(tensor.dims[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


def read_signature(graph: Path) -> Signature:
    """Read an ONNX file's inputs and outputs; its weights may lie elsewhere and are not read.

    Raises ArtifactError when it is not an ONNX model or has a type that Triton has not.
    """
    import onnx
    from google.protobuf.message import DecodeError

    asked = f"read the graph {graph}"
    try:
        model = onnx.load(graph, load_external_data=False)
    except FileNotFoundError:
        raise ArtifactError(asked, "there is no such file", "run `tldeploy export` again") from None
    except DecodeError:
        raise ArtifactError(asked, "it is not an ONNX model", "run `tldeploy export` again") from None
    # Old graphs list their weights among the inputs.
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = tuple(_tensor(value, asked) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_tensor(value, asked) for value in model.graph.output)
    if not inputs or not outputs:
        raise ArtifactError(asked, "it has no inputs or no outputs", "run `tldeploy export` again")
    return Signature(inputs, outputs)


def triton_type(elem_type: int) -> str | None:
    """Triton's name of an ONNX element type; None for one that Triton cannot carry."""
    import onnx

    names: dict[int, str] = {
        onnx.TensorProto.FLOAT: "TYPE_FP32",
        onnx.TensorProto.DOUBLE: "TYPE_FP64",
        onnx.TensorProto.FLOAT16: "TYPE_FP16",
        onnx.TensorProto.STRING: "TYPE_STRING",
    }
    plain = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
    names |= {onnx.TensorProto.DataType.Value(name): f"TYPE_{name}" for name in plain}
    return names.get(elem_type)


def _tensor(value: Any, asked: str) -> Tensor:
    import onnx

    kind = value.type.tensor_type.elem_type
    datatype = triton_type(kind)
    if datatype is None:
        found = f"{value.name} has the type {onnx.TensorProto.DataType.Name(kind)}, which Triton cannot carry"
        raise ArtifactError(asked, found, "cast it inside the graph")
    dims = value.type.tensor_type.shape.dim
    return Tensor(value.name, datatype, tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims))


def step_config(
    name: str, given: str, outputs: Sequence[Tensor], versions: Sequence[int], settings: Deploy
) -> ModelConfig:
    """A step of ours from what clients send, BYTES [batch, 1] named `given`; mostly to the graph's inputs."""
    config = _model(name, "python", versions, settings)
    taken = Tensor(given, "TYPE_STRING", (-1, 1))
    _add_tensor(config.input, taken)
    for tensor in outputs:
        _add_tensor(config.output, tensor)
    _batch(config, settings)
    _instances(config, settings.step_instances or settings.instances)
    options.warm_step(config, taken, settings)
    return config


def graph_config(
    name: str, signature: Signature, versions: Sequence[int], settings: Deploy, lengths: Sequence[int] = ()
) -> ModelConfig:
    """The graph on the onnxruntime backend. The first output carries the labels of the classification extension.

    lengths: that rows are padded to, where they differ in length.

    Raises ArtifactError when the graph's first dims are fixed, so that nothing can be batched.
    """
    if not signature.batches:
        fixed = next(t for t in (*signature.inputs, *signature.outputs) if t.dims[:1] != (-1,))
        found = f"the first dim of {fixed.name} is {fixed.dims[0] if fixed.dims else 'missing'}, not open"
        fix = "export the graph with a dynamic batch axis"
        raise ArtifactError(f"serve batches of up to {settings.max_batch_size} with {name}", found, fix)
    config = _model(name, "onnxruntime", versions, settings)
    for tensor in signature.inputs:
        _add_tensor(config.input, tensor)
    for tensor in signature.outputs:
        _add_tensor(config.output, tensor)
    config.output[0].label_filename = LABELS_FILE
    _batch(config, settings)
    _instances(config, settings.instances)
    _threads(config, settings)
    options.on_device(config, settings)
    options.limit_rate(config, settings)
    options.warm_graph(config, signature.inputs, lengths, settings)
    _merge_lengths(config, signature)
    return config


def ensemble_config(
    name: str, steps: tuple[str, str], given: str, signature: Signature, version: int, settings: Deploy
) -> ModelConfig:
    """The model that clients call: texts or image files in, named `given`, the graph's outputs out.

    steps: the names of the preprocessing step and of the graph; the ensemble pins their version.
    """
    preprocess, graph = steps
    config = _ensemble(name, given, signature, version, settings)
    between = {tensor.name: tensor.name for tensor in signature.inputs}
    _add_step(config, preprocess, version, {given: given}, between)
    _add_step(config, graph, version, between, {tensor.name: tensor.name for tensor in signature.outputs})
    options.cache(config, settings)
    return config


def entry_config(name: str, step: tuple[str, int], given: str, signature: Signature, settings: Deploy) -> ModelConfig:
    """The model that clients call while another, a name and a version, decides who answers; of that same version."""
    config = _ensemble(name, given, signature, step[1], settings)
    _add_step(config, *step, {given: given}, {tensor.name: tensor.name for tensor in signature.outputs})
    return config


def _ensemble(name: str, given: str, signature: Signature, version: int, settings: Deploy) -> ModelConfig:
    config = _model(name, "", [version], settings)
    config.platform = "ensemble"
    _add_tensor(config.input, Tensor(given, "TYPE_STRING", (-1, 1)))
    for tensor in signature.outputs:
        _add_tensor(config.output, tensor)
    return config


def _model(name: str, backend: str, versions: Sequence[int], settings: Deploy) -> ModelConfig:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = ModelConfig(name=name, backend=backend, max_batch_size=settings.max_batch_size)
    config.version_policy.specific.versions.extend(versions)
    return config


def _add_tensor(tensors: Any, tensor: Tensor) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    tensors.add(name=tensor.name, data_type=DataType.Value(tensor.datatype), dims=tensor.dims[1:])


def _batch(config: ModelConfig, settings: Deploy) -> None:
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    options.queue_up(config, settings)
    config.dynamic_batching.preferred_batch_size.extend(settings.preferred_batch_sizes)


def _instances(config: ModelConfig, count: int) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    config.instance_group.add(count=count, kind=ModelInstanceGroup.KIND_CPU)


def _threads(config: ModelConfig, settings: Deploy) -> None:
    """Unless told, several instances share the cores; a single one is left to onnxruntime's default, all of them."""
    threads = settings.threads
    if threads is None and settings.instances > 1:
        threads = max(1, usable_cores() // settings.instances)
    if threads is not None:
        config.parameters["intra_op_thread_count"].string_value = str(threads)


def _merge_lengths(config: ModelConfig, signature: Signature) -> None:
    """Texts of different lengths may share a run: the graph looks only where the mask is 1.

    A parameter of our own backend's (backends/onnxruntime/merging.py); the native one knows none of that name.
    """
    if MASK in {tensor.name for tensor in signature.inputs}:
        config.parameters[MERGE_LENGTHS].string_value = "true"


def merges_lengths(repository: Path) -> bool:
    """Whether any model there is published so that texts of different lengths share runs."""
    return any(MERGE_LENGTHS.encode() in file.read_bytes() for file in repository.glob("*/config.pbtxt"))


def for_tensorrt(config: ModelConfig) -> bool:
    """Whether TensorRT computes the graph. Its engines are built while the model is loaded."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return any(each.name == "tensorrt" for each in accelerators)


def _add_step(
    config: ModelConfig, model: str, version: int, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=version)
    step.input_map.update(inputs)
    step.output_map.update(outputs)


def to_text(config: ModelConfig) -> str:
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text


def read(path: Path) -> ModelConfig:
    """Read a config.pbtxt. Raises ArtifactError when it is missing or cannot be read."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    asked, fix = f"read {path}", "run `tldeploy deploy` again"
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except FileNotFoundError:
        raise ArtifactError(asked, "there is no such file", fix) from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ArtifactError(asked, str(error), fix) from None
