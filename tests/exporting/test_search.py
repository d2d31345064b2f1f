from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.exporting.tiny_source import constant, set_constant, text_source, with_a_bad_product
from tldeploy.exporting.quantization.calibration import covering_batches
from tldeploy.exporting.quantization.dynamic import DynamicInt8
from tldeploy.exporting.quantization.exclusion import MOST_ALONE, Quantizer
from tldeploy.exporting.quantization.judge import Judge, divergence
from tldeploy.exporting.quantization.search import quantize_within_budget
from tldeploy.exporting.quantization.static import Scheme, StaticInt8
from tldeploy.exporting.source import Source
from tldeploy.recipe import Export


@pytest.fixture(scope="module")
def text(text: Source) -> Source:
    return replace(text, settings=Export(max_drop=8))


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return text_source(tmp_path_factory.mktemp("one"), Export(max_drop=8), layers=1)


class Breaking:
    """Writes fp32, or a graph that takes each class for the next one while a bad node is among the integers."""

    def __init__(self, graph: Path, nodes: list[str], bad: Collection[str]) -> None:
        self.graph, self.nodes, self.bad = graph, nodes, set(bad)

    def write(self, target: Path, in_float: Collection[str] = ()) -> None:
        shutil.copyfile(self.graph, target)
        if self.bad & set(self.nodes) - set(in_float):
            model = onnx.load(target)
            head = "network.head.weight"
            set_constant(model, head, np.roll(constant(model, head), 1, axis=0))
            onnx.save(model, target)


def breaking(nodes: list[str], bad: Collection[str]) -> Callable[[Path], Quantizer]:
    return lambda graph: Breaking(graph, nodes, bad)


def steps(found: dict[str, Any]) -> list[int]:
    """How many nodes each step left in floats, without the one in which outliers were smoothed."""
    return [len(step["in_float"]) for step in found["steps"] if not (step["smoothed"] and not step["in_float"])]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_exactly_the_product_that_was_made_bad_is_left_in_floats(one_layer: Source, tmp_path: Path, kind: str) -> None:
    source, bad = with_a_bad_product(one_layer, tmp_path / "bad.onnx")
    batches = covering_batches(source.task, source.calibration, 96)

    def make(graph: Path) -> Quantizer:
        return (
            DynamicInt8(graph, reduce_range=True)
            if kind == "dynamic"
            else StaticInt8(graph, batches, Scheme(reduce_range=True))
        )

    target = tmp_path / "int8.onnx"
    make(source.graph).write(target)
    assert Judge(source).drop(target).points > 8
    found = quantize_within_budget(make, source, target)
    assert found["in_float"] == [bad]
    assert found["ranking"][0]["place"] == bad
    assert "within the budget of 8 points with 1 nodes in floats" in found["reason"]
    assert Judge(source).drop(target).points <= 8
    kept = next(node for node in onnx.load(target).graph.node if node.name == bad)
    assert kept.op_type == "MatMul"
    assert kept.input[1] in {tensor.name for tensor in onnx.load(target).graph.initializer}


def test_the_fewest_nodes_are_found_by_doubling_and_halving(
    text: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [f"node {number}" for number in range(16)]
    bad = [nodes[2], nodes[7], nodes[11]]
    found = quantize_within_budget(breaking(nodes, bad), text, tmp_path / "int8.onnx")
    assert steps(found) == [0, 1, 2, 4, 3]
    assert found["in_float"] == bad
    assert [entry["place"] for entry in found["ranking"][:3]] == bad
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("export: int8: ")]
    assert len(told) == len(found["steps"])
    assert told[-1].startswith("export: int8: +0.00 points lost with 3 nodes in floats")


def test_where_there_are_many_nodes_only_those_of_the_worst_groups_are_told_apart(text: Source, tmp_path: Path) -> None:
    layers = [f"backbone.encoder.layer.{layer}.output.dense/MatMul_{at}" for layer in range(2) for at in range(12)]
    around = [f"network/MatMul_{at}" for at in range(6)]
    head = ["head/Gemm_1"]
    embeddings = ["backbone.embeddings.word_embeddings/Gather_1", "backbone.embeddings.word_embeddings/Gather_2"]
    nodes = [*layers, *around, *head, *embeddings]
    assert len(nodes) > MOST_ALONE
    bad = layers[17]
    found = quantize_within_budget(breaking(nodes, [bad]), text, tmp_path / "int8.onnx")
    assert found["in_float"] == [bad]
    assert {entry["place"] for entry in found["ranking"]} & {"layer 0", "embeddings", "around", "head"}
    assert sum(entry["nodes"] for entry in found["ranking"]) == len(nodes)


def test_what_cannot_be_mended_ends_with_the_best_and_the_reason(text: Source, tmp_path: Path) -> None:
    nodes = [f"node {number}" for number in range(10)]
    found = quantize_within_budget(breaking(nodes, nodes), text, tmp_path / "int8.onnx")
    assert steps(found) == [0, 1, 2, 4, 8]
    assert "over the budget of 8 points, the best found" in found["reason"]
    assert "every step was tried" in found["reason"]
    assert (tmp_path / "int8.onnx").exists()
    assert not any(step["within_budget"] for step in found["steps"])


def test_without_time_nothing_is_searched(text: Source, tmp_path: Path) -> None:
    source = replace(text, settings=Export(max_drop=8, search_minutes=0))
    found = quantize_within_budget(breaking(["a", "b"], ["a"]), source, tmp_path / "int8.onnx")
    assert steps(found) == [0]
    assert "no time to search" in found["reason"]


def test_the_minutes_are_for_mending_and_not_for_the_first_quantization(text: Source, tmp_path: Path) -> None:
    def make(graph: Path) -> Quantizer:
        time.sleep(0.3)
        return Breaking(graph, ["a", "b"], ["a"])

    source = replace(text, settings=Export(max_drop=8, search_minutes=0.2 / 60))
    found = quantize_within_budget(make, source, tmp_path / "int8.onnx")
    assert len(found["steps"]) > 1
    assert "no time to search" not in found["reason"]


def test_the_same_search_takes_the_same_steps(one_layer: Source, tmp_path: Path) -> None:
    source, _ = with_a_bad_product(one_layer, tmp_path / "bad.onnx")
    runs = [quantize_within_budget(DynamicInt8, source, tmp_path / f"{number}.onnx") for number in range(2)]
    for found in runs:
        for step in found["steps"]:
            del step["seconds"]
    assert runs[0] == runs[1]
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_the_upper_end_of_the_interval_is_a_stricter_judge(text: Source, tmp_path: Path) -> None:
    def first_step(**settings: Any) -> Any:
        source = replace(text, settings=Export(search_minutes=0, **settings))
        return quantize_within_budget(breaking(["a", "b"], ["a"]), source, tmp_path / "int8.onnx")["steps"][0]

    drop = first_step()["drop"]
    between = (drop["points"] + drop["high"]) / 2
    assert drop["points"] < between < drop["high"]
    assert first_step(max_drop=between, judge_by="estimate")["within_budget"]
    assert not first_step(max_drop=between, judge_by="interval")["within_budget"]


def test_divergence_is_nothing_between_equals_and_endless_for_nan() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]], dtype=np.float32)
    q = np.array([[0.6, 0.3, 0.1], [0.0, 0.5, 0.5]], dtype=np.float32)
    assert divergence(p, p) == 0
    assert divergence(p, q) == pytest.approx((0.7 * np.log(0.7 / 0.6) + 0.2 * np.log(0.2 / 0.3)) / 2, rel=1e-5)
    assert divergence(p, q * np.float32(np.nan)) == float("inf")
