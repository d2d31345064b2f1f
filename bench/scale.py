"""How time and memory grow: with batch, length, classes, layers and width of a graph, and with the number of rows.

1. Graphs with MiniLM's layers and random weights are exported as the export stage does, and quantized dynamically;
   batch and length are asked of MiniLM itself, as `tldeploy export` left it.
2. In each of ROUNDS rounds every size of a sweep and both graphs are asked in an order drawn anew, on one thread.
3. The exponent is the slope over the sizes, both as logarithms, by least squares: the mean of what each round gives,
   with its interval by Student's t. Beside it stands the exponent of the counted operations over the same sizes.
4. The peak of memory of a graph comes from a process of its own for each size (peak.py).
5. Passes over rows (scale_rows.py) likewise, of tune, export and bench, at up to 64,000 and 100,000 rows.

    .venv/bin/python bench/scale.py bench/results/<machine> [--models FOLDER] [--graphs FOLDER] [SWEEP ...]

--models: where review-sentiment is that has been run. --graphs: where to keep the exported graphs, for sweeps that are
run one by one. Sweeps that are not named keep the figures that they have in scale.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scale_rows
from figures.scale import page

from tldeploy import __version__, environment
from tldeploy.artifacts import write_file
from tldeploy.exporting.source import VNNI

ROOT = Path(__file__).parent.parent
ROUNDS, FEWEST_MS = 9, 20.0
LAYERS, HIDDEN, HEAD, CLASSES, TOKENS = 6, 384, 32, 3, 128


@dataclass(frozen=True)
class Shape:
    """A graph and a request to it. own: MiniLM as it was exported, instead of random weights."""

    batch: int = 1
    tokens: int = TOKENS
    classes: int = CLASSES
    layers: int = LAYERS
    hidden: int = HIDDEN
    own: bool = False

    @property
    def operations(self) -> float:
        """Of all matrix products, a multiplication and an addition counted as two: projections, attention, head."""
        token = self.layers * (24 * self.hidden**2 + 4 * self.tokens * self.hidden)
        return self.batch * (self.tokens * token + 2 * self.hidden * self.classes)

    @property
    def name(self) -> str:
        return "own" if self.own else f"{self.layers}-{self.hidden}-{self.classes}"


@dataclass(frozen=True)
class Sweep:
    """grows: what does, in words. sizes: how each is asked for."""

    grows: str
    sizes: dict[int, Shape]


SWEEPS = {
    "batch": Sweep("batch, 32 tokens each", {size: Shape(size, 32, own=True) for size in (1, 2, 4, 8, 16, 32)}),
    "length": Sweep("tokens, batch 1", {size: Shape(tokens=size, own=True) for size in (16, 32, 64, 128, 256, 512)}),
    "classes": Sweep("classes, 1 × 128", {size: Shape(classes=size) for size in (4, 64, 1024, 16_384)}),
    "layers": Sweep("layers of 384, 1 × 128", {size: Shape(layers=size) for size in (2, 4, 8, 16)}),
    "hidden": Sweep("width of 6 layers, 1 × 128", {size: Shape(hidden=size) for size in (96, 192, 384, 768)}),
}


def graphs_of(shape: Shape, folder: Path, models: Path) -> dict[str, Path]:
    """The fp32 graph and the int8-dynamic one, made unless they are there."""
    if shape.own:
        return {name: models / "review-sentiment" / "onnx" / f"{name}.onnx" for name in ("fp32", "int8-dynamic")}
    files = {name: folder / f"{shape.name}-{name}.onnx" for name in ("fp32", "int8-dynamic")}
    if not files["int8-dynamic"].exists():
        _export(shape, files["fp32"], files["int8-dynamic"], models / "review-sentiment" / "tuned")
    return files


def _export(shape: Shape, fp32: Path, int8: Path, tuned: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from tldeploy.backbones.network import TextNetwork
    from tldeploy.exporting.graph import export_graph, metadata
    from tldeploy.exporting.quantization.dynamic import DynamicInt8
    from tldeploy.tasks import load_task

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        intermediate_size=4 * shape.hidden,
    )
    network = TextNetwork(BertModel(config, add_pooling_layer=False).eval(), "mean", shape.classes).eval()
    task = load_task("text-classification", tuned, [str(number) for number in range(shape.classes)])
    export_graph(network, task, fp32, 20, metadata(task, "", __version__))
    has_vnni = not VNNI.isdisjoint(environment.describe()["instructions"])
    DynamicInt8(fp32, reduce_range=not has_vnni).write(int8)


def session_run(graph: Path, shape: Shape) -> Callable[[], object]:
    """One request to a session with one thread, on tokens drawn at random."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    size = (shape.batch, shape.tokens)
    tokens = np.random.default_rng(0).integers(1000, 30_000, size)
    inputs = {"input_ids": tokens, "attention_mask": np.ones(size, dtype=np.int64)}
    session.run(None, inputs)  # the first run of a session allocates, and packs weights
    return lambda: session.run(None, inputs)


