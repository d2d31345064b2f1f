"""Which engines a recipe opens, and from what."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tests.tiny import ROWS, answer, write_export
from tests.tiny_project import RECIPE
from tldeploy import artifacts, engines
from tldeploy.data.rows import Rows
from tldeploy.devices import Device, lacking
from tldeploy.errors import ArtifactError, MachineError, RecipeError
from tldeploy.recipe import ENGINES, Bench, Recipe


def recipe_of(folder: Path, wanted: list[str], **details: Any) -> Recipe:
    write_export(folder / "onnx", **details)
    (folder / "tuned").mkdir()
    Rows(ROWS, np.zeros(len(ROWS), dtype=np.int64)).save(folder / "tuned" / "calibration.jsonl")
    text = RECIPE.replace("[onnxruntime, triton-http]", f"[{', '.join(wanted)}]")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return Recipe.load(folder)


def test_every_engine_of_a_recipe_is_one_that_is_known_here() -> None:
    assert set(ENGINES) == {*engines.LOCAL, *engines.SERVED}
    assert Bench().engines == ["torch", "onnxruntime", "triton-http", "triton-grpc"]


def test_every_variant_is_opened_in_a_process_of_its_own(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ["onnxruntime"])
    with engines.opened(recipe, artifacts.load(tmp_path / "onnx", "export")) as runners:
        variants = ["fp32", "fused", "int8-dynamic"]
        assert [runner.name for runner in runners] == [f"onnxruntime {name}" for name in variants]
        assert len({runner.pid for runner in runners}) == 3  # type: ignore[attr-defined]
        np.testing.assert_array_equal(runners[2].predict([ROWS[0]]), answer(tmp_path / "onnx", [ROWS[0]]))


def test_a_variant_is_opened_as_the_export_found_it_fastest_and_the_others_plainly(tmp_path: Path) -> None:
    session = {"variant": "fused", "device": "cpu", "options": {}, "memory": "bound", "speedup": None}
    recipe = recipe_of(tmp_path, ["onnxruntime"], session=session)
    exported = artifacts.load(tmp_path / "onnx", "export")
    with engines.opened(recipe, exported) as runners:
        plain, bound = "CPUExecutionProvider", "CPUExecutionProvider, bound"
        assert [runner.provider for runner in runners] == [plain, bound, plain]
        np.testing.assert_allclose(
            runners[1].predict([ROWS[0]]), answer(tmp_path / "onnx", [ROWS[0]], "fused"), atol=1e-6
        )
    assert engines.session_of(exported, "fused", "cpu") == {"options": {}, "memory": "bound"}
    assert engines.session_of(exported, "fused", "cuda") == {}, "it was measured on another device"


@pytest.mark.parametrize(
    ("device", "wanted", "said", "fix"),
    [
        ("cpu", ["torch", "torch-fp16"], "bench torch-fp16 on cpu: hardly any CPU", "or bench on cuda"),
        (
            "cuda",
            ["openvino", "openvino-int8", "torch"],
            "openvino, openvino-int8 on cuda: of NVIDIA's",
            "or bench on cpu",
        ),
        ("tensorrt", ["openvino"], "bench openvino on tensorrt: of NVIDIA's", "or bench on cpu"),
    ],
)
def test_engines_that_do_not_compute_on_the_device_are_refused(
    device: Device, wanted: list[str], said: str, fix: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        engines.check(wanted, device)
    assert caught.value.fix.startswith("leave ")
    assert fix in caught.value.fix


def test_graphs_that_would_compute_on_the_cpu_are_refused_on_a_gpu(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ["onnxruntime"])
    exported = artifacts.load(tmp_path / "onnx", "export")
    on_cuda = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"device": "cuda"})})
    match = "bench onnxruntime int8-dynamic on cuda: cuda has no kernels for some of their .* exported for cpu"
    with pytest.raises(ArtifactError, match=match) as caught, engines.opened(on_cuda, exported):
        raise AssertionError("it was opened")
    assert caught.value.fix.startswith(f"run `tldeploy export {tmp_path} --device cuda` first")
    engines.check_graphs(recipe, exported)
    deleted = exported.model_copy(update={"details": {"variants": [{"name": "int8-static", "file": None}]}})
    engines.check_graphs(on_cuda, deleted)


def test_all_engines_but_those_compute_on_every_device() -> None:
    both = [engine for engine in ENGINES if not engine.startswith("openvino") and engine != "torch-fp16"]
    for device in get_args(Device):
        engines.check(both, device)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch", "torch-bf16", "torch-fp16", "torch-compile"])
def test_on_a_machine_without_a_gpu_no_engine_is_run_on_the_cpu_instead(engine: str, tmp_path: Path) -> None:
    if lacking("cuda", ["torch", "onnxruntime"]) is None:
        pytest.skip("there is a GPU")
    recipe = recipe_of(tmp_path, [engine], variants=[{"name": "fp32", "file": "fp32.onnx"}])
    on_cuda = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"device": "cuda"})})
    with (
        pytest.raises(MachineError) as caught,
        engines.opened(on_cuda, artifacts.load(tmp_path / "onnx", "export")),
    ):
        raise AssertionError("it was opened")
    assert "CPU" in caught.value.fix, "it is for the user to say"


def test_openvino_has_the_fp32_graph_and_an_int8_one_that_is_made_once(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    recipe = recipe_of(tmp_path, ["openvino", "openvino-int8"])
    exported = artifacts.load(tmp_path / "onnx", "export")
    made = []
    for _ in range(2):
        with engines.opened(recipe, exported) as runners:
            assert [runner.name for runner in runners] == ["openvino fp32", "openvino int8"]
            expected = answer(tmp_path / "onnx", ROWS, "fp32")
            answers = np.concatenate([runners[0].predict([row]) for row in ROWS])
            np.testing.assert_allclose(answers, expected, atol=1e-5)
            quantized = np.concatenate([runners[1].predict([row]) for row in ROWS])
            np.testing.assert_allclose(quantized.sum(axis=1), 1, atol=1e-5)
            assert np.abs(quantized - expected).max() > 1e-3, "weights that nobody has trained: it is another graph"
        (graph,) = (tmp_path / ".cache" / "openvino").glob("int8-*.xml")
        made.append(graph.stat().st_mtime_ns)
    assert made[0] == made[1]


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_a_package_that_is_missing_is_said_with_the_command_that_installs_it(engine: str, tmp_path: Path) -> None:
    if find_spec("openvino"):
        pytest.skip("the extra `openvino` is installed")
    recipe = recipe_of(tmp_path, [engine])
    with (
        pytest.raises(MachineError) as caught,
        engines.opened(recipe, artifacts.load(tmp_path / "onnx", "export")),
    ):
        raise AssertionError("it was opened")
    assert "pip install 'openvino>=2026.4' 'nncf>=3.4'" in caught.value.fix
