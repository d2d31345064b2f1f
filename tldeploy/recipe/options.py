"""What Triton is told beside the model itself: where its graph runs, how requests wait, and what is watched.

Each section says whether it is the model's, and becomes part of its config.pbtxt, or the server's. A server has one of
each of the latter for all its models: see triton/server_options.py for what is done where recipes differ.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tldeploy.recipe.values import Count, Section, no_repeats

Precision = Literal["FP32", "FP16", "BF16", "INT8"]
GpuNumber = Annotated[int, Field(ge=0)]
ResourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Cuda(Section):
    """onnxruntime's CUDA provider, for all of the graph or for what TensorRT leaves. What is not given is its default.

    gpus: each gets `deploy.instances`. cudnn_conv_algo_search: EXHAUSTIVE tries every algorithm again for each shape
    that has not been seen, and ours are open. CUDA graphs are not to be had: a captured one is replayed whatever shape
    and inputs the next request has, unless whoever runs it binds them to fixed memory (microsoft/onnxruntime#20050).
    """

    gpus: list[GpuNumber] = Field(default=[0], min_length=1)
    gpu_mem_limit_mb: Count | None = None
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] | None = None
    cudnn_conv_algo_search: Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"] = "HEURISTIC"
    cudnn_conv_use_max_workspace: bool | None = None
    do_copy_in_default_stream: bool | None = None
    use_tf32: bool | None = None
    prefer_nhwc: bool | None = None

    _gpus_once = field_validator("gpus")(no_repeats)


class TensorRT(Section):
    """onnxruntime's TensorRT provider.

    precision: the variant's own, unless given. max_workspace_mb: memory that building an engine may take.
    engine_cache_path: a folder of the serving machine in which engines outlast the server.
    """

    precision: Precision | None = None
    max_workspace_mb: Count | None = None
    engine_cache_path: str | None = None

    @field_validator("engine_cache_path")
    @classmethod
    def _is_whole(cls, path: str | None) -> str | None:
        return path if path is None else _absolute(path)


class Queue(Section):
    """How requests wait for the model's steps: each of them has such a queue.

    max_size: how many may wait; one more is refused. 0: any number. timeout_us: how long one may wait, 0 for ever.
    timeout_action: what is done then. allow_timeout_override: a request may ask for a shorter wait. priority_levels:
    requests may ask for one of them, 1 being served first, or get default_priority_level, the last unless given.
    """

    max_size: int = Field(default=0, ge=0)
    timeout_us: int = Field(default=0, ge=0)
    timeout_action: Literal["reject", "delay"] = "reject"
    allow_timeout_override: bool = False
    priority_levels: int = Field(default=0, ge=0)
    default_priority_level: Count | None = None

    @field_validator("timeout_action", "allow_timeout_override")
    @classmethod
    def _needs_a_timeout(cls, value: str | bool, info: ValidationInfo) -> str | bool:
        """Triton reads neither without a default timeout."""
        if value in {"delay", True} and info.data.get("timeout_us") == 0:
            raise ValueError(f"found {value!r}, expected timeout_us beside it: without one nothing times out")
        return value

    @field_validator("default_priority_level")
    @classmethod
    def _is_a_level(cls, level: int | None, info: ValidationInfo) -> int | None:
        levels = info.data.get("priority_levels")
        if level is not None and levels is not None and level > levels:
            raise ValueError(f"found {level}, expected one of the priority_levels, of which there are {levels}")
        return level


class RateLimit(Section):
    """Which executions may run at the same time, on one server.

    resources: what one execution of the graph takes, by name. available: what the server has of them; unless given, as
    much as the model that takes most. priority: an instance is chosen in inverse proportion to it.
    """

    resources: dict[ResourceName, Count] = Field(min_length=1)
    available: dict[ResourceName, Count] = Field(default={})
    priority: Count = 1

    @field_validator("available")
    @classmethod
    def _is_enough(cls, available: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        resources = info.data.get("resources", available)
        for name, count in available.items():
            if name not in resources:
                raise ValueError(f"found {name!r}, expected a name from resources: {', '.join(resources)}")
            if count < resources[name]:
                raise ValueError(f"found {count} of {name!r}, expected at least the {resources[name]} of one execution")
        return available


class Metrics(Section):
    """The server's Prometheus metrics.

    latency_summaries: quantiles of each model's latencies, beside the sums. interval_ms: how often the machine's own
    figures are taken, Triton's 2000 unless given.
    """

    latency_summaries: bool = False
    interval_ms: Count | None = None


class Tracing(Section):
    """Where the server tells of single requests, of one in `rate`.

    url: of an OpenTelemetry collector, over HTTP, such as http://localhost:4318/v1/traces. file: on the serving
    machine, written when the server stops.
    """

    url: str | None = None
    file: str | None = None
    rate: Count = 1000

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s,]+", url):
            raise ValueError(f"found {url!r}, expected an address such as http://localhost:4318/v1/traces")
        return url

    @field_validator("file")
    @classmethod
    def _is_whole(cls, path: str | None) -> str | None:
        return path if path is None else _absolute(path)

    @model_validator(mode="after")
    def _one_place(self) -> Tracing:
        if (self.url is None) == (self.file is None):
            raise ValueError("expected either url or file")
        return self


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute() or any(character.isspace() or character == "," for character in path):
        raise ValueError(f"found {path!r}, expected a path from the root, without spaces and commas")
    return path
