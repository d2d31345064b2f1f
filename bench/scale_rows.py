"""Passes of tune, export and bench over so many rows, for bench/scale.py.

Each pass is prepared for a number of rows and timed alone. Rows are made of the words, and of the lengths, of
review-sentiment's own sentences, so that they are as long and hardly any two are alike.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.data.rows import Rows

ROUNDS = 5
SIZES = (1_000, 4_000, 16_000, 64_000)
FEWER = (500, 2_000, 8_000, 32_000)
REPORTED = (1_000, 3_162, 10_000, 31_623, 100_000)
LABELS = ("negative", "neutral", "positive")
ENGINES = ("torch eager", "onnxruntime fp32", "onnxruntime fused", "onnxruntime int8-dynamic", "a", "triton http")
Prepare = Callable[[int, Path, Path], Callable[[], object]]


class Instant:
    """A Runner that looks its answers up. answers: the class of each row."""

    provider = "numpy"

    def __init__(self, name: str, answers: dict[str, int]) -> None:
        self.name, self.answers = name, answers
        self.probabilities = np.full((3, 1, 3), 0.1, dtype=np.float32)
        self.probabilities[np.arange(3), 0, np.arange(3)] = 0.8

    def predict(self, rows: Any) -> Any:
        return self.probabilities[self.answers[rows[0]]]

    def close(self) -> None: ...


def read_and_split(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """tune: the file, the splits, and what is wrong with them."""
    from tldeploy.data.health import findings
    from tldeploy.data.rows import split_rows
    from tldeploy.recipe import Data

    texts, classes = made_up(count, model)
    file = folder / f"{count}.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        table.writerows(zip(texts, [LABELS[number] for number in classes.tolist()], strict=True))
    data = Data(file=file.name, text="text", label="label")
    return lambda: findings(split_rows(data, folder))


def tokenize(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """tune, export, bench: token ids of all rows."""
    texts, _ = made_up(count, model)
    task = _task(model)
    return lambda: task.examples(texts).lengths


def epoch(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """tune: batches of an epoch, and every row through a small network, as a training without gradients."""
    import torch
    from transformers import BertConfig, BertModel

    from tldeploy.backbones.network import TextNetwork
    from tldeploy.tuning.features import extract_features

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    network = TextNetwork(BertModel(config, add_pooling_layer=False).eval(), "mean", len(LABELS))
    examples = _task(model).examples(made_up(count, model)[0])
    return lambda: extract_features(network, examples, "features")


def cover(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """export: the rows that stand for all in the calibration."""
    from tldeploy.data.coverage import covering

    lengths = np.random.default_rng(0).integers(3, 60, count).tolist()
    classes = np.random.default_rng(1).integers(0, len(LABELS), count)
    return lambda: covering(classes, lengths, 256)


def score(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """export: a variant's metric and its loss against fp32, with their intervals."""
    from tldeploy.tasks.metrics import weighted_f1, weighted_f1_drop

    truth, first, second = _answers(count)
    return lambda: (weighted_f1(truth, first, 3), weighted_f1_drop(truth, first, second, 3))


def send(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """bench: every row alone through an engine that answers at once."""
    from tldeploy.measuring.scenarios import single_stream

    texts, _ = made_up(count, model)
    return lambda: single_stream([Instant("instant", dict.fromkeys(texts, 0))], texts, 3, "rows")


def report(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """bench: all statistics of six engines, from the samples to the report."""
    from tldeploy import artifacts
    from tldeploy.benchmarking.report import build_report

    run, rows = _measured(count, model), Rows(*made_up(count, model))
    stages = [artifacts.load(model / "tuned", "tune"), artifacts.load(model / "onnx", "export")]
    task = _task(model)
    return lambda: build_report("scale", task, rows, run, stages=stages, own=[], environment={}, parents={})


def page(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """bench: report.html."""
    from tldeploy import artifacts, environment
    from tldeploy.benchmarking.page.rendering import render_page
    from tldeploy.benchmarking.report import build_report

    run, rows = _measured(count, model), Rows(*made_up(count, model))
    stages = [artifacts.load(model / "tuned", "tune"), artifacts.load(model / "onnx", "export")]
    machine = environment.describe()
    made = build_report("scale", _task(model), rows, run, stages=stages, own=[], environment=machine, parents={})
    return lambda: render_page(made, run.single)


def save(count: int, model: Path, folder: Path) -> Callable[[], object]:
    """bench: samples.npz."""
    from tldeploy.benchmarking.measured import save_samples

    run = _measured(count, model)
    return lambda: save_samples(folder / "samples.npz", run)


PASSES: dict[str, list[tuple[str, tuple[int, ...], Prepare]]] = {
    "rows": [
        ("tune: read, split, look for faults", SIZES, read_and_split),
        ("tune: tokenize", SIZES, tokenize),
        ("tune: all rows through a tiny network", FEWER, epoch),
        ("export: choose 256 rows to calibrate on", SIZES, cover),
        ("export: metric and loss, with intervals", SIZES, score),
        ("bench: send every row alone, in no time", SIZES, send),
    ],
    "report": [
        ("bench: statistics of six engines", REPORTED, report),
        ("bench: report.html", REPORTED, page),
        ("bench: samples.npz", REPORTED, save),
    ],
}


@functools.cache
def made_up(count: int, model: Path) -> tuple[list[str], Any]:
    """Texts and their classes, int64 [rows]."""
    draw = np.random.default_rng(count)
    sentences = [text.split() for text in Rows.load(model / "tuned" / "test.jsonl").inputs]
    words = np.array([word for sentence in sentences for word in sentence])
    lengths = draw.choice([len(sentence) for sentence in sentences], count)
    drawn = np.split(draw.choice(words, int(lengths.sum())), np.cumsum(lengths)[:-1])
    return [" ".join(part.tolist()) for part in drawn], draw.integers(0, len(LABELS), count)


@functools.cache
def _task(model: Path) -> Any:
    from tldeploy.tasks import load_task

    return load_task("text-classification", model / "onnx", LABELS)


def _answers(count: int) -> list[Any]:
    """The truth and two engines' answers, four in five of them right; int64 [rows] each."""
    draw = np.random.default_rng(count)
    truth = draw.integers(0, 3, count)
    return [truth, *(np.where(draw.random(count) < 0.2, (truth + 1) % 3, truth) for _ in range(2))]


@functools.cache
def _measured(count: int, model: Path) -> Any:
    """All scenarios but the open loop over six engines that answer at once."""
    from tldeploy.benchmarking.measured import run_scenarios
    from tldeploy.recipe import Bench

    texts, classes = made_up(count, model)
    runners = [Instant(name, dict(zip(texts, _answers(count)[1].tolist(), strict=True))) for name in ENGINES]
    settings = Bench(concurrency=[1], seconds=0.001)  # the closed loop's samples do not grow with rows
    return run_scenarios(settings, _task(model), Rows(texts, classes), runners, len(runners) - 1)
