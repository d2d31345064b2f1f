"""The engines that `bench` compares: opened from what the stages left, each in a process of its own.

Those that compute here are children of this process (measuring/isolated.py), opened one after the other, so that no
other one's start is in what opening took; the served ones are asked of a private server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.errors import ArtifactError, RecipeError
from tldeploy.recipe import Recipe

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.runtime import Runner
    from tldeploy.tasks.classification import Classification

Protocol = Literal["http", "grpc"]
# How each served engine is asked: its protocol, and whether tensors go through shared memory.
SERVED: dict[str, tuple[Protocol, bool]] = {
    "triton-http": ("http", False),
    "triton-grpc": ("grpc", False),
    "triton-shared-memory": ("http", True),
}
# The class of each of the others, which its own process imports.
LOCAL = {
    "torch": "tldeploy.runtime.pytorch:TorchRunner",
    "torch-bf16": "tldeploy.runtime.pytorch_half:TorchBf16Runner",
    "torch-fp16": "tldeploy.runtime.pytorch_half:TorchFp16Runner",
    "torch-compile": "tldeploy.runtime.pytorch_compiled:TorchCompileRunner",
    "onnxruntime": "tldeploy.runtime.onnx:OnnxRunner",
    "openvino": "tldeploy.runtime.openvino:OpenVinoRunner",
    "openvino-int8": "tldeploy.runtime.openvino:OpenVinoRunner",
}
# Those that do not compute on every device, and why.
ONLY_ON_A_GPU = {"torch-fp16": "hardly any CPU has instructions for fp16"}
ONLY_ON_THE_CPU = dict.fromkeys(("openvino", "openvino-int8"), "of NVIDIA's GPUs OpenVINO knows none")
# Variants with operators that a device has no kernels for: onnxruntime would compute these on the CPU.
WITHOUT_KERNELS: dict[Device, set[str]] = {
    "cpu": {"bf16"},
    "cuda": {"int8-dynamic", "int8-static"},
    "tensorrt": {"int8-dynamic", "int8-weights", "int4-weights"},
}


def artifacts_behind(recipe: Recipe) -> list[tuple[str, Path]]:
    """The kind and the folder of each artifact that the recipe's engines are opened from."""
    behind = [("tune", recipe.path("tuned")), ("export", recipe.path("onnx"))]
    if _served(recipe):
        from tldeploy.triton import repository

        place = recipe.path(recipe.deploy.repository)
        behind.append(("deploy", repository.published(place, recipe.name).path))
    return behind


def _served(recipe: Recipe) -> list[tuple[Protocol, bool]]:
    return [asked for engine, asked in SERVED.items() if engine in recipe.bench.engines]


@contextlib.contextmanager
def opened(recipe: Recipe, exported: Manifest) -> Iterator[list[Runner]]:
    """Every engine that the recipe benches, open; the served ones by a private server on free ports.

    The others compute on the recipe's `bench_device`, which `check` was asked about. Raises ArtifactError for graphs
    that cannot compute there, MachineError for a package or a compiler that an engine needs, and whatever error opening
    one raises.
    """
    from tldeploy.measuring.isolated import Isolated
    from tldeploy.tasks import load_task

    device = recipe.bench_device()
    if "onnxruntime" in recipe.bench.engines:
        check_graphs(recipe, exported)
    folder = recipe.path("onnx")
    task = load_task(exported.task, folder, exported.labels)
    with contextlib.ExitStack() as stack:
        runners: list[Runner] = []
        for engine, model in _models(recipe, exported, task):
            settings = session_of(exported, model.stem, device) if engine == "onnxruntime" else {}
            runners.append(Isolated(engine, LOCAL[engine], model, task, folder, device, **settings))
            stack.callback(runners[-1].close)
        if served := _served(recipe):
            runners += stack.enter_context(_asked_of_a_server(recipe, served))
        yield runners


def check(wanted: Iterable[str], device: Device) -> None:
    """Raises RecipeError for engines that do not compute on the device."""
    misfits = ONLY_ON_A_GPU if device == "cpu" else ONLY_ON_THE_CPU
    if found := [engine for engine in wanted if engine in misfits]:
        names, reasons = ", ".join(found), "; ".join(dict.fromkeys(misfits[engine] for engine in found))
        other = "cuda" if device == "cpu" else "cpu"
        fix = f"leave {names} out of bench.engines, or bench on {other}, by bench.device or `tldeploy bench --device`"
        raise RecipeError(f"bench {names} on {device}", reasons, fix)


