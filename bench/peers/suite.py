"""tldeploy against what one would write otherwise: the same network, the same rows, served by each.

1. Every peer is a small server of servers/, in an environment of its own (environments.py), started by its command. One
   that answers otherwise than the network is not timed.
2. For the speed all run at once and idle but for the one that is asked. In each of ROUNDS rounds and with each number
   of CLIENTS every one is asked for SECONDS in an order drawn anew, by clients in a process of their own that share its
   cores.
3. A ratio is of the rates within a round; what is reported is the geometric mean over rounds, with its interval by
   Student's t. We are ahead of a peer, or it of us, when the interval does not hold 1; else they are level.
4. `alone` starts one after the other: how long until the first right answer; weighted F1 of its answers to all held-out
   rows; then the proportional set size of all its processes (of several at once, what they share would be divided).
5. On disk counts what of the model it carries, the installed packages of which it has loaded anything, and tritonserver
   where it is no such package.
6. `generator` holds our load generator against Triton's own (generator.py).

    .venv/bin/python -m bench.peers.suite bench/results/<machine> [text] [images] [alone] [--models FOLDER]
    .venv/bin/python -m bench.peers.suite bench/results/<machine> generator --perf-analyzer PROGRAM

All but images need the export and the tuned network of models/review-sentiment (below --models). Parts that are not
asked for keep what was recorded of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures.peers import page
from bench.peers import generator
from bench.peers.client import Endpoint
from bench.peers.roster import Peer, peers
from bench.peers.running import Running, loaded_bytes
from bench.peers.subjects import SUBJECTS, Subject
from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.tasks.classification import Row
from tldeploy.tasks.metrics import weighted_f1

ROOT = Path(__file__).parents[2]
ROUNDS, SECONDS, CLIENTS = 5, 1.0, (1, 4, 16)
WARM_UP_SECONDS = 0.3


def measure(subject: Subject, folder: Path, pool: Executor) -> Iterator[dict[str, Any]]:
    """By peer and number of clients: the rate of every round, and its latencies in ms; anew after each round."""
    draw = np.random.default_rng(0)
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for peer in peers(subject, folder):
            new = stack.enter_context(Running(peer, subject.rows, subject.expected, folder, pool))
            new.off()
            running[peer.name] = new
            if peer.grpc_port:
                running[f"{peer.name}, gRPC"] = _by_grpc(new)
        found: dict[str, dict[str, Any]] = {name: {} for name in running}
        for turn in range(-1, ROUNDS):
            for clients in CLIENTS:
                asked = [name for name, each in running.items() if each.peer.endpoint or clients == 1]
                for name in draw.permutation(asked).tolist():
                    seconds = WARM_UP_SECONDS if turn < 0 else SECONDS
                    times = running[name].load(clients, 1000 * (turn + 1), seconds)
                    if turn >= 0:
                        _keep(found[name].setdefault(str(clients), {"rate": [], "ms": []}), times)
            if turn >= 0:
                yield found


def weigh(subject: Subject, folder: Path, pool: Executor) -> Iterator[dict[str, Any]]:
    """By peer, alone: until its first right answer, how far it is from the network, weighted F1 of its answers to all
    rows, its memory after them, and what it carries on disk; anew after each peer."""
    found: dict[str, Any] = {}
    for peer in peers(subject, folder):
        with Running(peer, subject.rows, subject.expected, folder, pool) as running:
            kept = {"start_s": running.start_s, "off_torch": running.off()}
            answers = running.answers(subject.rows)
            kept["memory_mb"] = running.memory_mb()
        if subject.classes is not None:
            classes = subject.task.decode(answers)
            kept["metric"] = weighted_f1(subject.classes, classes, len(subject.task.labels)).as_json()
        found[peer.name] = {**kept, "disk_mb": _disk_mb(peer, subject.rows[0], folder)}
        yield found


def _by_grpc(started: Running) -> Running:
    """The same server, asked over its other port."""
    endpoint = Endpoint("grpc", started.peer.grpc_port or 0, "m")
    return Running(
        replace(started.peer, endpoint=endpoint), started.rows, started.expected, started.folder, started.pool
    )


def _keep(kept: dict[str, list[Any]], times: Any) -> None:
    kept["rate"].append(round(len(times) / (times[:, 1].max() - times[:, 0].min()), 3))
    kept["ms"].append((1000 * (times[:, 1] - times[:, 0])).round(2).tolist())


def _disk_mb(peer: Peer, row: Row, folder: Path) -> dict[str, float]:
    parts = {"model": _size(peer.files), "packages": sum(loaded_bytes(peer, row, folder).values())}
    if peer.programs:
        parts["tritonserver"] = _size(peer.programs)
    return {part: round(size / 1e6, 1) for part, size in parts.items()}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def taken(part: str, models: Path, perf_analyzer: Path | None, folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of a part so far, again and again, so that a run that is broken off leaves what it has."""
    if part == "generator":
        if perf_analyzer is None:
            raise SystemExit("generator needs --perf-analyzer; bench/peers/perf_analyzer.sh lays it out")
        yield from generator.measure(models, perf_analyzer.resolve(), folder)
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        if part in SUBJECTS:
            yield from measure(SUBJECTS[part](models, folder), folder, pool)
            return
        found: dict[str, Any] = {}
        for name, make in SUBJECTS.items():
            (folder / name).mkdir()
            for weighed in weigh(make(models, folder / name), folder / name, pool):
                found[name] = weighed
                yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", default=["text", "images", "alone"])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--perf-analyzer", type=Path, help="what perf_analyzer.sh has laid out")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "peers.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": {}}
    for part in asked.parts:
        with tempfile.TemporaryDirectory() as folder:
            for found in taken(part, asked.models.resolve(), asked.perf_analyzer, Path(folder)):
                report |= {"environment": environment.describe(), "seconds": SECONDS}
                report["results"][part] = found
                write_file(file, json.dumps(report) + "\n")
                write_file(asked.out / "peers.md", page(report))
    print(page(report), file=sys.stderr)


if __name__ == "__main__":
    main()
