"""A recipe's options in the configurations that are written, and what our backend makes of those for a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from google.protobuf.json_format import MessageToDict

from tests.tiny import make_graph, write_export
from tldeploy.devices import Device
from tldeploy.recipe import Cuda, Deploy, Queue, RateLimit, TensorRT, serving
from tldeploy.runtime import session
from tldeploy.triton import config
from tldeploy.triton.backends.onnxruntime import graph_session
from tldeploy.triton.config import Signature, Tensor
from tldeploy.triton.keeping import rollback
from tldeploy.triton.lint.check import lint
from tldeploy.triton.lint.models import Target
from tldeploy.triton.options import resolved
from tldeploy.triton.repository import is_current, publish
from tldeploy.triton.watch import zeros

TOKENS = tuple(Tensor(name, "TYPE_INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))
TEXTS = Signature(TOKENS, (Tensor("probabilities", "TYPE_FP32", (-1, 3)),))
IMAGES = Signature((Tensor("pixels", "TYPE_UINT8", (-1, 8, 8, 3)),), TEXTS.outputs)
EVERYTHING = Deploy(
    device="tensorrt",
    cuda=Cuda(gpus=[0, 2], gpu_mem_limit_mb=512, arena_extend_strategy="kSameAsRequested", use_tf32=False),
    tensorrt=TensorRT(precision="FP16", max_workspace_mb=256, engine_cache_path="/var/engines"),
    cache_mb=4,
    queue=Queue(max_size=5, timeout_us=900, timeout_action="delay", allow_timeout_override=True, priority_levels=3),
    rate_limit=RateLimit(resources={"slot": 2}, priority=4),
)


def graph(settings: Deploy, signature: Signature = TEXTS, lengths: tuple[int, ...] = (32, 16)) -> Any:
    return config.graph_config("m.graph", signature, [1], settings, lengths)


def step(settings: Deploy, given: str = "text") -> Any:
    return config.step_config("m.step", given, TEXTS.inputs, [1], settings)


def ensemble(settings: Deploy) -> Any:
    return config.ensemble_config("m", ("m.step", "m.graph"), "text", TEXTS, 1, settings)


def samples(described: Any) -> list[tuple[int, dict[str, list[int]]]]:
    given = described.model_warmup
    assert all(tensor.zero_data for sample in given for tensor in sample.inputs.values())
    return [
        (sample.batch_size, {name: list(tensor.dims) for name, tensor in sample.inputs.items()}) for sample in given
    ]


def test_each_length_that_rows_have_is_warmed_up_by_one_row() -> None:
    both = [{"input_ids": [length], "attention_mask": [length]} for length in (16, 32)]
    assert samples(graph(Deploy())) == [(1, both[0]), (1, both[1])]
    assert samples(step(Deploy())) == [(1, {"text": [1]})]


def test_on_a_gpu_the_largest_batch_is_warmed_up_too() -> None:
    sizes = [(size, shapes["input_ids"]) for size, shapes in samples(graph(Deploy(device="cuda", max_batch_size=7)))]
    assert sizes == [(1, [16]), (7, [16]), (1, [32]), (7, [32])]
    assert len(samples(graph(Deploy(device="cuda", max_batch_size=1)))) == 2


def test_tensorrt_is_warmed_up_by_the_ends_of_what_it_is_asked_before_all_between_them() -> None:
    """A shape outside of those before it has the engine built anew; the others are within the first two."""
    tensorrt = Deploy(device="tensorrt", max_batch_size=7)
    sizes = [(size, shapes["input_ids"]) for size, shapes in samples(graph(tensorrt))]
    assert sizes == [(7, [32]), (1, [1]), (1, [16]), (7, [16]), (1, [32])]
    assert [size for size, _ in samples(graph(tensorrt, IMAGES, ()))] == [7, 1]
    assert samples(graph(Deploy(device="tensorrt", warmup=False))) == []


@pytest.mark.parametrize("signature", [TEXTS, IMAGES])
@pytest.mark.parametrize("max_batch_size", [1, 7])
def test_what_the_watch_asks_is_among_what_tensorrt_is_warmed_up_by(signature: Signature, max_batch_size: int) -> None:
    described = graph(Deploy(device="tensorrt", max_batch_size=max_batch_size), signature, (32,))
    warmed = [(size, *shapes.values()) for size, shapes in samples(described)]
    asked = [zeros(tensor, max_batch_size).shape() for tensor in as_the_worker_gets_it(described)["input"]]
    assert {tuple(shape[:1]) for shape in asked} == {(1,)}
    assert (1, *(shape[1:] for shape in asked)) in warmed


def test_images_have_one_shape_and_no_empty_file_is_decoded() -> None:
    assert samples(graph(Deploy(), IMAGES, ())) == [(1, {"pixels": [8, 8, 3]})]
    assert samples(step(Deploy(), "image")) == []


def test_warm_up_can_be_turned_off() -> None:
    assert samples(graph(Deploy(warmup=False))) == samples(step(Deploy(warmup=False))) == []


def test_the_device_and_the_precision_follow_from_the_export_unless_given() -> None:
    targets: list[serving.Target] = ["cpu", "openvino", "cuda", "tensorrt"]
    assert [resolved(Deploy(), target, "fp32").device for target in targets] == ["cpu", "cpu", "cuda", "tensorrt"]
    assert resolved(Deploy(device="cpu"), "cuda", "fp16").device == "cpu"
    precisions = []
    for variant in ("fp32", "fp16", "bf16", "int8-static"):
        tensorrt = resolved(Deploy(), "tensorrt", variant).tensorrt
        assert tensorrt is not None
        precisions.append(tensorrt.precision)
    assert precisions == ["FP32", "FP16", "BF16", "INT8"]
    assert resolved(EVERYTHING, "tensorrt", "bf16") == EVERYTHING


MEASURED = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "prefer_nhwc": "1",
    "arena_extend_strategy": "kSameAsRequested",
}


def test_what_the_export_measured_holds_where_the_recipe_is_silent() -> None:
    found = resolved(Deploy(max_batch_size=2), "cuda", "fp32", MEASURED).cuda
    assert found == Cuda(
        use_tf32=False,
        cudnn_conv_algo_search="EXHAUSTIVE",
        prefer_nhwc=True,
        arena_extend_strategy="kSameAsRequested",
    )
    given = Cuda(gpus=[1], use_tf32=True, cudnn_conv_algo_search="DEFAULT", arena_extend_strategy="kNextPowerOfTwo")
    both = resolved(Deploy(max_batch_size=2, device="cuda", cuda=given), "cuda", "fp32", MEASURED)
    assert both.cuda == given.model_copy(update={"prefer_nhwc": True})
    assert resolved(both, "cuda", "fp32", {"use_tf32": "0"}) == both, "what was resolved is not resolved anew"


@pytest.mark.parametrize("settings", [Deploy(max_batch_size=3), Deploy(max_batch_size=1, warmup=False)])
def test_algorithms_are_not_all_tried_where_a_shape_may_come_that_was_not_warmed_up(settings: Deploy) -> None:
    found = resolved(settings, "cuda", "fp32", MEASURED).cuda
    assert found is not None
    assert (found.cudnn_conv_algo_search, found.prefer_nhwc) == ("HEURISTIC", True)


def test_what_was_measured_on_another_device_than_the_servers_is_not_taken() -> None:
    kept = MEASURED | {"use_tf32": "1"}
    assert resolved(Deploy(device="cpu"), "cuda", "fp32", kept).cuda is None
    assert resolved(Deploy(device="tensorrt"), "cuda", "fp32", kept).cuda == Cuda(use_tf32=False)
    assert resolved(Deploy(device="cuda"), "cpu", "fp32", kept).cuda == Cuda(use_tf32=False)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_fp32_is_fp32_on_a_gpu_unless_tf32_is_asked_for_or_was_measured_and_kept(device: Device) -> None:
    assert resolved(Deploy(), device, "fp32").cuda == Cuda(use_tf32=False)
    asked = Deploy(device=device, cuda=Cuda(gpus=[1], use_tf32=True))
    assert resolved(asked, "cpu", "fp32").cuda == asked.cuda
    described = as_the_worker_gets_it(graph(resolved(Deploy(), device, "fp32")))
    name, options = graph_session.gpu_providers(described, "0")[-1]
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "0")
    kept = resolved(Deploy(), "cuda", "fp32", {"use_tf32": "1"})
    assert kept.cuda == Cuda(use_tf32=True)
    assert resolved(kept, "cuda", "fp32") == kept


def test_a_published_configuration_has_what_the_export_measured(tmp_path: Path) -> None:
    session = {"variant": "int8-dynamic", "device": "cuda", "options": MEASURED, "memory": "captured", "speedup": None}
    export = write_export(tmp_path / "onnx", target="cuda", session=session)
    publish(export, tmp_path / "repo", "m", Deploy())
    described = config.read(tmp_path / "repo" / "m.graph" / "config.pbtxt")
    (cuda,) = described.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0", "prefer_nhwc": "1"})
    assert described.parameters["arena_extend_strategy"].string_value == "1"
    assert described.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert graph_session.gpu_providers(as_the_worker_gets_it(described), "0") == [
        (
            "CUDAExecutionProvider",
            {
                "use_tf32": "0",
                "prefer_nhwc": "1",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "device_id": "0",
            },
        )
    ]
    assert is_current(export, tmp_path / "repo", "m", Deploy())
    assert not is_current(export, tmp_path / "repo", "m", Deploy(device="cuda", cuda=Cuda(use_tf32=True)))


def test_the_graph_alone_moves_to_the_gpus() -> None:
    (group,) = graph(EVERYTHING).instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_GPU, [0, 2])
    assert step(EVERYTHING).instance_group[0].kind == group.KIND_CPU
    assert not graph(Deploy(device="cpu")).HasField("optimization")


def test_our_backend_gives_the_providers_what_the_recipe_says() -> None:
    providers = graph_session.gpu_providers(as_the_worker_gets_it(graph(EVERYTHING)), "2")
    assert providers == [
        (
            "TensorrtExecutionProvider",
            {
                "device_id": "2",
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": str(256 * 2**20),
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "/var/engines",
            },
        ),
        (
            "CUDAExecutionProvider",
            {
                "device_id": "2",
                "use_tf32": "0",
                "gpu_mem_limit": str(512 * 2**20),
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
            },
        ),
    ]


def test_what_the_native_backend_reads_from_the_parameters_only_is_there() -> None:
    described = graph(EVERYTHING)
    parameters = {name: value.string_value for name, value in described.parameters.items()}
    assert parameters == {
        "gpu_mem_limit": str(512 * 2**20),
        "arena_extend_strategy": "1",
        "cudnn_conv_algo_search": "1",
        "merge_lengths": "true",  # of our own backend, and the next
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    }
    (_, cuda) = described.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(cuda.parameters) == {"use_tf32": "0"}


def test_a_gpu_configuration_without_options_is_plain() -> None:
    described = as_the_worker_gets_it(graph(Deploy(device="cuda")))
    assert graph_session.gpu_providers(described, "0") == [
        ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "0"})
    ]


@pytest.mark.parametrize(
    ("accelerator", "name", "value", "said"),
    [
        ("tensorrt", "precision_mode", "FP8", "unsupported precision mode 'FP8'"),
        ("tensorrt", "max_workspace", "1", "unknown parameter 'max_workspace' is provided"),
        ("cuda", "enable_cuda_graph", "1", "a captured graph is replayed whatever the next request holds"),
        ("tensorrt", "trt_cuda_graph_enable", "true", "a captured graph is replayed whatever the next request holds"),
        ("magic", "x", "1", "unknown Execution Accelerator 'magic'"),
    ],
)
def test_our_backend_refuses_what_would_not_be_what_it_says(accelerator: str, name: str, value: str, said: str) -> None:
    described = graph(Deploy(device="cuda"))
    accelerators = described.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(name=accelerator, parameters={name: value})
    with pytest.raises(ValueError, match=said):
        graph_session.gpu_providers(as_the_worker_gets_it(described), "0")


def test_a_provider_that_is_not_there_is_refused_and_never_replaced_by_the_cpu(tmp_path: Path) -> None:
    onnx.save(make_graph(50, 3, seed=0), tmp_path / "model.onnx")
    if onnxruntime.get_device() == "GPU" and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"asks for CUDAExecutionProvider; (lib[\w.]+: cannot open|this onnxruntime)"):
        graph_session.make_session(tmp_path, as_the_worker_gets_it(graph(Deploy(device="cuda"))), "GPU", "0")


def test_what_a_session_leaves_to_the_cpu_is_judged_by_where_computation_lies(tmp_path: Path) -> None:
    onnx.save(make_graph(50, 3, seed=0), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    opened = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert graph_session.compute_on_the_cpu(opened) == ["MatMul", "Softmax"]
    assert graph_session.COMPUTE == session.COMPUTE


def test_requests_wait_in_the_same_way_for_each_step() -> None:
    for described in (step(EVERYTHING), graph(EVERYTHING)):
        batching = described.dynamic_batching
        assert (batching.priority_levels, batching.default_priority_level) == (3, 3)
        policy = batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (5, 900)
        assert (policy.timeout_action, policy.allow_timeout_override) == (policy.DELAY, True)
    first = graph(Deploy(queue=Queue(priority_levels=3, default_priority_level=1)))
    assert first.dynamic_batching.default_priority_level == 1
    assert not first.dynamic_batching.HasField("default_queue_policy")


def test_the_graph_takes_resources_and_the_ensemble_is_cached() -> None:
    limiter = graph(EVERYTHING).instance_group[0].rate_limiter
    assert [(resource.name, resource.count) for resource in limiter.resources] == [("slot", 2)]
    assert limiter.priority == 4
    described = (step(EVERYTHING), graph(EVERYTHING), ensemble(EVERYTHING))
    assert [model.response_cache.enable for model in described] == [False, False, True]


def test_nothing_that_is_not_asked_for_is_written() -> None:
    plain = Deploy(warmup=False)
    for described in (step(plain), graph(plain), ensemble(plain)):
        text = config.to_text(described)
        for field in ("queue_policy", "priority", "rate_limiter", "response_cache", "optimization", "warmup"):
            assert field not in text


def test_what_is_published_has_them_all_and_a_rollback_writes_them_again(tmp_path: Path) -> None:
    export = write_export(tmp_path / "onnx", target="tensorrt", padded_lengths={"16": 9, "32": 1})
    settings = EVERYTHING.model_copy(update={"device": None})
    for _ in range(2):
        publish(export, tmp_path / "repo", "m", settings)
    assert is_current(export, tmp_path / "repo", "m", settings)
    assert not is_current(export, tmp_path / "repo", "m", Deploy())
    files = [tmp_path / "repo" / model / "config.pbtxt" for model in ("m", "m.graph", "m.tokenize")]
    before = [config.read(file) for file in files]
    assert [sample.name for sample in before[1].model_warmup] == ["32 x 32", "1 x 1", "1 x 16", "32 x 16", "1 x 32"]
    assert lint(tmp_path / "repo", Target(gpus=3)).findings == ()
    rollback(tmp_path / "repo", "m")
    for file, newer in zip(files, before, strict=True):
        older = config.read(file)
        for described in (older, newer):
            described.ClearField("version_policy")
            described.ClearField("ensemble_scheduling")
        assert older == newer


def test_for_tensorrt_the_longest_rows_that_may_come_are_warmed_up_first(tmp_path: Path) -> None:
    """However short those are that the graph was calibrated with: the tokenizer cuts a text off at 32 tokens."""
    for target in ("cuda", "tensorrt"):
        export = write_export(tmp_path / target, target=target, padded_lengths={"16": 9})
        publish(export, tmp_path / "repo", target, Deploy(max_batch_size=4))
    files = [tmp_path / "repo" / f"{target}.graph" / "config.pbtxt" for target in ("cuda", "tensorrt")]
    cuda, tensorrt = ([sample.name for sample in config.read(file).model_warmup] for file in files)
    assert cuda == ["1 x 16", "4 x 16"]
    assert tensorrt == ["4 x 32", "1 x 1", "1 x 16", "4 x 16", "1 x 32"]


def as_the_worker_gets_it(described: Any) -> dict[str, Any]:
    """A configuration as the JSON that Triton hands to a Python backend, but for the fields that are not set."""
    found: dict[str, Any] = json.loads(json.dumps(MessageToDict(described, preserving_proto_field_name=True)))
    return found
