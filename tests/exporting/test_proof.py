"""What the export stage says of the variants that it made: files, held-out rows, overrides, time and error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

from tests.drivers import without_gpu
from tests.tiny_images import write_image_project
from tests.tiny_project import write_project
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest
from tldeploy.backbones.layers import layer_map
from tldeploy.backbones.network import load_network
from tldeploy.cli import execute
from tldeploy.cli.export import GOALS, TARGETS
from tldeploy.data.rows import Rows
from tldeploy.errors import UsageError
from tldeploy.exporting.explain import Explained, _Groups
from tldeploy.exporting.places import AROUND, HEAD
from tldeploy.exporting.selection import measure_held_out
from tldeploy.exporting.targets import place_for
from tldeploy.recipe import Export, Recipe
from tldeploy.recipe.serving import Goal, Target
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks import load_task
from tldeploy.tasks.metrics import Drop

SPEEDUPS = ("speedup", "throughput_speedup")
SETTINGS = {"variants": ["fp32", "fused", "int8-dynamic"], "max_drop": 100.0, "goal": "size"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For size int8-dynamic is chosen on any machine, and fused may be refused."""
    folder = write_project(tmp_path_factory.mktemp("job") / "tiny")
    pipeline.tune(folder)
    pipeline.export(folder, **SETTINGS, keep_all=True)
    return folder


@pytest.fixture(scope="module")
def manifest(project: Path) -> Manifest:
    return artifacts.load(project / "onnx", "export")


@pytest.fixture(scope="module")
def explained(project: Path, manifest: Manifest) -> list[Explained]:
    return pipeline.explain(project)


