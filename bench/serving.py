"""What serving adds to a graph, and what merging requests gives back: MiniLM on real sentences, a ResNet-18 on JPEGs.

1. The export is published as `deploy` does it, and once more with batching off; a server runs on each. Their graphs
   run on one thread.
2. Two cores: the worker of the graph has one to itself; tritonserver, the worker of the step before and the clients,
   which are a process of their own, share the other. The in-process engines have the graph's core, and one thread.
3. In-process, "one at a time": a row is encoded and run alone at its own length, then the next, by one thread. And "in
   batches": eight rows of similar lengths at a time, as only who knows all rows beforehand can take them.
4. In each of ROUNDS rounds every engine is asked for SECONDS, in an order drawn anew. A ratio is of the rates within a
   round; what is reported is the geometric mean over rounds, with its interval by Student's t.
5. Where the time goes: Triton's statistics of each step, with one client and by each protocol, and what the client
   waited beyond them. They lag behind replies, so that their differences are taken after a pause.

    .venv/bin/python bench/serving.py bench/results/<machine> [text] [text-unpinned] [images] [--models FOLDER]

text needs the export of models/review-sentiment (below --models); the ResNet has random weights, which serve for speed.
text-unpinned is text as `deploy` and the kernel leave it: nothing is pinned, and the graph has a thread for each core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
from figures.serving import ALONE, IN_BATCHES, OFF, PROTOCOLS, SERVED, page
from pictures import photos, resnet18

from tldeploy import __version__, artifacts, environment
from tldeploy.artifacts import Manifest, write_file
from tldeploy.data.rows import Rows
from tldeploy.measuring.parts import LAG_S, Parts, spent_between
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.statistics import Counted
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Row
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

ROOT = Path(__file__).parent.parent
NAME = "m"
ROUNDS, SECONDS, CLIENTS, BATCH = 7, 2.5, 16, 8
WARM_UP_SECONDS = 0.5
IMAGE_SIZE = 224
ONE_THREAD = 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'


@dataclass(frozen=True)
class Subject:
    """An export artifact, the rows that are sent, shuffled, and how long each is (None: all alike). pinned: as in 2."""

    export: Path
    rows: Sequence[Row]
    lengths: Sequence[int] | None
    pinned: bool = True


def text(models: Path, folder: Path) -> Subject:
    exported, tuned = (models / "review-sentiment" / stage for stage in ("onnx", "tuned"))
    rows = Rows.load(tuned / "test.jsonl").inputs
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    task = load_task("text-classification", exported, artifacts.load(exported, "export").labels)
    return Subject(exported, shuffled, task.examples(shuffled).lengths)


def images(models: Path, folder: Path) -> Subject:
    """A ResNet-18 on JPEGs; see pictures.py."""
    from tldeploy.exporting.graph import export_graph, metadata
    from tldeploy.tasks.image_classification import ImageClassification
    from tldeploy.tasks.pixels import ImageEncoder

    network = resnet18(3)
    task = ImageClassification(["a", "b", "c"], ImageEncoder(image_size=IMAGE_SIZE))
    with artifacts.writing(folder / "onnx") as new:
        export_graph(network, task, new / "fp32.onnx", 20, metadata(task, "", __version__))
        task.save(new)
        (new / "golden.json").write_text(json.dumps({"rows": [], "probabilities": []}), encoding="utf-8")
        details = {"chosen": "fp32", "variants": [{"name": "fp32", "file": "fp32.onnx"}]}
        about = {"task": task.name, "labels": task.labels, "preprocessing": task.preprocessing, "details": details}
        artifacts.seal(new, Manifest(kind="export", name=NAME, inputs="", **about))
    return Subject(folder / "onnx", photos(), None)


def text_unpinned(models: Path, folder: Path) -> Subject:
    return replace(text(models, folder), pinned=False)


SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "text": text,
    "text-unpinned": text_unpinned,
    "images": images,
}


class InProcess:
    """onnxruntime on one thread, in a process pinned to a core; made there, by the first call."""

    subject: Subject

    @classmethod
    def open(cls, core: int, subject: Subject) -> None:
        if subject.pinned:
            os.sched_setaffinity(0, {core})
        cls.subject = subject

    @cached_property
    def task(self) -> Any:
        manifest = artifacts.load(self.subject.export, "export")
        return load_task(manifest.task, self.subject.export, manifest.labels)

    @cached_property
    def session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(self.subject.pinned)  # 0: one a core
        chosen = artifacts.load(self.subject.export, "export").details["chosen"]
        graph = str(self.subject.export / f"{chosen}.onnx")
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def rate(self, batch: int, start: int, seconds: float) -> float:
        """Rows a second, in batches of so many rows of similar lengths; start: where among the rows to begin."""
        rows, lengths = self.subject.rows, self.subject.lengths
        order = np.arange(len(rows)) if batch == 1 or lengths is None else np.argsort(lengths, kind="stable")
        batches = np.array_split(order, -(-len(rows) // batch))
        shuffled = np.random.default_rng(1).permutation(len(batches)) if batch > 1 else np.arange(len(batches))
        done, at, begin = 0, start // batch, time.perf_counter()
        while time.perf_counter() < begin + seconds:
            taken = batches[shuffled[at % len(batches)]]
            self.session.run(None, self.task.encode([rows[row] for row in taken]))
            done, at = done + len(taken), at + 1
        return done / (time.perf_counter() - begin)


IN_PROCESS = InProcess()


def in_process(batch: int, start: int, seconds: float) -> float:
    return IN_PROCESS.rate(batch, start, seconds)


def ask(
    url: str, key: str | None, protocol: str, clients: int, start: int, seconds: float
) -> list[tuple[float, float]]:
    """When each request was sent and answered: `clients` threads, each sending the next row when it is answered."""
    rows, ready = InProcess.subject.rows, Barrier(clients)
    shared = (
        {"protocol": "http", "shared_memory": True, "key": key}
        if protocol == "shared memory"
        else {"protocol": protocol}
    )

    def client(number: int) -> list[tuple[float, float]]:
        times, row = [], start + number
        served.predict([rows[row % len(rows)]])  # opens the connection
        ready.wait()
        end = time.perf_counter() + seconds
        while (sent := time.perf_counter()) < end:
            served.predict([rows[row % len(rows)]])
            times.append((sent, time.perf_counter()))
            row += clients
        return times

    with Client(url, model=NAME, **shared) as served, ThreadPoolExecutor(clients) as pool:
        return [times for each in pool.map(client, range(clients)) for times in each]


class Served:
    """A server on the published export, and what its statistics say."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def pin(self, graph_core: int, other_core: int) -> None:
        assert self.server.pid is not None
        for process in _descendants(self.server.pid):
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            core = graph_core if b"stub" in command and f"{NAME}.graph".encode() in command else other_core
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})

    def address(self, protocol: str) -> tuple[str, str | None, str]:
        """The URL, the key that shared memory wants, and the protocol."""
        return self.server.grpc_url if protocol == "grpc" else self.server.http_url, self.server.key, protocol

    def statistics(self) -> dict[str, Counted]:
        """By model; they lag behind replies by some 100 ms."""
        with Client(self.server.grpc_url, model=NAME, protocol="grpc") as client:
            return client.statistics()

    @cached_property
    def steps(self) -> tuple[str, ...]:
        with Client(self.server.grpc_url, model=NAME, protocol="grpc") as client:
            return client.steps


