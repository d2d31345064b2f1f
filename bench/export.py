"""How fast the graphs of `tldeploy export` are: against PyTorch eager, and OpenVINO with nncf's int8 beside them.

1. A network, its fp32 graph and the int8 variants are made as the export stage makes them; OpenVINO's int8 by nncf's
   post-training quantization of the same graph, calibrated on the same rows.
2. Every engine runs in a process of its own (engine.py); in each of ROUNDS rounds each is asked in an order drawn anew.
3. The ratio is of medians within a round; what is reported is the geometric mean over rounds, with its interval by
   Student's t.
4. The limit: operations of the network over the rate of a large matrix product on this machine, in fp32 and in int8.

    .venv/bin/python bench/export.py bench/results/<machine> [--peers PYTHON] [minilm bert-base resnet50 vgg16]

--peers: the Python of an environment with openvino and nncf (`pip install openvino nncf`); without it OpenVINO is left
out. minilm needs the tuned network of models/review-sentiment; the others have random weights, which serve for speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures.export import page, ratios
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from tldeploy import __version__, environment
from tldeploy.artifacts import write_file
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork, load_network
from tldeploy.data.rows import Rows
from tldeploy.errors import TldeployError
from tldeploy.exporting.graph import export_graph, metadata
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import VARIANTS, wanted
from tldeploy.recipe import Export
from tldeploy.recipe.serving import Target
from tldeploy.runtime.nncf_int8 import Kind, quantize
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification, Tensors
from tldeploy.tasks.image_classification import ImageClassification
from tldeploy.tasks.pixels import ImageEncoder

ROOT = Path(__file__).parent.parent
TUNED = ROOT / "models" / "review-sentiment" / "tuned"
ROUNDS, ROUND_MS = 11, 200.0
TEXT_SHAPES = {"minilm": [(1, 32), (1, 128), (8, 128)], "bert-base": [(1, 128), (1, 384)]}
IMAGE_BATCHES = (1, 8)
PEAK_SIZE = 1024
SENTENCES = 64
CALIBRATION_ROWS, CALIBRATION_IMAGES = 128, 32
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Subject:
    """A network as it would be exported, and what it is asked: each request is a name and batches, run one by one."""

    name: str
    network: Network
    task: Classification
    calibration: Rows
    requests: dict[str, list[Tensors]]


def minilm() -> Subject:
    subject = _text("minilm", load_network(TUNED))
    sentences = Rows.load(TUNED / "test.jsonl").inputs[:SENTENCES]
    subject.requests[f"{SENTENCES} sentences"] = [subject.task.encode([text]) for text in sentences]
    return subject


def bert_base() -> Subject:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    backbone = BertModel(BertConfig(), add_pooling_layer=False).eval()
    return _text("bert-base", TextNetwork(backbone, "mean", 3).eval())


def _text(name: str, network: Network) -> Subject:
    manifest = json.loads((TUNED / "tldeploy.json").read_text(encoding="utf-8"))
    task = load_task("text-classification", TUNED, manifest["labels"])
    rows = Rows.load(TUNED / "calibration.jsonl")
    ids = [token for row in task.encode(rows.inputs)["input_ids"].tolist() for token in row if token]
    draw = np.random.default_rng(0)
    requests: dict[str, list[Tensors]] = {}
    for batch, length in TEXT_SHAPES[name]:
        shape = (batch, length)
        mask = np.ones(shape, dtype=np.int64)
        requests[f"{batch} x {length}"] = [{"input_ids": draw.choice(ids, shape), "attention_mask": mask}]
    return Subject(name, network, task, rows, requests)


def resnet50() -> Subject:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    return _image("resnet50", ResNetModel(ResNetConfig()))


def vgg16() -> Subject:
    from tldeploy.backbones.vgg import VGGConfig, VGGModel

    torch.manual_seed(0)
    return _image("vgg16", VGGModel(VGGConfig.named("vgg16")))


def _image(name: str, backbone: Any) -> Subject:
    normalisation = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "rescale_factor": 1 / 255, "channels": "rgb"}
    task = ImageClassification(["a", "b", "c"], ImageEncoder(image_size=224))
    draw = np.random.default_rng(0)
    folder = Path(tempfile.mkdtemp())
    files = [folder / f"{number}.png" for number in range(CALIBRATION_IMAGES)]
    for file in files:  # smooth, as photographs are
        Image.fromarray(draw.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((224, 224)).save(file)
    rows = Rows([str(file) for file in files], np.zeros(len(files), dtype=np.int64), "image")
    pixels = task.encode([str(file) for file in files])["pixels"]
    requests = {f"{batch} x 224": [{"pixels": pixels[:batch]}] for batch in IMAGE_BATCHES}
    return Subject(name, ImageNetwork(backbone.eval(), normalisation, 3).eval(), task, rows, requests)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "minilm": minilm,
    "bert-base": bert_base,
    "resnet50": resnet50,
    "vgg16": vgg16,
}


def make_graphs(subject: Subject, folder: Path, target: Target = "cpu") -> dict[str, Path]:
    """fp32 and every variant that suits, as the export stage makes them; without a search, for speed is asked."""
    graph = folder / "fp32.onnx"
    export_graph(subject.network, subject.task, graph, 20, metadata(subject.task, "", __version__))
    settings = Export(target=target, search_minutes=0)
    source = Source(graph, subject.network, subject.task, subject.calibration, subject.calibration, settings)
    files = {"fp32": graph}
    for name in wanted(source)[0]:
        try:
            VARIANTS[name].make(source, folder / f"{name}.onnx")
            files[name] = folder / f"{name}.onnx"
        except TldeployError as error:
            print(f"{subject.name} {name}: {error.found}", file=sys.stderr)
    return files


class Engine:
    """A process that runs engine.py. seconds, memory_mb: what opening took."""

    def __init__(self, python: str, kind: str, file: Path, threads: int) -> None:
        command = [python, str(Path(__file__).with_name("engine.py")), kind, str(file), str(threads)]
        environment_of_it = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment_of_it
        )
        self.opened: dict[str, float] = self._answer()

    def run(self, inputs: Sequence[Path], times: int) -> list[float]:
        """Milliseconds of each of `times` runs."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"inputs": [str(file) for file in inputs], "times": times}) + "\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(subject: Subject, threads: int, peers: str | None, folder: Path) -> dict[str, Any]:
    """Medians in ms of every round, by request and engine; size and opening of every engine."""
    graphs = make_graphs(subject, folder)
    subject.network.save(folder / "torch")
    wanted_engines = {"torch eager": (sys.executable, "torch", folder / "torch")}
    wanted_engines |= {f"onnxruntime {name}": (sys.executable, "onnxruntime", file) for name, file in graphs.items()}
    if peers:
        quantized = openvino_int8(subject, graphs["fp32"], peers, folder)
        wanted_engines |= {
            "openvino fp32": (peers, "openvino", graphs["fp32"]),
            "openvino int8": (peers, "openvino", quantized),
        }
    draw = np.random.default_rng(0)
    with ExitStack() as stack:
        engines = {}
        for name, (python, kind, file) in wanted_engines.items():
            engines[name] = Engine(python, kind, file, threads)
            stack.callback(engines[name].close)
        rounds_ms: dict[str, dict[str, list[float]]] = {}
        for request, batches in subject.requests.items():
            files = [folder / f"{request}-{number}.npz" for number in range(len(batches))]
            for file, inputs in zip(files, batches, strict=True):
                np.savez(file, **inputs)
            warm = {name: engine.run(files, 3)[-1] for name, engine in engines.items()}
            found: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(ROUNDS):
                for name in draw.permutation(list(engines)).tolist():
                    times = max(1, round(ROUND_MS / warm[name]))
                    found[name].append(statistics.median(engines[name].run(files, times)))
            rounds_ms[request] = found
            print(subject.name, threads, request, ratios(found), file=sys.stderr)
        opened = {name: engine.opened for name, engine in engines.items()}
    sizes = {f"onnxruntime {name}": file.stat().st_size for name, file in graphs.items()}
    return {"rounds_ms": rounds_ms, "opened": opened, "size_bytes": sizes}


