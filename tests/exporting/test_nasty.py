"""Networks that hurt: each is refused by name, mended, or measured and thrown away; none slips through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from transformers import AlbertConfig, AlbertModel

from tests.exporting.tiny_source import LABELS, answers, with_a_loud_norm
from tldeploy.backbones.network import Network, TextNetwork
from tldeploy.data.rows import Rows
from tldeploy.errors import ArtifactError, QualityError
from tldeploy.exporting import storage
from tldeploy.exporting.export import _calibration
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.parity import measure_parity
from tldeploy.exporting.scorecard import Entry, Speed
from tldeploy.exporting.selection import choose, judge
from tldeploy.exporting.soundness import check_operators, check_weights
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import VARIANTS
from tldeploy.measuring.statistics import Estimate
from tldeploy.recipe import Export
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.metrics import Metric


@pytest.fixture(scope="module")
def text(text: Source) -> Source:
    return replace(text, settings=Export(search_minutes=0))


class Torch:
    """A network that is asked as graphs are."""

    def __init__(self, source: Source) -> None:
        self.network = source.network

    def run(self, tensors: dict[str, Any]) -> Any:
        with torch.no_grad():
            return self.network.probabilities(**{k: torch.from_numpy(v) for k, v in tensors.items()}).numpy()


def scored(source: Source, variant: str, graph: Path, faster: Estimate) -> Entry:
    """The scorecard's entry of a graph, with real answers and a given speed."""
    task, rows = source.task, source.validation
    before, after = answers(source.graph, task, rows), answers(graph, task, rows)
    runner = OnnxRunner(graph, task)
    parity = measure_parity(Torch(source), runner, task.parity_batches(rows.inputs))
    return Entry(
        name=variant,
        file=graph.name,
        size_bytes=sum(part.stat().st_size for part in storage.parts(graph)),
        parity=parity,
        metric=Metric("weighted_f1", 0.9, 0.8, 1.0, len(rows)),
        drop=task.drop(rows.classes, task.decode(before), task.decode(after)),
        not_finite=int((~np.isfinite(after)).any(axis=1).sum()),
        speed=Speed(1.0, faster, 100.0, faster, 5.0, 10.0),
        providers={},
        golden=[],
    )


SAME, TWICE, SLOWER = Estimate(1, 1, 1), Estimate(2.0, 1.9, 2.1), Estimate(0.7, 0.6, 0.8)


def test_outliers_are_never_served_in_int8_that_loses_more_than_the_budget(text: Source, tmp_path: Path) -> None:
    loud = with_a_loud_norm(text, tmp_path / "loud.onnx", factor=3000)
    VARIANTS["int8-dynamic"].make(loud, tmp_path / "int8.onnx")
    fp32 = scored(loud, "fp32", loud.graph, SAME)
    int8 = scored(loud, "int8-dynamic", tmp_path / "int8.onnx", TWICE)
    assert int8.drop.points > 0.5  # nasty indeed
    entries = judge([fp32, int8], Export())
    assert choose(entries, Export()).value == "fp32"
    assert "points lost" in entries[1].reason


def test_int8_that_is_slower_is_thrown_away(text: Source, tmp_path: Path) -> None:
    VARIANTS["int8-dynamic"].make(text, tmp_path / "int8.onnx")
    entries = [scored(text, "fp32", text.graph, SAME), scored(text, "int8-dynamic", tmp_path / "int8.onnx", SLOWER)]
    judged = judge(entries, Export(max_drop=100))
    assert (judged[1].kept, choose(judged, Export()).value) == (False, "fp32")
    assert "not surely faster: 0.70 [0.60, 0.80]" in judged[1].reason


def test_weights_that_are_no_numbers_are_named(text: Source, tmp_path: Path) -> None:
    weight = text.network.get_parameter("backbone.encoder.layer.1.output.dense.weight")
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, :2] = torch.tensor([float("nan"), float("inf")])
    try:
        with pytest.raises(QualityError) as caught:
            export_graph(text.network, text.task, tmp_path / "graph.onnx", 20, {})
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    name = "backbone.encoder.layer.1.output.dense.weight"
    assert caught.value.found == f"not finite are 2 of 2048 numbers of {name}"
    assert not (tmp_path / "graph.onnx").exists()


def test_a_mask_of_infinities_is_no_damage() -> None:
    module = torch.nn.Module()
    module.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    check_weights(module)
    module.register_buffer("statistics", torch.tensor([float("nan")]))
    with pytest.raises(QualityError, match="1 of 1 numbers of statistics"):
        check_weights(module)


@pytest.mark.parametrize(
    ("operator", "domain", "said"),
    [
        ("Whirl", "com.acme", "the operator Whirl of com.acme, opset 1, which spin uses"),
        ("Swish", "", "the operator Swish of ai.onnx, opset 20, which spin uses"),
    ],
)
def test_an_operator_that_onnxruntime_lacks_is_named(
    text: Source, tmp_path: Path, operator: str, domain: str, said: str
) -> None:
    model = onnx.load(text.graph)
    last = model.graph.node[-1]
    last.output[0] = "inner"
    model.graph.node.append(helper.make_node(operator, ["inner"], ["probabilities"], "spin", domain=domain))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(QualityError) as caught:
        check_operators(tmp_path / "graph.onnx")
    assert said in caught.value.found
    assert "opset" in caught.value.fix


