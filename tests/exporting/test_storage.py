"""Graphs in two files, by a lowered limit: every variant, the artifact, and what is published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from tests.exporting.tiny_source import answers
from tests.tiny_project import write_project
from tldeploy import pipeline
from tldeploy.exporting import storage
from tldeploy.exporting.explain import _exposed
from tldeploy.exporting.fusion import fuse
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import VARIANTS
from tldeploy.recipe import Deploy, Export
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks import load_task
from tldeploy.triton.repository import golden, is_current, published


def test_graphs_over_the_limit_keep_their_weights_in_a_file_beside(
    text: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LIMIT_BYTES", 20_000)
    graph = tmp_path / "fp32.onnx"
    export_graph(text.network, text.task, graph, 20, {})
    assert [part.name for part in storage.parts(graph)] == ["fp32.onnx", "fp32.onnx.data"]
    assert (tmp_path / "fp32.onnx.data").stat().st_size > 60_000
    rows = text.validation.take(np.arange(8))
    expected = answers(text.graph, text.task, rows)
    np.testing.assert_array_equal(answers(graph, text.task, rows), expected)
    large = replace(text, graph=graph, settings=Export(search_minutes=0))
    fuse(graph, tmp_path / "fused.onnx", 2)
    VARIANTS["fp16"].make(large, tmp_path / "fp16.onnx")
    for name in ("int8-weights", "int8-dynamic", "int8-static"):
        VARIANTS[name].make(large, tmp_path / f"{name}.onnx")
    for name, tolerance in {
        "fused": 1e-4,
        "fp16": 2e-3,
        "int8-weights": 1e-2,
        "int8-dynamic": 5e-2,
        "int8-static": 5e-2,
    }.items():
        assert external_names(onnx.load(tmp_path / f"{name}.onnx", load_external_data=False)) == {f"{name}.onnx.data"}
        np.testing.assert_allclose(answers(tmp_path / f"{name}.onnx", text.task, rows), expected, atol=tolerance)
    exposed = _exposed(graph, tmp_path / "exposed.onnx", ["gelu"])
    assert external_names(onnx.load(exposed, load_external_data=False)) == {"exposed.onnx.data"}
    np.testing.assert_array_equal(answers(exposed, text.task, rows), expected)
    before = sum(part.stat().st_size for part in storage.parts(graph))
    export_graph(text.network, text.task, graph, 20, {})  # over what is there, not behind it
    assert sum(part.stat().st_size for part in storage.parts(graph)) == before
    storage.delete_graph(graph)
    assert not {"fp32.onnx", "fp32.onnx.data"} & {path.name for path in tmp_path.iterdir()}


def test_a_model_over_the_limit_goes_from_export_to_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LIMIT_BYTES", 20_000)
    folder = write_project(tmp_path / "tiny")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("tune:\n", "tune:\n  methods: [feature-extraction]\n")
    (folder / "recipe.yaml").write_text(f"{recipe}export:\n  variants: [fp32]\n", encoding="utf-8")
    pipeline.tune(folder)
    manifest = pipeline.export(folder).manifest
    assert {"fp32.onnx", "fp32.onnx.data"} < manifest.files.keys()
    (entry,) = manifest.details["variants"]
    assert entry["size_bytes"] == sum(part.stat().st_size for part in storage.parts(folder / "onnx" / "fp32.onnx"))
    pipeline.deploy(folder, check=False)
    version = folder / "triton_repo" / "tiny.graph" / "1"
    assert {path.name for path in version.iterdir()} == {"model.onnx", "fp32.onnx.data"}
    deployed = published(folder / "triton_repo", "tiny")
    assert "tiny.graph/1/fp32.onnx.data" in deployed.manifest.details["repository_files"]
    task = load_task(manifest.task, folder / "onnx", manifest.labels)
    rows, expected = golden(deployed)
    served = OnnxRunner(version / "model.onnx", task)
    np.testing.assert_allclose(np.concatenate([served.predict([row]) for row in rows]), expected, atol=1e-6)
    assert is_current(folder / "onnx", folder / "triton_repo", "tiny", Deploy())
    (version / "fp32.onnx.data").write_bytes(b"damaged")
    assert not is_current(folder / "onnx", folder / "triton_repo", "tiny", Deploy())


def external_names(model: ModelProto) -> set[str]:
    return {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
