"""How fast the graphs are on an NVIDIA GPU: onnxruntime's CUDA provider, alone and behind Triton, against PyTorch.

The parts, in order; each begins where an earlier run of it ended, and keeps what it has after every step:

graphs     A network and its variants for CUDA, as the export stage makes them, in build/gpu. MiniLM has the weights
           that models/review-sentiment was tuned to; the others have random ones, which serve for speed.
compile    PyTorch's compiled engines go through every shape, a process each at the same time, so that what takes
           minutes is in PyTorch's cache on disk before anything is timed.
speed      Every engine, in a process of its own (gpu_engines.py, gpu_engine.py), and every graph served by Triton
           (gpu_served.py), asked in an order drawn anew in each of ROUNDS rounds. Twice: from the host's memory and
           back, by its clock; and on the GPU alone, by CUDA events. At one shape utilisation and memory, by NVML.
placement  By onnxruntime's profile, what share of the host's time each provider had: for what is on the GPU, that of
           launching it. That every node which computes is there is proven when a session is opened, and recorded.
quality    The task metric of MiniLM's engines on held-out rows, and what each loses against fp32.

gpu.json is described in gpu_record.py; gpu.md has the tables, and says of each claim whether the record bears it out.

    make bench-gpu SUBJECTS=minilm    or    python bench/gpu.py [minilm bert-base resnet50 vgg16] [--parts graphs …]

By default all subjects and parts, into bench/results/<gpu>. --device cpu tries everything out without a GPU, with a few
requests; nothing of that is a result.

A subject, or a part of one, can be had alone: `--parts graphs compile`, then all, again until nothing is left. How long
that takes on a GPU is an estimate, for none was had: a minute for the graphs; three to five for compiling text, one or
two images; six to nine for the speed of text, most of it BERT-base's largest batches, two for images; one for the rest.
A trial of minilm and resnet50 takes four and a half minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gpu_limits
import numpy as np
import torch
from export import ROOT, SUBJECTS, TUNED, Subject, make_graphs, operations
from figures import gpu as tables
from gpu_engines import COMPILED, REFERENCE, Engine, Engines, in_a_line, wanted
from gpu_record import Record
from gpu_served import serving

from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork
from tldeploy.data.rows import Rows
from tldeploy.errors import ArtifactError, MachineError, TldeployError, UsageError
from tldeploy.measuring.nvml import Gpu, find_gpus, utilisation
from tldeploy.measuring.profiling import profile, provider_shares
from tldeploy.recipe import Export
from tldeploy.runtime.session import open_session

BUILD = ROOT / "build" / "gpu"
ROUNDS, ROUND_MS, FEWEST, MOST = 7, 30.0, 3, 200
LENGTHS, BATCHES = (128, 16, 384), (1, 32, 8, 128)  # what claims are made of first
BUSY_REQUESTS, BUSY_S = ("32 x 128", "32 x 224"), 1.5
SCORED_ROWS, SCORED_BATCH = 512, 32


class Job:
    """A subject on a device. few: only what trying out takes. gpu: what NVML tells of it; None where it does not.

    scratch: a folder that goes with the job. stack: closes what it opened.
    """

    def __init__(
        self, subject: Subject, device: str, gpu: Gpu | None, record: Record, scratch: Path, stack: ExitStack
    ) -> None:
        self.subject, self.device, self.gpu, self.record = subject, device, gpu, record
        self.scratch, self._stack = scratch, stack
        self.few, self.found = device == "cpu", record.of(subject.name)
        self.folder = BUILD / subject.name
        self.requests = requests(subject, self.few)

    @property
    def graphs(self) -> dict[str, Path]:
        """By variant; made where they are not there yet."""
        made = self.folder / "graphs.json"
        if not made.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            files = make_graphs(self.subject, self.folder, "cuda")
            self.subject.network.save(self.folder / "torch")
            write_file(made, json.dumps({variant: file.name for variant, file in files.items()}) + "\n")
        return {variant: self.folder / file for variant, file in json.loads(made.read_text(encoding="utf-8")).items()}

    @cached_property
    def engines(self) -> Engines:
        """All that the parts ask, with a server for the graphs; each is opened when it is first asked for."""
        convolutional = isinstance(self.subject.network, ImageNetwork)
        here = wanted(self.graphs, self.folder / "torch", self.device, self.gpu, convolutional)
        served = serving(self.graphs, self.subject.task, self.device, self.scratch, self.gpu)
        engines = Engines(here | self._stack.enter_context(served), self._at_once())
        self._stack.callback(engines.close)
        return engines

    def _at_once(self) -> int:
        """Processes that may start at the same time, without one's memory being taken for another's."""
        hidden = self.gpu is not None and self.gpu.used_mb_of(own_pid()) is None
        return 1 if hidden else max(1, environment.usable_cores() // 2)

    def missing(self) -> dict[str, Path]:
        """The inputs of the requests that are not measured yet."""
        return {request: self.written(request) for request in self.record.missing(self.subject.name, self.requests)}

    def written(self, request: str) -> Path:
        file = self.scratch / f"{request}.npz"
        if not file.exists():
            np.savez(file, **self.requests[request])
        return file

    def keep(self) -> None:
        self.record.keep()
        write_file(self.record.folder / "gpu.md", tables.page(self.record.content))


def requests(subject: Subject, few: bool) -> dict[str, dict[str, Any]]:
    """One batch for each shape, of real token ids or of smooth images."""
    batches = BATCHES[:1] if few else BATCHES
    if isinstance(subject.network, TextNetwork):
        ids = next(iter(subject.requests.values()))[0]["input_ids"].ravel()
        draw, found = np.random.default_rng(0), {}
        for length in LENGTHS[:1] if few else LENGTHS:
            for batch in batches:
                shape = (batch, length)
                mask = np.ones(shape, dtype=np.int64)
                found[f"{batch} x {length}"] = {"input_ids": draw.choice(ids, shape), "attention_mask": mask}
        return found
    pixels = subject.requests[next(iter(subject.requests))][0]["pixels"]
    return {f"{batch} x 224": {"pixels": np.repeat(pixels, batch, axis=0)} for batch in batches}


def graphs(job: Job) -> None:
    inputs = job.requests
    job.found["about"] = {
        "parameters": weights_read(job.subject.network),
        "operations": {request: counted(job.subject, request, tensors) for request, tensors in inputs.items()},
        "input_bytes": {request: sum(each.nbytes for each in tensors.values()) for request, tensors in inputs.items()},
        "size_bytes": {variant: file.stat().st_size for variant, file in job.graphs.items()},
    }


def weights_read(network: Network) -> int:
    """The parameters that any request reads; of an embedding's table it reads a few rows."""
    tables = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Embedding))
    return sum(parameter.numel() for parameter in network.parameters()) - tables