def test_what_is_no_graph_at_all_is_no_missing_operator(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError):
        check_operators(tmp_path / "graph.onnx")


def test_a_network_that_bakes_its_batch_in_is_refused(
    text: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Network, **inputs: Tensor) -> Tensor:
        return self.head(self.features(**inputs).reshape(3, -1))

    monkeypatch.setattr(Network, "forward", forward)
    with pytest.raises(QualityError) as caught:
        export_graph(text.network, text.task, tmp_path / "graph.onnx", 20, {})
    assert "batch" in caught.value.found
    assert not (tmp_path / "graph.onnx").exists()


def test_a_batch_that_hides_behind_a_dynamic_name_is_found_by_running(text: Source, tmp_path: Path) -> None:
    model = onnx.load(text.graph)
    pooled = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 32]), "three"))
    place = list(model.graph.node).index(pooled)
    model.graph.node.insert(place, helper.make_node("Reshape", [pooled.input[0], "three"], ["fixed"], "fix"))
    pooled.input[0] = "fixed"
    onnx.save(model, tmp_path / "baked.onnx")
    runner, batches = OnnxRunner(tmp_path / "baked.onnx", text.task), text.task.parity_batches(text.validation.inputs)
    with pytest.raises(QualityError, match=r"run the graph on inputs of shape \(1, 7\).*(?s:.)*Reshape"):
        measure_parity(Torch(text), runner, batches)


def test_a_graph_that_answers_with_other_rows_is_found(text: Source) -> None:
    class First(Torch):
        def run(self, tensors: dict[str, Any]) -> Any:
            return super().run(tensors)[:1]

    batches = text.task.parity_batches(text.validation.inputs)
    with pytest.raises(QualityError, match=r"answers with shape \(1, 3\), PyTorch with \(3, 3\)"):
        measure_parity(Torch(text), First(text), batches)


def tied(text: Source) -> TextNetwork:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "embedding_size": 16}
    torch.manual_seed(0)
    config = AlbertConfig(vocab_size=64, num_hidden_layers=6, max_position_embeddings=64, **sizes)
    return TextNetwork(AlbertModel(config, add_pooling_layer=False), "mean", len(LABELS)).eval()


def test_weights_that_layers_share_are_stored_once(text: Source, tmp_path: Path) -> None:
    network = tied(text)
    graph = tmp_path / "fp32.onnx"
    export_graph(network, text.task, graph, 20, {})
    stored = sum(len(tensor.raw_data) for tensor in onnx.load(graph).graph.initializer)
    parameters = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert stored < 1.05 * parameters
    source = replace(text, graph=graph, network=network, settings=Export(target="cuda"))
    for variant in ("fp16", "int8-weights"):
        VARIANTS[variant].make(source, tmp_path / f"{variant}.onnx")
        smaller = sum(len(tensor.raw_data) for tensor in onnx.load(tmp_path / f"{variant}.onnx").graph.initializer)
        assert smaller < 0.55 * parameters
        found = answers(tmp_path / f"{variant}.onnx", text.task, text.validation.take(np.arange(8)))
        expected = answers(graph, text.task, text.validation.take(np.arange(8)))
        np.testing.assert_allclose(found, expected, atol=2e-2)


def test_logits_without_spread_have_no_relative_difference(text: Source, tmp_path: Path) -> None:
    model = onnx.load(text.graph)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("network.head"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    onnx.save(model, tmp_path / "constant.onnx")
    runner = OnnxRunner(tmp_path / "constant.onnx", text.task)
    parity = measure_parity(runner, runner, text.task.parity_batches(text.validation.inputs))
    assert (parity.max_abs_diff, parity.relative_to_spread) == (0.0, None)
    for variant in ("int8-weights", "int4-weights"):
        source = replace(text, graph=tmp_path / "constant.onnx")
        VARIANTS[variant].make(source, tmp_path / f"{variant}.onnx")
        found = answers(tmp_path / f"{variant}.onnx", text.task, text.validation.take(np.arange(8)))
        np.testing.assert_allclose(found, 1 / 3, atol=1e-6)


def test_parity_is_relative_to_the_spread_of_the_logits(text: Source) -> None:
    class Warmer(Torch):
        """Logits over a scale, and a little larger: the relative difference is about as much, whatever the scale."""

        def __init__(self, source: Source, scale: float, by: float = 1.0) -> None:
            super().__init__(source)
            self.scale, self.by = scale, by

        def run(self, tensors: dict[str, Any]) -> Any:
            with torch.no_grad():
                logits = self.network(**{k: torch.from_numpy(v) for k, v in tensors.items()}).double()
                return torch.softmax(logits / self.scale * self.by, dim=-1).float().numpy()

    batches = text.task.parity_batches(text.validation.inputs)
    found = [measure_parity(Warmer(text, s), Warmer(text, s, 1.001), batches) for s in (1.0, 4.0)]
    relative = [parity.as_json()["relative_to_spread"] for parity in found]
    assert all(5e-4 < value < 5e-3 for value in relative)


def test_an_artifact_without_calibration_rows_asks_to_be_tuned_again(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run `tldeploy tune` again"):
        _calibration(tmp_path)
    Rows(["good"], np.array([0]), "text").save(tmp_path / "calibration.jsonl")
    assert _calibration(tmp_path).inputs == ["good"]