def in_rounds(works: dict[Any, Callable[[], object]], rounds: int = ROUNDS) -> dict[Any, list[float]]:
    """Milliseconds of each: the median, in every round, of so many runs that they take FEWEST_MS."""
    draw = np.random.default_rng(0)
    warm = {key: timed(work, 1)[0] for key, work in works.items()}
    found: dict[Any, list[float]] = {key: [] for key in works}
    for _ in range(rounds):
        for at in draw.permutation(len(works)).tolist():
            key = list(works)[at]
            found[key].append(statistics.median(timed(works[key], max(1, round(FEWEST_MS / warm[key])))))
    return found


def timed(work: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - start))
    return found


def measure_graphs(sweep: Sweep, folder: Path, models: Path) -> dict[str, Any]:
    files = {size: graphs_of(shape, folder, models) for size, shape in sweep.sizes.items()}
    kinds = list(next(iter(files.values())))
    works = {
        (kind, size): session_run(files[size][kind], shape) for kind in kinds for size, shape in sweep.sizes.items()
    }
    took = in_rounds(works)
    engines = {
        kind: {
            "rounds_ms": [took[kind, size] for size in sweep.sizes],
            "peak_mb": [_peak_mb(files[size][kind], shape) for size, shape in sweep.sizes.items()],
        }
        for kind in kinds
    }
    law = [shape.operations for shape in sweep.sizes.values()]
    return {"grows": sweep.grows, "sizes": list(sweep.sizes), "law": law, "engines": engines}


def _peak_mb(graph: Path, shape: Shape) -> float:
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), str(graph), str(shape.batch)]
    return float(subprocess.run([*command, str(shape.tokens)], check=True, capture_output=True, text=True).stdout)


def measure_rows(name: str, folder: Path, models: Path) -> dict[str, Any]:
    """One pass after the other, each with all its sizes in turns."""
    engines = {}
    for pass_name, sizes, prepare in scale_rows.PASSES[name]:
        works = {size: prepare(size, models / "review-sentiment", folder) for size in sizes}
        took = in_rounds(works, scale_rows.ROUNDS)
        engines[pass_name] = {"sizes": sizes, "rounds_ms": [took[size] for size in sizes]}
        print(pass_name, [round(statistics.median(found), 1) for found in took.values()], file=sys.stderr)
    return {"grows": "rows", "engines": engines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("sweeps", nargs="*", default=[*SWEEPS, *scale_rows.PASSES])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--graphs", type=Path)
    asked = parser.parse_intermixed_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "scale.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.graphs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.sweeps:
            start = time.perf_counter()
            results[name] = (
                measure_graphs(SWEEPS[name], folder, asked.models)
                if name in SWEEPS
                else measure_rows(name, folder, asked.models)
            )
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            ordered = {key: results[key] for key in (*SWEEPS, *scale_rows.PASSES) if key in results}
            report = {"threads": 1, "environment": environment.describe(), "results": ordered}
            write_file(file, json.dumps(report, indent=1) + "\n")
            write_file(asked.out / "scale.md", page(report))


if __name__ == "__main__":
    main()