def openvino_int8(subject: Subject, graph: Path, peers: str, folder: Path) -> Path:
    """nncf's post-training quantization in the peers' environment, on the rows that ours is calibrated on."""
    rows = (subject.task.encode([row]) for row in subject.calibration.inputs[:CALIBRATION_ROWS])
    kind: Kind = "cnn" if isinstance(subject.network, ImageNetwork) else "transformer"
    target = folder / "openvino-int8.xml"
    quantize(graph, rows, kind, target, python=peers)
    return target


def operations(subject: Subject, request: str) -> int:
    """Floating-point operations of the network, a multiplication and an addition counted as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for batch in subject.requests[request]:
            subject.network.probabilities(**{name: torch.from_numpy(values) for name, values in batch.items()})
    return int(counter.get_total_flops())


def peak_gflops(threads: int) -> dict[str, float]:
    """The best of some large matrix products of onnxruntime, in 1e9 operations a second: fp32, and uint8 by int8."""
    draw = np.random.default_rng(0)
    shape = (PEAK_SIZE, PEAK_SIZE)
    float32 = draw.standard_normal((2, *shape)).astype(np.float32)
    integers = [draw.integers(0, 256, shape, dtype=np.uint8), draw.integers(-64, 64, shape, dtype=np.int8)]
    return {
        "fp32": _peak("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, float32[0], float32[1], threads),
        "int8": _peak("MatMulInteger", TensorProto.UINT8, TensorProto.INT32, integers[0], integers[1], threads),
    }


def _peak(operator: str, of: int, to: int, left: Any, right: Any, threads: int) -> float:
    import onnxruntime

    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", of, left.shape)],
        [helper.make_tensor_value_info("product", to, left.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {"left": left})
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--peers")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "export.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    for name in asked.subjects:
        subject = SUBJECTS[name]()
        for threads in asked.threads:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(subject, threads, asked.peers, Path(folder))
            torch.set_num_threads(threads)
            counted = {request: operations(subject, request) for request in subject.requests}
            results[f"{name}, threads: {threads}"] = found | {
                "operations": counted,
                "peak_gflops": peak_gflops(threads),
            }
            report = {"environment": environment.describe(), "results": results}
            write_file(file, json.dumps(report, indent=1) + "\n")
            write_file(asked.out / "export.md", page(report))


if __name__ == "__main__":
    main()
