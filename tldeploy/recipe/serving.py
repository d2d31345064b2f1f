"""The sections behind tuning: the graphs, the model repository, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tldeploy.devices import Device
from tldeploy.recipe.options import Cuda, Metrics, Queue, RateLimit, TensorRT, Tracing
from tldeploy.recipe.values import Count, Section, no_repeats

Variant = Literal["fp32", "fused", "int8-dynamic", "int8-static", "int8-weights", "int4-weights", "fp16", "bf16"]
Target = Literal["cpu", "cuda", "tensorrt", "openvino"]
Goal = Literal["latency", "throughput", "size"]
Engine = Literal[
    "torch",
    "torch-bf16",
    "torch-fp16",
    "torch-compile",
    "onnxruntime",
    "openvino",
    "openvino-int8",
    "triton-http",
    "triton-grpc",
    "triton-shared-memory",
]
Scenario = Literal["multi-stream", "offline", "server"]
Rate = Annotated[float, Field(gt=0)]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
ENGINES: tuple[Engine, ...] = get_args(Engine)
# OpenVINO has to be installed; shared memory is for a client on the server's machine, which most are not.
USUAL_ENGINES: tuple[Engine, ...] = ("torch", "onnxruntime", "triton-http", "triton-grpc")
# What computes for each target.
ON: dict[Target, Device] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "tensorrt", "openvino": "cpu"}
# The devices that a section of `deploy` is for: TensorRT leaves to CUDA what it cannot do.
SECTIONS: dict[str, tuple[Device, ...]] = {"cuda": ("cuda", "tensorrt"), "tensorrt": ("tensorrt",)}


class Calibration(Section):
    """How static quantization finds the ranges of activations: on so many rows that were learnt from."""

    rows: Count = 128
    method: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"


class Export(Section):
    """The ONNX graphs.

    variants: those that suit the network, the target and this machine, unless named. target: the execution provider
    that will run the graph. goal: what a variant must be better than fp32 in. max_drop: points of the task metric
    (hundredths) that a variant may lose against fp32. judge_by: the drop as measured, or the upper end of its
    interval. search_minutes: how long a quantized variant that lost too much may be mended by keeping layers in fp32;
    0 for not at all. keep_all: keep the files of variants that were refused too.
    """

    variants: list[Variant] | None = Field(default=None, min_length=1)
    target: Target = "cpu"
    goal: Goal = "latency"
    max_drop: float = Field(default=0.5, ge=0, le=100)
    judge_by: Literal["estimate", "interval"] = "estimate"
    calibration: Calibration = Calibration()
    search_minutes: float = Field(default=2.0, ge=0, le=1440)
    keep_all: bool = False
    opset: int = Field(default=20, ge=18, le=20)

    @field_validator("variants")
    @classmethod
    def _fp32_is_the_reference(cls, variants: list[Variant] | None) -> list[Variant] | None:
        if variants is None:
            return None
        if "fp32" not in variants:
            raise ValueError("expected fp32 among them: every other variant is measured against it")
        return no_repeats(variants)


class Deploy(Section):
    """The Triton model repository and how the model runs there.

    instances: of the graph. threads: of each of them; None leaves a single one to onnxruntime, and shares the cores
    among several. step_instances: of the step before the graph; None for as many as the graph has.
    preferred_batch_sizes: what the batcher sends as soon as it has it, ascending. p99_ms: what `--tune` holds p99 to;
    a server does not read it.
    device: what runs the graph, as export.target says unless given. warmup: whether each length that rows are padded
    to is run before the model is ready. cache_mb: the server's memory for answers already given. The sections are in
    options.py.
    """

    repository: str = "../../triton_repo"
    max_batch_size: Count = 32
    queue_delay_us: int = Field(default=0, ge=0)
    preferred_batch_sizes: tuple[Count, ...] = ()
    instances: Count = 1
    threads: Count | None = None
    step_instances: Count | None = None
    p99_ms: float | None = Field(default=None, gt=0)
    keep_versions: Count = 2
    device: Device | None = None
    cuda: Cuda | None = None
    tensorrt: TensorRT | None = None
    warmup: bool = True
    cache_mb: int = Field(default=0, ge=0)
    queue: Queue = Queue()
    rate_limit: RateLimit | None = None
    metrics: Metrics = Metrics()
    tracing: Tracing | None = None

    @field_validator("cuda", "tensorrt")
    @classmethod
    def _is_for_the_device(cls, section: Section | None, info: ValidationInfo) -> Section | None:
        fitting = SECTIONS[str(info.field_name)]
        if section is not None and info.data.get("device", fitting[0]) not in fitting:
            raise ValueError(f"expected `device: {'` or `device: '.join(fitting)}` beside it")
        return section

    @field_validator("preferred_batch_sizes")
    @classmethod
    def _ascending(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"found {list(sizes)}, expected them ascending, each once")
        return sizes

    @model_validator(mode="after")
    def _preferred_can_be_made(self) -> Self:
        if self.preferred_batch_sizes and self.preferred_batch_sizes[-1] > self.max_batch_size:
            found = f"found preferred_batch_sizes up to {self.preferred_batch_sizes[-1]}"
            raise ValueError(f"{found}, expected at most max_batch_size, which is {self.max_batch_size}")
        return self


class Bench(Section):
    """What is measured: engines on the held-out rows, one at a time, and rows a second at each concurrency.

    seconds: of each concurrency, and of a rate of the Server scenario at least.
    scenarios: what is run besides. query_rows: rows of a MultiStream query. p99_ms: the bound within which the Server
    scenario looks for the highest rate. rates: requests a second that it tries instead of looking. tokens: lengths that
    texts are cut or repeated to, for comparison with tables that were made with one. device: where the engines that are
    not served compute, as export.target says unless given.
    """

    engines: list[Engine] = Field(default=list(USUAL_ENGINES), min_length=1)
    rows: Count | None = None
    concurrency: list[Count] = Field(default=[1, 4, 16], min_length=1)
    seconds: float = Field(default=2.0, gt=0, le=600)
    scenarios: list[Scenario] = Field(default=["server"])
    query_rows: Count = 8
    p99_ms: float = Field(default=100.0, gt=0)
    rates: list[Rate] | None = Field(default=None, min_length=1)
    tokens: list[Count] = Field(default=[])
    device: Device | None = None

    _engines_once = field_validator("engines")(no_repeats)
    _concurrency_once = field_validator("concurrency")(no_repeats)
    _scenarios_once = field_validator("scenarios")(no_repeats)
    _tokens_once = field_validator("tokens")(no_repeats)

    @model_validator(mode="after")
    def _rates_are_of_the_server_scenario(self) -> Bench:
        if self.rates and "server" not in self.scenarios:
            raise ValueError("rates: expected `server` among the scenarios, as no other tries rates")
        return self