def _descendants(process: int) -> Iterator[int]:
    yield process
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == process:
            yield from _descendants(int(stat.parent.name))


@contextmanager
def serving(subject: Subject, folder: Path, batching: bool, cores: Sequence[int]) -> Iterator[Served]:
    publish(subject.export, folder, NAME, Deploy())
    for file in folder.glob(f"{NAME}.*/config.pbtxt"):
        written = file.read_text(encoding="utf-8") + (
            ONE_THREAD if subject.pinned and file.parent.name.endswith("graph") else ""
        )
        file.write_text(written if batching else re.sub(r"dynamic_batching \{.*?\}", "", written, flags=re.DOTALL))
    with Server(folder, http_port=0, grpc_port=0, metrics_port=0, trusted=True) as server:
        served = Served(server)
        if subject.pinned:
            served.pin(*cores)
        yield served


def measure(subject: Subject, folder: Path) -> dict[str, Any]:
    """Rows a second of every engine and round with CLIENTS clients, and the parts of a request with one."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("this needs two cores")
    context, draw = multiprocessing.get_context("spawn"), np.random.default_rng(0)
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(subject, folder / name[-3:] / "repository", name == SERVED, cores))
            for name in (SERVED, OFF)
        }
        own, others = (
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=InProcess.open, initargs=(core, subject)))
            for core in cores
        )

        def load(name: str, start: int, seconds: float) -> dict[str, float]:
            if name not in servers:
                return {"rate": own.submit(in_process, 1 if name == ALONE else BATCH, start, seconds).result()}
            before = servers[name].statistics()
            times = _answered(others.submit(ask, *servers[name].address("grpc"), CLIENTS, start, seconds))
            time.sleep(LAG_S)
            after = servers[name].statistics()
            made = after[f"{NAME}.graph"] - before[f"{NAME}.graph"]
            waited = 1000 * (times[:, 1] - times[:, 0])
            return {
                "rate": len(times) / (times[:, 1].max() - times[:, 0].min()),
                "p50_ms": float(np.quantile(waited, 0.5)),
                "p99_ms": float(np.quantile(waited, 0.99)),
                "rows_at_a_time": made.rows / made.runs,
            }

        def parts(protocol: str, start: int, seconds: float) -> dict[str, float]:
            before = servers[SERVED].statistics()
            times = _answered(others.submit(ask, *servers[SERVED].address(protocol), 1, start, seconds))
            time.sleep(LAG_S)
            spent = spent_between(before, servers[SERVED].statistics())
            found = Parts.of(NAME, servers[SERVED].steps, spent, float((times[:, 1] - times[:, 0]).mean() * 1000))
            return {**found.by_name(), "all": found.all_ms}

        engines = _in_turns(load, [ALONE, IN_BATCHES, SERVED, OFF], draw)
        return {"clients": CLIENTS, "engines": engines, "parts": _in_turns(parts, list(PROTOCOLS), draw)}


def _in_turns(
    take: Callable[[str, int, float], dict[str, float]], names: list[str], draw: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """What `take` measures, for each name in every round; in a first, short one everything warms up."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for turn in range(-1, ROUNDS):
        for name in draw.permutation(names).tolist():
            taken = take(name, 1000 * (turn + 1), WARM_UP_SECONDS if turn < 0 else SECONDS)
            for what, value in taken.items() if turn >= 0 else ():
                found[name].setdefault(what, []).append(round(float(value), 4))
    return found


def _answered(future: Future[list[tuple[float, float]]]) -> Any:
    return np.array(future.result())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "serving.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    for name in asked.subjects:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(SUBJECTS[name](asked.models, Path(folder)), Path(folder))
        report = {"environment": environment.describe(), "results": results}
        write_file(file, json.dumps(report, indent=1) + "\n")
        write_file(asked.out / "serving.md", page(report))
        print(page(report), file=sys.stderr)


if __name__ == "__main__":
    main()
