"""How fast the graphs are on an NVIDIA GPU: onnxruntime's CUDA provider against PyTorch, eager and compiled.

1. A network and its variants for CUDA are made as the export stage makes them. MiniLM has the weights that
   models/review-sentiment was tuned to (below --models); the others have random ones, which serve for speed.
2. Every engine runs in a process of its own (gpu_engine.py); in each of ROUNDS rounds each is asked in an order drawn
   anew, for every request. Twice: from the host's memory and back, by its clock; and on the GPU alone, by CUDA events.
3. The ratio is of medians within a round; what is reported is the median over rounds, with its bootstrap interval.
4. The limit: the network's operations over the measured rate of a matrix product, or the bytes of its weights and of
   what goes in and out over the measured rate of copying, whichever takes longer.
5. That every node computes on the GPU is proven by onnxruntime's assignment when a session is opened, and its profile
   says what share of the time that was. With MiniLM the task metric of every engine, on the held-out rows.

    make bench-gpu    or    .venv/bin/python bench/gpu.py [minilm bert-base resnet50 vgg16] [--out bench/results/<gpu>]

--device cpu tries everything out without a GPU, with a few requests; nothing of that is a result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export import ROOT, SUBJECTS, Subject, make_graphs, operations
from figures.table import markdown

from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.backbones.network import TextNetwork
from tldeploy.data.rows import Rows
from tldeploy.errors import MachineError
from tldeploy.measuring.profiling import profile, provider_shares
from tldeploy.runtime.session import open_session

ROUNDS, ROUND_MS = 7, 100.0
LENGTHS, BATCHES = (16, 128, 384), (1, 8, 32, 128)
# Compiling takes many seconds for each shape, and trying out all kernels minutes.
COMPILED = {"compile fp16": None, "compile fp16 max-autotune": ("1 x 128", "32 x 128", "1 x 224", "32 x 224")}
EAGER = ("torch fp32", "torch fp16", "torch bf16")
HOW = ("onnxruntime", "onnxruntime bound", "onnxruntime captured")
REFERENCE, BEST_PEER = "torch fp32", "compile fp16"
COPY_BYTES, PRODUCT_SIZE = 2**30, 8192
SCORED_ROWS, SCORED_BATCH = 512, 32


def requests(subject: Subject, few: bool) -> dict[str, dict[str, Any]]:
    """One batch for each shape, of real token ids or of smooth images. few: only what trying out takes."""
    batches = BATCHES[:2] if few else BATCHES
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


class Engine:
    """A process that runs gpu_engine.py. seconds: what opening took."""

    def __init__(self, name: str, file: Path, device: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("gpu_engine.py")), name, str(file), device]
        within = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=within)
        self.seconds: float = self._answer()["seconds"]

    def ask(self, **what: Any) -> dict[str, Any]:
        """Raises MachineError when the process has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            asked = f"run {self._process.args[2]}"  # type: ignore[index]
            raise MachineError(asked, f"its process ended with {self._process.wait()}", "see what it said above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def opened(stack: ExitStack, wanted_engines: dict[str, tuple[str, Path]], device: str) -> dict[str, Engine]:
    """Those that can be opened here; of the others it is said why not."""
    engines = {}
    for name, (kind, file) in wanted_engines.items():
        try:
            engines[name] = Engine(kind, file, device)
            stack.callback(engines[name].close)
        except MachineError as error:
            print(f"{name}: {error.found}", file=sys.stderr)
    return engines


def measure(subject: Subject, device: str, folder: Path) -> dict[str, Any]:
    """Medians in ms of every round, by request and engine, and what else the table says."""
    few = device == "cpu"
    graphs = make_graphs(subject, folder, "cuda")
    subject.network.save(folder / "torch")
    wanted_engines = {name: (name, folder / "torch") for name in (*EAGER, *([] if few else COMPILED))}
    wanted_engines |= {
        " ".join([kind.split()[0], variant, *kind.split()[1:]]): (kind, file)
        for variant, file in graphs.items()
        for kind in HOW
    }
    asked, draw = requests(subject, few), np.random.default_rng(0)
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with ExitStack() as stack:
        engines = opened(stack, wanted_engines, device)
        for request, inputs in asked.items():
            file = folder / f"{request}.npz"
            np.savez(file, **inputs)
            takes = [name for name in engines if request in (COMPILED.get(name) or asked)]
            first = {name: engines[name].ask(inputs=str(file), times=3) for name in takes}
            rounds: dict[str, dict[str, list[float]]] = {name: {"wall_ms": [], "device_ms": []} for name in takes}
            for _ in range(2 if few else ROUNDS):
                for name in draw.permutation(takes).tolist():
                    times = max(3, min(200, round(ROUND_MS / statistics.median(first[name]["wall_ms"]))))
                    took = engines[name].ask(inputs=str(file), times=times)
                    for clock in rounds[name]:
                        rounds[name][clock].append(round(statistics.median(took[clock]), 5))
            found[request] = rounds
            print(subject.name, request, ratios(rounds, REFERENCE, "wall_ms"), file=sys.stderr)
        quality = scored(subject, engines, folder, 32 if few else SCORED_ROWS) if subject.name == "minilm" else {}
        seconds = {name: engine.seconds for name, engine in engines.items()}
    counted = {
        request: operations(replace(subject, requests={request: [inputs]}), request)
        for request, inputs in asked.items()
    }
    weights = sum(parameter.numel() for parameter in subject.network.parameters())
    moved = {request: sum(values.nbytes for values in inputs.values()) for request, inputs in asked.items()}
    return {
        "rounds": found,
        "seconds_to_open": seconds,
        "size_bytes": {f"onnxruntime {name}": file.stat().st_size for name, file in graphs.items()},
        "operations": counted,
        "parameters": weights,
        "input_bytes": moved,
        "quality": quality,
        "placement": {name: placed(file, device, next(iter(asked.values()))) for name, file in graphs.items()},
    }


def placed(graph: Path, device: str, inputs: dict[str, Any]) -> dict[str, float]:
    """The share of time on each execution provider; empty where the session does not open."""
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    try:
        open_session(graph, provider)
        return provider_shares(profile(graph, [inputs] * 5, provider))
    except MachineError as error:
        print(f"{graph.name}: {error.found}", file=sys.stderr)
        return {}


def scored(subject: Subject, engines: dict[str, Engine], folder: Path, most: int) -> dict[str, Any]:
    """The task metric of every engine on held-out rows, with its interval, and its agreement with the reference."""
    rows = Rows.load(ROOT / "models" / "review-sentiment" / "tuned" / "test.jsonl")
    taken = rows.take(np.arange(min(most, len(rows))))
    answers = {}
    for name, engine in engines.items():
        if name in COMPILED:  # of the same weights and precision as eager, and minutes for every length
            continue
        parts = []
        for start in range(0, len(taken), SCORED_BATCH):
            np.savez(folder / "scored.npz", **subject.task.encode(taken.inputs[start : start + SCORED_BATCH]))
            engine.ask(inputs=str(folder / "scored.npz"), to=str(folder / "scored.npy"))
            parts.append(np.load(folder / "scored.npy"))
        answers[name] = subject.task.decode(np.concatenate(parts))
    return {
        name: {
            **subject.task.measure(taken.classes, found).as_json(),
            "agreement": float((found == answers[REFERENCE]).mean()),
        }
        for name, found in answers.items()
    }


def limits(device: str) -> dict[str, float]:
    """What this machine reaches: bytes a second of a large copy, counted both ways, and operations a second of a large
    matrix product of random numbers in each precision, by the best of some runs."""
    size = PRODUCT_SIZE if device == "cuda" else 512
    source = torch.empty(COPY_BYTES if device == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = {"bytes_per_s": 2 * source.numel() / fastest_s(lambda: target.copy_(source), device)}
    for name, dtype in {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.items():
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[f"{name}_per_s"] = 2 * size**3 / fastest_s(lambda a=left, b=right: a @ b, device)
    return found


def fastest_s(run: Any, device: str) -> float:
    took = []
    for _ in range(12):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            took.append(start.elapsed_time(end) / 1000)
        else:
            import time

            begun = time.perf_counter()
            run()
            took.append(time.perf_counter() - begun)
    return min(took[2:])


def precision_of(engine: str) -> str:
    """What an engine computes in; weights of few bits are computed in fp16 or fp32, and fp32 is the safe guess."""
    return next((name for name in ("fp16", "bf16") if name in engine), "fp32")


WEIGHT_BYTES = {"int4-weights": 0.5, "int8-weights": 1, "fp16": 2, "bf16": 2}


def limit_ms(engine: str, result: dict[str, Any], machine: dict[str, float], request: str) -> float:
    """The least that the request could take: operations, or bytes of weights and inputs, whichever is slower."""
    bytes_each = next((size for name, size in WEIGHT_BYTES.items() if name in engine), 4)
    moved = result["parameters"] * bytes_each + result["input_bytes"][request]
    computing = result["operations"][request] / machine[f"{precision_of(engine)}_per_s"]
    return 1000 * max(computing, moved / machine["bytes_per_s"])


def ratios(rounds: dict[str, dict[str, list[float]]], base: str, clock: str) -> dict[str, list[float]]:
    """How many times as fast as `base`: the median over rounds, and its 95 % bootstrap interval."""
    reference = np.array(rounds[base][clock])
    draw = np.random.default_rng(0).integers(0, len(reference), (2000, len(reference)))
    found = {}
    for name, took in rounds.items():
        ratio = reference / np.array(took[clock])
        low, high = np.quantile(np.median(ratio[draw], axis=1), [0.025, 0.975])
        found[name] = [round(float(value), 3) for value in (np.median(ratio), low, high)]
    return found


def tables(name: str, result: dict[str, Any], machine: dict[str, float]) -> str:
    """For each request a table of the engines; the task metric and the placement where they were measured."""
    shown = []
    for request, rounds in result["rounds"].items():
        times, rows = {clock: ratios(rounds, REFERENCE, clock) for clock in ("wall_ms", "device_ms")}, []
        for engine, took in rounds.items():
            wall, device = (statistics.median(took[clock]) for clock in ("wall_ms", "device_ms"))
            spread = [
                f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in (times[clock][engine] for clock in times)
            ]
            share = limit_ms(engine, result, machine, request) / device
            rows.append([engine, f"{wall:.3f}", spread[0], f"{device:.3f}", spread[1], f"{share:.0%}"])
        head = [f"{name}, {request}", "ms, host to host", "times torch fp32", "ms, on the GPU", "times", "of the limit"]
        shown.append(markdown(head, rows))
    if result["quality"]:
        rows = [
            [engine, f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]", f"{found['agreement']:.3f}"]
            for engine, found in result["quality"].items()
        ]
        shown.append(markdown([f"{name}, held-out rows", "metric", "labels as torch fp32"], rows))
    rows = [
        [f"onnxruntime {variant}", ", ".join(f"{provider} {share:.1%}" for provider, share in shares.items()) or "-"]
        for variant, shares in result["placement"].items()
    ]
    return "\n\n".join([*shown, markdown([f"{name}", "share of the time"], rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        fix = "run it where there is one, with PyTorch's CUDA build; `tldeploy doctor` says what is missing"
        print(MachineError("measure on a GPU", "PyTorch finds no CUDA GPU here", fix), file=sys.stderr)
        raise SystemExit(MachineError.exit_code)
    out = asked.out or ROOT / "bench" / "results" / named_after(asked.device)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    machine = limits(asked.device)
    for name in asked.subjects:
        subject = SUBJECTS[name]()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(subject, asked.device, Path(folder)) | {"machine": machine}
        report = {"environment": environment.describe(), "device": asked.device, "results": results}
        write_file(file, json.dumps(report, indent=1) + "\n")
        write_file(out / "gpu.md", "\n\n".join([about(report, machine), *shown(results)]) + "\n")


def named_after(device: str) -> str:
    """A folder's name: the GPU's, as its driver says it; of a trial a name that is no machine's."""
    if device != "cuda":
        return "trial-on-a-cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def shown(results: dict[str, Any]) -> Sequence[str]:
    return [tables(name, result, result["machine"]) for name, result in results.items()]


def about(report: dict[str, Any], machine: dict[str, float]) -> str:
    gpus = ", ".join(gpu["name"] for gpu in report["environment"]["gpus"]) or f"{report['environment']['cpu']}, no GPU"
    rates = ", ".join(f"{name} {machine[f'{name}_per_s'] / 1e12:.1f}" for name in ("fp32", "fp16", "bf16"))
    copied = machine["bytes_per_s"] / 1e12
    return (
        f"{gpus}; copying {copied:.2f} TB/s counted both ways, matrix products in TFLOP/s: {rates}. "
        f"Medians of {ROUNDS} interleaved rounds; ratios with their 95 % interval."
    )


if __name__ == "__main__":
    main()