def counted(subject: Subject, request: str, tensors: Mapping[str, Any]) -> int:
    """Operations: of one row, which is run here, times the rows."""
    row = {name: values[:1] for name, values in tensors.items()}
    rows = len(next(iter(tensors.values())))
    return rows * operations(replace(subject, requests={request: [row]}), request)


def compiling(job: Job) -> None:
    """Nothing where all shapes are measured, and on a CPU, which nothing is compiled for."""
    if (missing := job.missing()) and not job.few:
        job.engines.those(list(COMPILED))
        job.engines.compile(missing)


def speed(job: Job) -> None:
    if missing := job.missing():
        job.found["machine"] = gpu_limits.measured(job.device)
    if "about" not in job.found:
        graphs(job)
    for request, file in missing.items():
        job.found.setdefault("requests", {})[request] = measured(job, request, file)
        job.keep()
        print(tables.speed(job.subject.name, request, job.found["requests"][request], job.found))


def measured(job: Job, request: str, file: Path) -> dict[str, Any]:
    """Every engine at one request; those that fail at it are left out with what they said."""
    engines, gpu, draw = job.engines, job.gpu, np.random.default_rng(0)
    asked = engines.for_request(request)
    fewest, rounds = (1, 2) if job.few else (FEWEST, ROUNDS)
    found: dict[str, Any] = {"rounds": {}, "off": {}, "busy": {}, "left_out": dict(engines.refused)}
    if REFERENCE not in asked:
        raise MachineError(f"measure {request}", engines.refused[REFERENCE], "without it there are no ratios")
    expected = asked[REFERENCE].answer(file)
    times = {}

    def first(name: str, engine: Engine) -> None:
        job.found.setdefault("proof", {})[name] = engine.proof
        took = engine.time(file, fewest)["wall_ms"]
        times[name] = max(fewest, min(MOST, round(ROUND_MS / statistics.median(took))))
        found["off"][name] = float(np.abs(engine.answer(file) - expected).max())
        found["rounds"][name] = {}

    def in_a_round(name: str, engine: Engine) -> None:
        for clock, took in engine.time(file, times[name]).items():
            found["rounds"][name].setdefault(clock, []).append(round(statistics.median(took), 5))

    def busily(name: str, engine: Engine) -> None:
        found["busy"][name] = busy(engine, file, gpu) if gpu else {}

    def attempt(name: str, what: Callable[[str, Engine], None]) -> None:
        if name in found["left_out"]:
            return
        try:
            what(name, asked[name])
        except TldeployError as error:
            if name == REFERENCE:
                raise
            found["left_out"][name] = in_a_line(error)
            for part in ("rounds", "off", "busy"):
                found[part].pop(name, None)
            engines.drop(name)

    for name in asked:
        attempt(name, first)
    for _ in range(rounds):
        for name in draw.permutation(list(asked)).tolist():
            attempt(name, in_a_round)
    for name in asked if gpu and request in BUSY_REQUESTS else ():
        attempt(name, busily)
    return found