def test_every_entry_has_both_speeds_loading_and_providers(project: Path, manifest: Manifest) -> None:
    for entry in manifest.details["variants"]:
        assert all(entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"] for name in SPEEDUPS)
        assert min(entry[name] for name in ("p50_ms", "rows_per_s", "load_ms", "memory_mb")) > 0
        assert entry["providers"] == {"CPUExecutionProvider": 1.0}
        assert entry["size_bytes"] == (project / "onnx" / entry["file"]).stat().st_size
    assert all(manifest.details["variants"][0][name]["value"] == 1 for name in SPEEDUPS)


def test_the_held_out_figure_is_that_of_the_chosen_variants_own_answers(project: Path, manifest: Manifest) -> None:
    assert manifest.details["chosen"] == "int8-dynamic"
    task = load_task(manifest.task, project / "onnx", manifest.labels)
    rows = Rows.load(project / "tuned" / "test.jsonl")
    fp32, int8 = (
        task.decode(np.concatenate([runner.predict([text]) for text in rows.inputs]))
        for runner in (OnnxRunner(project / "onnx" / f"{name}.onnx", task) for name in ("fp32", "int8-dynamic"))
    )
    assert manifest.details["held_out"] == {
        "drop": task.drop(rows.classes, fp32, int8).as_json(),
        "metric": task.measure(rows.classes, int8).as_json(),
        "fp32": task.measure(rows.classes, fp32).as_json(),
    }


@pytest.fixture(scope="module")
def elsewhere(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for OpenVINO, which onnxruntime's usual wheels lack, with a budget that no variant proves to keep."""
    from tldeploy.exporting.export import export

    folder = tmp_path_factory.mktemp("elsewhere") / "onnx"
    settings = Export(target="openvino", variants=["fp32", "fused"], max_drop=0.0, judge_by="interval")
    export(settings, project / "tuned", folder, "")
    return folder


def test_files_of_refused_variants_are_deleted_and_the_reason_stays(elsewhere: Path) -> None:
    manifest = artifacts.load(elsewhere, "export")
    assert manifest.details["chosen"] == "fp32"
    assert [entry["file"] for entry in manifest.details["variants"]] == ["fp32.onnx", None]
    assert [path.name for path in elsewhere.glob("*.onnx")] == ["fp32.onnx"]
    assert sorted(manifest.files) == ["encoder.json", "fp32.onnx", "golden.json", "tokenizer.json"]
    refused = next(choice for choice in manifest.decisions if choice.value == "refused, deleted")
    assert refused.about == "variant fused"
    assert "cannot be proven on fewer than infinitely many rows" in refused.reason
    assert manifest.details["held_out"]["drop"]["points"] == 0


def test_the_held_out_rows_say_so_if_the_choice_is_over_the_budget(project: Path, manifest: Manifest) -> None:
    task = load_task(manifest.task, project / "onnx", manifest.labels)
    rows = Rows.load(project / "tuned" / "test.jsonl")
    fp32 = OnnxRunner(project / "onnx" / "fp32.onnx", task)

    class Confused(OnnxRunner):
        def run(self, tensors):  # type: ignore[no-untyped-def]
            return np.roll(super().run(tensors), 1, axis=1)

    settings = Recipe.load(project).export
    confused = Confused(project / "onnx" / "fp32.onnx", task)
    found, said = measure_held_out([fp32, confused], task, rows, Drop(0.1, -0.1, 0.3, 0.99, 75), settings)
    assert found.drop.points > 50
    assert (said[0].about, said[0].value) == ("held-out rows", "over the budget")
    assert said[0].reason.startswith(
        "the validation rows said +0.10 points lost [-0.10, +0.30] on 75 rows, the held-out"
    )


def test_overrides_stand_in_for_the_recipe_and_are_part_of_what_decides_to_skip(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(project, folder)
    assert pipeline.export(folder, **SETTINGS, keep_all=True).skipped
    with (folder / "recipe.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write("export:\n  variants: [fp32]\n")
    done = execute(["export", str(folder), "--goal", "size", "--max-drop", "1.5", "--target", "cpu", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done, told["skipped"], told["goal"], told["chosen"]) == (0, False, "size", "fp32")
    assert pipeline.export(folder, goal="size", max_drop=1.5).skipped
    assert artifacts.load(folder / "onnx", "export").details["max_drop"] == 1.5


def test_the_command_line_knows_the_recipes_targets_and_goals() -> None:
    assert (tuple(TARGETS), tuple(GOALS)) == (get_args(Target), get_args(Goal))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"goal": "speed"}, "goal is 'speed'"),
        ({"max_drop": -1}, "max_drop is -1"),
        ({"gaol": "size"}, "gaol is 'size'"),
    ],
)
def test_overrides_that_a_recipe_could_not_have_are_refused(
    project: Path, overrides: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        pipeline.export(project, **overrides)


@pytest.mark.parametrize("target", ["cuda", "tensorrt", "openvino"])
def test_a_target_that_is_not_here_is_said_to_be_missing(project: Path, target: str) -> None:
    import onnxruntime

    place = place_for(target, project / "onnx" / "fp32.onnx")  # type: ignore[arg-type]
    if place.why_not_there is None:
        pytest.skip(f"this machine has {target}")
    assert place.provider == "CPUExecutionProvider"
    assert place.why_not_there
    assert onnxruntime.InferenceSession(project / "onnx" / "fp32.onnx", providers=[place.provider])


@without_gpu
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_without_a_driver_no_session_is_tried_and_onnxruntime_prints_nothing(
    project: Path, target: Target, capfd: pytest.CaptureFixture[str]
) -> None:
    said = place_for(target, project / "onnx" / "fp32.onnx").why_not_there
    assert said is not None
    assert said.startswith("there is no NVIDIA driver here")
    assert capfd.readouterr() == ("", "")


def test_without_the_target_accuracy_is_measured_and_speed_is_not(elsewhere: Path) -> None:
    if place_for("openvino", elsewhere / "fp32.onnx").why_not_there is None:
        pytest.skip("this machine has OpenVINO's provider")
    manifest = artifacts.load(elsewhere, "export")
    for entry in manifest.details["variants"]:
        assert (entry["p50_ms"], entry["speedup"], entry["throughput_speedup"], entry["load_ms"]) == (None,) * 4
        assert entry["drop"]["agreement"] == 1
        assert entry["providers"] == {"CPUExecutionProvider": 1.0}
    said = next(choice for choice in manifest.decisions if choice.about == "speed on openvino")
    assert (said.value, said.reason) == (
        "not measured",
        "this onnxruntime has no OpenVINOExecutionProvider; accuracy was measured on the CPU",
    )


def test_explained_shares_add_up_and_name_every_group_of_the_network(project: Path, explained: list[Explained]) -> None:
    layers = layer_map(load_network(project / "tuned").backbone)
    assert [found.variant for found in explained] == ["fp32", "fused", "int8-dynamic"]
    for found in explained:
        assert list(found.groups) == [*layers.names, HEAD, AROUND]
        assert sum(found.groups.values()) == pytest.approx(1)
        assert sum(found.operators.values()) == pytest.approx(1)
        assert all(found.groups[group] > 0 for group in ("embeddings", "layer 0", "layer 1", HEAD))
    assert len(explained[0].nodes) > 100
    assert explained[0].placed == {"CPUExecutionProvider": len(explained[0].nodes)}
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & set(explained[2].operators)


def test_every_node_of_a_layer_is_counted_for_that_layer(project: Path) -> None:
    """Fused nodes have names that say nothing; the tensors that they make do."""
    layers = layer_map(load_network(project / "tuned").backbone)
    fp32 = onnx.load(project / "onnx" / "fp32.onnx")
    fused = onnx.load(project / "onnx" / "fused.onnx")
    found = _Groups.of(fp32, layers).of_nodes(fused.graph.node)
    attentions = [found[node.name] for node in fused.graph.node if node.op_type == "Attention"]
    gelus = [found[node.name] for node in fused.graph.node if node.op_type == "BiasGelu"]
    assert attentions == gelus == ["layer 0", "layer 1"]


def test_errors_are_of_float_size_in_fused_and_grow_in_int8(explained: list[Explained]) -> None:
    fused, int8 = explained[1].departures, explained[2].departures
    assert explained[0].departures == {}
    assert max(value for value in fused.values() if value is not None) < 1e-5
    for group in ("embeddings", "layer 0", "layer 1", HEAD):
        assert 1e-4 < (int8[group] or 0) < 0.5


def test_images_are_explained_too(tmp_path: Path) -> None:
    folder = write_image_project(tmp_path / "tiny-images")
    pipeline.tune(folder)
    pipeline.export(folder, variants=["fp32", "int8-static"], keep_all=True)
    found, int8 = pipeline.explain(folder)
    assert sum(found.groups.values()) == pytest.approx(1)
    assert found.groups["stem"] > 0
    assert found.groups["layer 0"] > 0
    # In integers a layer's ReLU is gone, and what it hands on is compared all the same.
    assert max(int8.departures[group] or 9 for group in ("stem", "layer 0", "layer 1", HEAD)) < 0.2
