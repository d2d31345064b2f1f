"""The served path of bench/gpu.py: every graph published for the device, on one Triton server, asked by each protocol.

What a client waits is measured, from arrays in its memory to an array there; the server's time on the GPU is not known.
Where there is no server to be had, or it refuses a graph on the device, that is the reason the rows are empty for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
from gpu_engines import SERVED, Engine, Served

from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.errors import MachineError, ServerError, TldeployError
from tldeploy.measuring.nvml import Gpu
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.tasks.classification import Classification
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

PROTOCOLS: Mapping[str, dict[str, Any]] = {
    "HTTP": {"protocol": "http"},
    "gRPC": {"protocol": "grpc"},
    "shared memory": {"protocol": "http", "shared_memory": True},
}
VARIANTS = ("fp32", "fp16", "int8-weights", "int4-weights")
LARGEST_BATCH = 128


@contextmanager
def serving(
    graphs: Mapping[str, Path], task: Classification, device: Literal["cuda", "cpu"], folder: Path, gpu: Gpu | None
) -> Iterator[dict[str, Callable[[], Engine]]]:
    """What opens each served engine, by its name; the server runs as long as the block. Where it does not start, each
    opening says why. graphs: by variant, of which VARIANTS are served. folder: for the repository."""
    served = [variant for variant in VARIANTS if variant in graphs]
    asked = {
        f"{SERVED} {variant} {protocol}": (variant, PROTOCOLS[protocol]) for variant in served for protocol in PROTOCOLS
    }
    with ExitStack() as stack:
        try:
            for variant in served:
                settings = Deploy(device=device, max_batch_size=LARGEST_BATCH, warmup=False)
                export = exported(graphs[variant], task, folder / "exports" / variant)
                publish(export, folder / "repository", variant, settings)
            ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
            server = stack.enter_context(Server(folder / "repository", **ports, trusted=True))
            openings = {name: _opening(server, *what, gpu) for name, what in asked.items()}
        except TldeployError as error:
            openings = dict.fromkeys(asked, _refusing(error))
        except ModuleNotFoundError as error:
            absent = MachineError("serve the graphs", str(error), f"pip install {error.name}")
            openings = dict.fromkeys(asked, _refusing(absent))
        yield openings


def _opening(server: Server, variant: str, asked: Mapping[str, Any], gpu: Gpu | None) -> Callable[[], Engine]:
    def opened() -> Engine:
        url = server.grpc_url if asked["protocol"] == "grpc" else server.http_url
        key = {"key": server.key} if "shared_memory" in asked else {}
        return Served(Client(url, model=variant, **asked, **key), worker_of(server, variant), gpu)

    return opened


def worker_of(server: Server, variant: str) -> int:
    """The process that runs the graph."""
    for process in psutil.Process(server.pid).children(recursive=True):
        if "stub" in (command := " ".join(process.cmdline())) and f"{variant}.graph_" in command:
            return int(process.pid)
    raise ServerError(f"find the worker of {variant}", "the server has none", "look into its log")


def _refusing(error: TldeployError) -> Callable[[], Engine]:
    def opened() -> Engine:
        raise error

    return opened


def exported(graph: Path, task: Classification, folder: Path) -> Path:
    """An export artifact of one graph, without golden answers: random weights have none that are worth holding to."""
    with artifacts.writing(folder) as new:
        shutil.copyfile(graph, new / graph.name)
        task.save(new)
        (new / "golden.json").write_text(json.dumps({"rows": [], "probabilities": []}), encoding="utf-8")
        details = {"chosen": graph.stem, "variants": [{"name": graph.stem, "file": graph.name}]}
        about = {"task": task.name, "labels": task.labels, "preprocessing": task.preprocessing, "details": details}
        artifacts.seal(new, Manifest(kind="export", name=graph.stem, inputs="", **about))
    return folder
