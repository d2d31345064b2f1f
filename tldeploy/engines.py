"""The engines that `bench` compares: opened from what the stages left, the served ones by a private server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tldeploy.artifacts import Manifest
from tldeploy.recipe import Recipe

if TYPE_CHECKING:
    from tldeploy.runtime import Runner

Protocol = Literal["http", "grpc"]
# How each served engine is asked: its protocol, and whether tensors go through shared memory.
SERVED: dict[str, tuple[Protocol, bool]] = {
    "triton-http": ("http", False),
    "triton-grpc": ("grpc", False),
    "triton-shared-memory": ("http", True),
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
    """Every engine that the recipe benches, open; the served ones by a private server on free ports."""
    from tldeploy.tasks import load_task

    task = load_task(exported.task, recipe.path("onnx"), exported.labels)
    with contextlib.ExitStack() as stack:
        runners: list[Runner] = []
        if "torch" in recipe.bench.engines:
            from tldeploy.runtime.pytorch import TorchRunner

            runners.append(TorchRunner(recipe.path("tuned"), task))
        if "onnxruntime" in recipe.bench.engines:
            from tldeploy.runtime.onnx import OnnxRunner

            files = [variant["file"] for variant in exported.details["variants"] if variant["file"]]
            runners += [OnnxRunner(recipe.path("onnx") / file, task) for file in files]
        if served := _served(recipe):
            from tldeploy.runtime.triton import Client
            from tldeploy.triton.server import Server

            place = recipe.path(recipe.deploy.repository)
            server = stack.enter_context(Server(place, http_port=0, grpc_port=0, metrics_port=0))
            urls = {"http": server.http_url, "grpc": server.grpc_url}
            runners += [
                Client(url=urls[protocol], model=recipe.name, protocol=protocol, shared_memory=shared, key=server.key)
                for protocol, shared in served
            ]
        for runner in runners:
            stack.callback(runner.close)
        yield runners
