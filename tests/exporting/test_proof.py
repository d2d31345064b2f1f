"""What the export stage says of the variants that it made: files, held-out rows, overrides, time and error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.tiny_images import write_image_project
from tests.tiny_project import write_project
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest
from tldeploy.backbones.layers import layer_map
from tldeploy.backbones.network import load_network
from tldeploy.cli import execute
from tldeploy.data.rows import Rows
from tldeploy.errors import UsageError
from tldeploy.exporting.explain import Explained
from tldeploy.exporting.places import AROUND, HEAD
from tldeploy.exporting.targets import place_for
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks import load_task

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


SPEEDUPS = ("speedup", "throughput_speedup")


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


def test_files_of_refused_variants_are_deleted_and_the_reason_stays(project: Path, tmp_path: Path) -> None:
    from tldeploy.exporting.export import export

    settings = pipeline._overridden(pipeline.Recipe.load(project).export, {**SETTINGS, "max_drop": 0.0})
    settings = settings.model_copy(update={"judge_by": "interval"})  # which no variant passes, on so few rows
    manifest = export(settings, project / "tuned", tmp_path / "onnx", "")
    assert manifest.details["chosen"] == "fp32"
    assert [entry["file"] for entry in manifest.details["variants"]] == ["fp32.onnx", None, None]
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == ["fp32.onnx"]
    assert sorted(manifest.files) == ["encoder.json", "fp32.onnx", "golden.json", "tokenizer.json"]
    refused = {choice.about: choice for choice in manifest.decisions if choice.value == "refused, deleted"}
    assert set(refused) == {"variant fused", "variant int8-dynamic"}
    assert "cannot be proven on fewer than infinitely many rows" in refused["variant fused"].reason
    assert manifest.details["held_out"]["drop"]["points"] == 0


def test_the_held_out_rows_say_so_if_the_choice_is_over_the_budget(project: Path, manifest: Manifest) -> None:
    from tldeploy.exporting.selection import measure_held_out
    from tldeploy.tasks.metrics import Drop

    task = load_task(manifest.task, project / "onnx", manifest.labels)
    rows = Rows.load(project / "tuned" / "test.jsonl")
    fp32 = OnnxRunner(project / "onnx" / "fp32.onnx", task)

    class Confused(OnnxRunner):
        def run(self, tensors):  # type: ignore[no-untyped-def]
            return np.roll(super().run(tensors), 1, axis=1)

    settings = pipeline.Recipe.load(project).export
    confused = Confused(project / "onnx" / "fp32.onnx", task)
    found, said = measure_held_out([fp32, confused], task, rows, Drop(0.1, -0.1, 0.3, 0.99, 75), settings)
    assert found.drop.points > 50
    assert (said[0].about, said[0].value) == ("held-out rows", "over the budget")
    assert said[0].reason.startswith(
        "the validation rows said +0.10 points lost [-0.10, +0.30] on 75 rows, the held-out"
    )


def test_overrides_stand_in_for_the_recipe_and_are_part_of_what_decides_to_skip(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline.export(project, **SETTINGS, keep_all=True).skipped
    recipe = project / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    recipe.write_text(f"{before}export:\n  variants: [fp32]\n", encoding="utf-8")
    try:
        done = execute(["export", str(project), "--goal", "size", "--max-drop", "1.5", "--target", "cpu", "--json"])
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (done, told["skipped"], told["goal"], told["chosen"]) == (0, False, "size", "fp32")
        assert pipeline.export(project, goal="size", max_drop=1.5).skipped
        assert artifacts.load(project / "onnx", "export").details["max_drop"] == 1.5
    finally:
        recipe.write_text(before, encoding="utf-8")
        pipeline.export(project, **SETTINGS, keep_all=True)


def test_the_command_line_knows_the_recipes_targets_and_goals() -> None:
    from typing import get_args

    from tldeploy.cli.export import GOALS, TARGETS
    from tldeploy.recipe.serving import Goal, Target

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


def test_without_the_target_accuracy_is_measured_and_speed_is_not(project: Path, tmp_path: Path) -> None:
    from tldeploy.exporting.export import export
    from tldeploy.recipe import Export

    if place_for("openvino", project / "onnx" / "fp32.onnx").why_not_there is None:
        pytest.skip("this machine has OpenVINO's provider")
    settings = Export(target="openvino", variants=["fp32", "fused"], keep_all=True)
    manifest = export(settings, project / "tuned", tmp_path / "onnx", "")
    for entry in manifest.details["variants"]:
        assert (entry["p50_ms"], entry["speedup"], entry["throughput_speedup"], entry["load_ms"]) == (None,) * 4
        assert entry["metric"]["rows"] == manifest.details["variants"][0]["metric"]["rows"]
    said = next(choice for choice in manifest.decisions if choice.about == "speed on openvino")
    assert said.value == "not measured"
    assert "OpenVINOExecutionProvider; accuracy was measured on the CPU" in said.reason


def test_explained_shares_add_up_and_name_every_group_of_the_network(project: Path, explained: list[Explained]) -> None:
    layers = layer_map(load_network(project / "tuned").backbone)
    assert [found.variant for found in explained] == ["fp32", "fused", "int8-dynamic"]
    for found in explained:
        assert list(found.groups) == [*layers.names, HEAD, AROUND]
        assert sum(found.groups.values()) == pytest.approx(1)
        assert sum(found.operators.values()) == pytest.approx(1)
        assert all(found.groups[group] > 0 for group in ("embeddings", "layer 0", "layer 1", HEAD))
    assert sum(explained[0].nodes.values()) > 100
    assert set(explained[0].nodes) == {"CPUExecutionProvider"}
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & set(explained[2].operators)


def test_every_node_of_a_layer_is_counted_for_that_layer(project: Path) -> None:
    """Fused nodes have names that say nothing; the tensors that they make do."""
    from tldeploy.exporting.explain import _Groups

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
    pipeline.export(folder, variants=["fp32"])
    (found,) = pipeline.explain(folder)
    assert sum(found.groups.values()) == pytest.approx(1)
    assert found.groups["stem"] > 0
    assert found.groups["layer 0"] > 0
