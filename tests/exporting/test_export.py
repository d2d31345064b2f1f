from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.exporting.tiny_source import SILENT, text_source, with_a_silent_channel
from tests.tiny_project import write_project
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest
from tldeploy.backbones.network import Network, load_network
from tldeploy.data.rows import Rows
from tldeploy.errors import QualityError
from tldeploy.exporting.fusion import fuse
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.parity import TOLERANCE
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.tasks import load_task
from tldeploy.tasks.text_classification import TextClassification


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("job") / "tiny")
    pipeline.tune(folder)
    pipeline.export(folder, variants=["fp32", "fused", "int8-dynamic", "int8-static"], keep_all=True)
    return folder


@pytest.fixture(scope="module")
def manifest(project: Path) -> Manifest:
    return artifacts.load(project / "onnx", "export")


@pytest.fixture(scope="module")
def task(project: Path, manifest: Manifest) -> TextClassification:
    return load_task(manifest.task, project / "onnx", manifest.labels)


def test_the_graph_has_named_dynamic_axes_and_says_what_it_is(project: Path, manifest: Manifest) -> None:
    model = onnx.load(project / "onnx" / "fp32.onnx")
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "probabilities": ["batch", 3],
    }
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["tuned_sha256"] == manifest.parents["tune"]
    assert json.loads(properties["labels"]) == ["negative", "neutral", "positive"]


def test_the_lengths_that_rows_are_padded_to_are_counted(
    project: Path, manifest: Manifest, task: TextClassification
) -> None:
    rows = Rows.load(project / "tuned" / "calibration.jsonl")
    counted: dict[str, int] = manifest.details["padded_lengths"]
    assert sum(counted.values()) == len(rows.inputs)
    for length in {task.encode([row])["input_ids"].shape[1] for row in rows.inputs}:
        assert counted.pop(str(length)) > 0
    assert counted == {}


def test_every_variant_keeps_axes_versions_and_metadata(project: Path, manifest: Manifest) -> None:
    graphs = [
        onnx.load(project / "onnx" / entry["file"], load_external_data=False) for entry in manifest.details["variants"]
    ]
    assert len(graphs) == 4
    for graph in graphs[1:]:
        assert [*graph.graph.input, *graph.graph.output] == [*graphs[0].graph.input, *graphs[0].graph.output]
        assert metadata_of(graphs[0]).items() <= metadata_of(graph).items()  # onnxruntime's quantizer adds a line
        assert graph.ir_version == 10
        assert {entry.version for entry in graph.opset_import if entry.domain == ""} == {20}


def metadata_of(graph: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in graph.metadata_props}


@pytest.mark.parametrize("variant", ["fp32", "fused"])
def test_float_graphs_equal_pytorch_at_every_batch_and_length(
    project: Path, task: TextClassification, variant: str
) -> None:
    torch_runner = TorchRunner(project / "tuned", task)
    graph = OnnxRunner(project / "onnx" / f"{variant}.onnx", task)
    texts = Rows.load(project / "tuned" / "test.jsonl").inputs
    for batch in ([""], texts[:1], texts[:7], ["the " * 100, "good"], texts):
        np.testing.assert_allclose(graph.predict(batch), torch_runner.predict(batch), atol=1e-5)


def test_probabilities_sum_to_one_in_every_variant(project: Path, task: TextClassification, manifest: Manifest) -> None:
    assert [entry["name"] for entry in manifest.details["variants"]] == ["fp32", "fused", "int8-dynamic", "int8-static"]
    for entry in manifest.details["variants"]:
        probabilities = OnnxRunner(project / "onnx" / entry["file"], task).predict(["great camera", ""])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_int8_is_smaller_and_still_right(project: Path, task: TextClassification, manifest: Manifest) -> None:
    variants = {entry["name"]: entry for entry in manifest.details["variants"]}
    assert variants["int8-dynamic"]["size_bytes"] < variants["fp32"]["size_bytes"]
    assert variants["int8-dynamic"]["drop"]["agreement"] > 0.9


def test_parity_is_measured_at_several_shapes_with_padding(manifest: Manifest) -> None:
    parity = manifest.details["variants"][0]["parity"]
    assert [tuple(shape) for shape in parity["shapes"]] == [(1, 7), (3, 32), (5, 32), (2, 32)]
    assert 0 < parity["max_abs_diff"] < TOLERANCE


def test_golden_samples_are_the_chosen_variants_own_answers(
    project: Path, task: TextClassification, manifest: Manifest
) -> None:
    golden = json.loads((project / "onnx" / "golden.json").read_text())
    runner = OnnxRunner(project / "onnx" / f"{manifest.details['chosen']}.onnx", task)
    for row, expected in zip(golden["rows"], golden["probabilities"], strict=True):
        np.testing.assert_allclose(runner.predict([row])[0], expected, atol=1e-6)


def test_fusion_is_audited(project: Path, manifest: Manifest, tmp_path: Path) -> None:
    audit = manifest.details["fusion_audit"]
    assert (audit["attentions"], audit["expected_attentions"]) == (2, 2)
    with pytest.raises(QualityError, match="2 of 3 attentions were fused"):
        fuse(project / "onnx" / "fp32.onnx", tmp_path / "fused.onnx", expected_attentions=3)


def test_what_cannot_be_fused_is_left_out_with_its_reason(tmp_path: Path) -> None:
    import torch
    from transformers import DebertaV2Config, DebertaV2Model

    folder = write_project(tmp_path / "tiny")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    only_features = recipe.replace("tune:\n", "tune:\n  methods: [feature-extraction]\n")
    (folder / "recipe.yaml").write_text(only_features, encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    network = DebertaV2Model(DebertaV2Config(vocab_size=64, max_position_embeddings=64, **sizes))
    network.save_pretrained(folder / "backbone")
    pipeline.tune(folder)
    manifest = pipeline.export(folder, variants=["fp32", "fused", "int8-dynamic"], search_minutes=0).manifest
    assert [entry["name"] for entry in manifest.details["variants"]] == ["fp32", "int8-dynamic"]
    left_out = next(choice for choice in manifest.decisions if choice.about == "variant fused")
    assert (left_out.value, left_out.reason) == ("left out", "0 of 1 attentions were fused")
    assert not (folder / "onnx" / "fused.onnx").exists()


def test_the_last_resort_of_int8_is_named_until_it_was_tried(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    text_source(tmp_path / "learnt", layers=1).network.backbone.save_pretrained(folder / "backbone")
    with_a_silent_channel(folder / "backbone", weight=100)
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("  source: backbone\n", "  source: backbone\n  pooling: cls\n")
    reasons = {}
    for aware in ("false", "true"):
        settings = f"  methods: [fine-tuning]\n  freeze: ['{SILENT}']\n  quantization_aware: {aware}\n"
        (folder / "recipe.yaml").write_text(recipe.replace("tune:\n", f"tune:\n{settings}"), encoding="utf-8")
        pipeline.tune(folder)
        decisions = pipeline.export(folder, variants=["fp32", "int8-static"], search_minutes=0).manifest.decisions
        reasons[aware] = " ".join(choice.reason for choice in decisions)
    assert "the budget is 0.5; `tune.quantization_aware` trains the network for it" in reasons["false"]
    assert "quantization_aware" not in reasons["true"]


def test_a_baked_in_axis_is_refused(
    project: Path, task: TextClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(project / "tuned")
    monkeypatch.setattr(Network, "forward", lambda self, **inputs: self.head(self.features(**inputs))[:2])
    with pytest.raises(QualityError, match="export with dynamic axes"):
        export_graph(network, task, tmp_path / "graph.onnx", 20, {})
