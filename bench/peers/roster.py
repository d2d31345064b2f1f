"""Who is measured: by name, the command that starts it, how it is asked, and what a deployment of it carries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures.peers import OURS
from bench.peers.client import Endpoint
from bench.peers.environments import libraries_of, python_of
from bench.peers.subjects import Subject
from tldeploy.recipe import Deploy
from tldeploy.triton.home import locate
from tldeploy.triton.ports import free_ports
from tldeploy.triton.repository import publish

SERVERS = Path(__file__).parent / "servers"
# How far from the network's own probabilities an answer may be. What quantizing costs is for the task's metric to say.
EXACT, QUANTIZED = 1e-4, 0.3
PORTS = ("--http-port", "--grpc-port", "--metrics-port")


@dataclass(frozen=True)
class Peer:
    """command: what starts it. endpoint: how it is asked; None without a server, over its standard input.

    files: what of the model it carries. python, modules, engine: its environment, and what is loaded there.
    programs: what it needs besides. grpc_port: where there is one that is asked too.
    """

    name: str
    command: Sequence[str]
    endpoint: Endpoint | None
    tolerance: float
    files: Path
    python: Path
    modules: str
    engine: str = ""
    programs: Path | None = None
    grpc_port: int | None = None


def peers(subject: Subject, folder: Path) -> list[Peer]:
    """Ours first, the chosen variant before the exact one."""
    of_graphs = ["onnxruntime"] if subject.graphs else []
    return [
        *(_ours(subject, variant, folder) for variant in subject.exports),
        *(_fastapi(subject, engine) for engine in ("torch", "pipeline", *of_graphs)),
        *(_pytriton(subject, engine) for engine in ("torch", *of_graphs)),
        _in_process(subject, "pipeline"),
    ]


def _ours(subject: Subject, variant: str, folder: Path) -> Peer:
    """`tldeploy serve` on what `tldeploy deploy` has published."""
    repository, ports = folder / f"repository-{variant}", free_ports()
    publish(subject.exports[variant], repository, "m", Deploy())
    given = [word for option, port in zip(PORTS, ports, strict=True) for word in (option, str(port))]
    return Peer(
        f"{OURS}, {variant}",
        [sys.executable, "-m", "tldeploy", "serve", str(repository), *given],
        Endpoint("triton", ports[0], "m", subject.task.column),
        EXACT if variant == "fp32" else QUANTIZED,
        repository,
        Path(sys.executable),
        "tldeploy.cli.serve,tldeploy.triton.server,tritonclient.http",
        programs=locate().program.parents[1],
        grpc_port=ports[1] if variant == subject.chosen else None,
    )


def _fastapi(subject: Subject, engine: str) -> Peer:
    python, port = python_of("fastapi"), free_ports()[0]
    variant, files = _model(subject, engine)
    command = [str(python), str(SERVERS / "with_fastapi.py"), str(files), engine, str(port)]
    tolerance = EXACT if variant == "fp32" else QUANTIZED
    name = f"FastAPI, {engine}, {variant}"
    return Peer(name, command, Endpoint("fastapi", port), tolerance, files, python, "fastapi,uvicorn", engine)


def _pytriton(subject: Subject, engine: str) -> Peer:
    python, ports = python_of("pytriton"), free_ports()
    variant, files = _model(subject, engine)
    # Its workers load whatever libpython they find, and crash where it is not the interpreter's own.
    libraries = f"LD_LIBRARY_PATH={libraries_of(python)}"
    command = ["env", libraries, str(python), str(SERVERS / "with_pytriton.py"), str(files), engine, *map(str, ports)]
    tolerance = EXACT if variant == "fp32" else QUANTIZED
    name = f"PyTriton, {engine}, {variant}"
    return Peer(
        name, command, Endpoint("triton", ports[0], "m", "row"), tolerance, files, python, "pytriton.triton", engine
    )


def _in_process(subject: Subject, engine: str) -> Peer:
    python = python_of("fastapi")
    variant, files = _model(subject, engine)
    command = [str(python), str(SERVERS / "in_process.py"), str(files), engine]
    return Peer(f"in-process, {engine}, {variant}", command, None, EXACT, files, python, "json", engine)


def _model(subject: Subject, engine: str) -> tuple[str, Path]:
    """What the engine runs: the graph that we serve, or the network itself."""
    return next(iter(subject.graphs.items())) if engine == "onnxruntime" else ("fp32", subject.checkpoint)