def check_graphs(recipe: Recipe, exported: Manifest) -> None:
    """Raises ArtifactError for variants that were exported for something else, and cannot compute where it benches."""
    device = recipe.bench_device()
    there = [variant["name"] for variant in exported.details["variants"] if variant["file"]]
    if found := [name for name in there if name in WITHOUT_KERNELS[device]]:
        names, target = ", ".join(found), exported.details.get("target", "cpu")
        reason = f"{device} has no kernels for some of their operators; they were exported for {target}"
        fix = f"run `tldeploy export {recipe.folder} --device {device}` first, or bench them on what they were made for"
        raise ArtifactError(f"bench onnxruntime {names} on {device}", reason, fix)


def session_of(exported: Manifest, variant: str, device: Device) -> dict[str, Any]:
    """How the export found that a variant's session is fastest there (exporting/sessions.py); nothing where it has not
    looked."""
    found = exported.details.get("session")
    if found is None or (found["variant"], found["device"]) != (variant, device):
        return {}
    return {"options": found["options"], "memory": found["memory"]}


def _models(recipe: Recipe, exported: Manifest, task: Classification) -> Iterator[tuple[str, Path]]:
    """Each engine that computes here, and what it loads; the tuned network first, the reference."""
    graphs = [recipe.path("onnx") / variant["file"] for variant in exported.details["variants"] if variant["file"]]
    for engine in LOCAL:
        if engine not in recipe.bench.engines:
            continue
        if engine == "onnxruntime":
            yield from ((engine, graph) for graph in graphs)
        elif engine == "openvino":
            yield engine, recipe.path("onnx") / "fp32.onnx"
        elif engine == "openvino-int8":
            yield engine, _int8_of_openvino(recipe, exported, task)
        else:
            yield engine, recipe.path("tuned")


def _int8_of_openvino(recipe: Recipe, exported: Manifest, task: Classification) -> Path:
    """nncf's int8 of the fp32 graph, calibrated on the rows that ours is; made once for each export."""
    from tldeploy.data.rows import Rows
    from tldeploy.runtime.nncf_int8 import quantize

    number = recipe.export.calibration.rows
    key = fingerprint([exported.sha256, number, *(_version(package) for package in ("nncf", "openvino"))])[:16]
    made = recipe.folder / ".cache" / "openvino" / f"int8-{key}.xml"
    if not made.is_file():
        rows = Rows.load(recipe.path("tuned") / "calibration.jsonl").inputs[:number]
        encoded = (task.encode([row]) for row in rows)
        # Texts have transformers; the preset for them suits no convolution.
        quantize(recipe.path("onnx") / "fp32.onnx", encoded, "transformer" if len(task.axes) > 1 else "cnn", made)
    return made


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def _asked_of_a_server(recipe: Recipe, served: list[tuple[Protocol, bool]]) -> Iterator[list[Runner]]:
    from tldeploy.measuring.isolated import Opening
    from tldeploy.measuring.profiling import Placed
    from tldeploy.runtime.triton import Client
    from tldeploy.triton import repository
    from tldeploy.triton.graph_nodes import read_placement
    from tldeploy.triton.server import Server

    class Served(Client):
        opening: Opening
        placement: list[Placed] | None

    place = recipe.path(recipe.deploy.repository)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(place, http_port=0, grpc_port=0, metrics_port=0))
        seconds = time.perf_counter() - start
        version = repository.published(place, recipe.name).version
        files = [file for of in (recipe.name, f"{recipe.name}.*") for file in place.glob(f"{of}/{version}/*")]
        opening = Opening(seconds, None, sum(file.stat().st_size for file in files if file.is_file()))
        urls = {"http": server.http_url, "grpc": server.grpc_url}
        metrics = f"http://{server.host}:{server.metrics_port}/metrics"
        runners: list[Runner] = []
        for protocol, shared in served:
            client = Served(
                url=urls[protocol], model=recipe.name, protocol=protocol, shared_memory=shared, key=server.key
            )
            client.opening = opening
            client.placement = read_placement(metrics, client.steps[-1], version)
            stack.callback(client.close)
            runners.append(client)
        yield runners