def busy(engine: Engine, file: Path, gpu: Gpu) -> dict[str, float | None]:
    with utilisation(gpu) as percents:
        engine.keep_busy(file, BUSY_S)
    return {
        "utilisation_percent": statistics.mean(percents) if percents else None,
        "memory_mb": engine.memory_mb(),
    }


def placement(job: Job) -> None:
    if "placement" not in job.found:
        inputs = next(iter(job.requests.values()))
        job.found["placement"] = {variant: placed(file, job.device, inputs) for variant, file in job.graphs.items()}


def placed(graph: Path, device: str, inputs: Mapping[str, Any]) -> dict[str, float]:
    """The share of the host's time for each execution provider; empty where the session does not open."""
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    try:
        open_session(graph, provider)
        return provider_shares(profile(graph, [inputs] * 5, provider))
    except TldeployError as error:
        print(f"{graph.name}: {error.found}", file=sys.stderr)
        return {}


def quality(job: Job) -> None:
    """Of MiniLM alone, whose weights are real; engines that fail at it are left out with what they said. Compiled ones
    have the weights and the precision of eager ones, and would compile for every length."""
    if job.subject.name != "minilm" or "quality" in job.found:
        return
    held_out, task = Rows.load(TUNED / "test.jsonl"), job.subject.task
    rows = held_out.take(np.arange(min(32 if job.few else SCORED_ROWS, len(held_out))))
    answers, left_out, file = {}, {}, job.scratch / "scored.npz"
    for name, engine in job.engines.that_compute().items():
        parts = []
        try:
            for start in range(0, len(rows), SCORED_BATCH):
                np.savez(file, **task.encode(rows.inputs[start : start + SCORED_BATCH]))
                parts.append(engine.answer(file))
        except TldeployError as error:
            if name == REFERENCE:
                raise
            left_out[name] = in_a_line(error)
            job.engines.drop(name)
            continue
        answers[name] = task.decode(np.concatenate(parts))
    if REFERENCE not in answers:
        raise MachineError("score the engines", job.engines.refused[REFERENCE], "without it no loss is known")
    job.found["quality"] = {
        "rows": len(rows),
        "metric": "weighted F1",
        "budget_points": Export().max_drop,
        "engines": {
            name: {
                "metric": task.measure(rows.classes, predicted).as_json(),
                "drop": task.drop(rows.classes, answers[REFERENCE], predicted).as_json(),
            }
            for name, predicted in answers.items()
        },
        "left_out": left_out,
    }


PARTS: dict[str, Callable[[Job], None]] = {
    "graphs": graphs,
    "compile": compiling,
    "speed": speed,
    "placement": placement,
    "quality": quality,
}


def counters(device: str) -> tuple[Gpu | None, str | None]:
    """The GPU that PyTorch calls its first, as NVML tells of it; or why it does not."""
    try:
        gpus = find_gpus()
        uuid = str(torch.cuda.get_device_properties(0).uuid) if device == "cuda" else ""
        gpu = next((gpu for gpu in gpus if uuid in gpu.uuid), None)
        if gpu is None:
            return None, "NVML does not know the GPU that PyTorch uses"
        gpu.busy_percent(), gpu.used_mb()
    except OSError as error:
        return None, str(error)
    return gpu, None


def own_pid() -> int:
    """Of this process, once it has something on the GPU."""
    torch.zeros(1, device="cuda")
    return os.getpid()


def named_after(device: str) -> str:
    """A folder's name: the GPU's, as its driver says it; of a trial a name that is no machine's."""
    if device != "cuda":
        return "trial-on-a-cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    asked = parser.parse_args()
    try:
        run(asked.subjects, asked.parts, asked.device, asked.out)
    except TldeployError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def run(subjects: list[str], parts: list[str], device: str, out: Path | None) -> None:
    if unknown := [name for name in subjects if name not in SUBJECTS]:
        raise UsageError(f"measure {', '.join(unknown)}", "there is no such subject", f"name {', '.join(SUBJECTS)}")
    if device == "cuda" and not torch.cuda.is_available():
        fix = "run it where there is one, with PyTorch's CUDA build; `tldeploy doctor` says what is missing"
        raise MachineError("measure on a GPU", "PyTorch finds no CUDA GPU here", fix)
    if not set(subjects) <= {"resnet50", "vgg16"} and not TUNED.exists():
        fix = "run `make demo` before, or name resnet50 and vgg16 alone"
        raise ArtifactError("measure on texts", f"{TUNED.relative_to(ROOT)} is not there", fix)
    gpu, why_not = counters(device)
    record = Record(out or ROOT / "bench" / "results" / named_after(device), environment.describe(), device, why_not)
    for name in subjects:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            job = Job(SUBJECTS[name](), device, gpu, record, Path(scratch), stack)
            for part in (PARTS[name] for name in PARTS if name in parts):
                part(job)
                job.keep()
    print(tables.claims(record.content["results"]))


if __name__ == "__main__":
    main()
