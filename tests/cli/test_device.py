"""`--device` on a machine without a GPU: each verb says in one message what is missing, and does nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import without_gpu
from tests.tiny_project import RECIPE, write_project
from tldeploy import artifacts, pipeline, serving
from tldeploy.cli import execute
from tldeploy.devices import Device
from tldeploy.errors import ArtifactError, MachineError, RecipeError, UsageError
from tldeploy.pipeline.places import refuse_served_elsewhere, refuse_without_kernels, to_bench, to_serve
from tldeploy.recipe import Cuda, Deploy, Recipe, TensorRT
from tldeploy.triton import placement
from tldeploy.triton.repository import published

QUICK = RECIPE.replace("tune:\n", "tune:\n  methods: [feature-extraction]\n").replace(
    "deploy:\n", "export:\n  variants: [fp32]\ndeploy:\n"
)

pytestmark = without_gpu


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned, exported and published: all of it current."""
    folder = write_project(tmp_path_factory.mktemp("device") / "tiny")
    (folder / "recipe.yaml").write_text(QUICK)
    pipeline.tune(folder)
    pipeline.export(folder)
    pipeline.deploy(folder, check=False)
    return folder


def recipe_with(section: str, recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=settings)})


def written(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
@pytest.mark.parametrize("verb", ["tune", "export", "deploy", "bench", "run"])
def test_a_stage_is_refused_although_its_artifact_is_current(
    verb: str, device: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (verb, device) == ("tune", "tensorrt"):
        pytest.skip("training is on cpu or cuda")
    before = written(project)
    assert execute([verb, str(project), "--device", device, "--json"]) == 6
    shown = capsys.readouterr()
    error = json.loads(shown.out.splitlines()[-1])
    assert error["error"] == "MachineError"
    assert error["asked"].startswith(f"{'export' if verb == 'run' else verb} tiny on ")
    assert "NVIDIA driver" in error["found"]
    assert "--device cpu" in error["fix"]
    graphs = f"tldeploy export {project} --target {device}"
    elsewhere = f"`{graphs} && tldeploy deploy {project} --device {device} --no-check` publishes it for another machine"
    assert (elsewhere in error["fix"]) == (verb == "deploy")
    assert (f"`{graphs}` makes the graphs without a GPU" in error["fix"]) == (verb in {"export", "run"})
    assert shown.err.count("error: ") == 1
    assert written(project) == before


@pytest.mark.parametrize("verb", [["search"], ["find-rate"], ["rank"]])
def test_what_trains_or_runs_networks_is_refused_before_rows_are_read(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    rest = ["bert"] if verb == ["rank"] else []
    assert execute([*verb, str(tmp_path), *rest, "--device", "cuda"]) == 6
    assert "NVIDIA driver" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("verb", "old", "new"),
    [
        ("tune", "  epochs: 2", "  device: cuda\n  epochs: 2"),
        ("deploy", "deploy:\n", "deploy:\n  device: cuda\n"),
        ("bench", "bench:\n", "bench:\n  device: tensorrt\n"),
        ("bench", "export:\n", "export:\n  target: cuda\n"),
        ("run", "bench:\n", "bench:\n  device: cuda\n"),
    ],
)
def test_a_recipe_that_says_it_is_refused_likewise(
    verb: str, old: str, new: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in QUICK
    (project / "recipe.yaml").write_text(QUICK.replace(old, new))
    before = written(project)
    try:
        assert execute([verb, str(project)]) == 6
        assert "NVIDIA driver" in capsys.readouterr().err
        assert written(project) == before
    finally:
        (project / "recipe.yaml").write_text(QUICK)


def test_the_cpu_may_be_asked_for_and_changes_nothing(project: Path) -> None:
    assert pipeline.tune(project, device="cpu").skipped
    assert pipeline.export(project, device="cpu").skipped
    assert pipeline.deploy(project, check=False, device="cpu").skipped


def test_where_and_how_fast_it_was_trained_makes_no_artifact_stale(project: Path) -> None:
    recipe = Recipe.load(project)
    for change in ({"device": "cpu"}, {"compile": True}):
        assert pipeline.tune(recipe.model_copy(update={"tune": recipe.tune.model_copy(update=change)})).skipped
    tuned = artifacts.load(project / "tuned", "tune")
    assert next(choice for choice in tuned.decisions if choice.about == "device").value == "cpu"


def test_a_version_may_be_published_for_a_machine_with_a_gpu(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Recipe.load(project)
    other = other.model_copy(update={"deploy": other.deploy.model_copy(update={"repository": "gpu_repo"})})
    capsys.readouterr()
    outcome = pipeline.deploy(recipe_with("export", other, variants=None), check=False, device="cuda")
    more = f"fp32 was chosen for cpu; `tldeploy export {project} --target cuda` considers fp16 too"
    assert more in capsys.readouterr().err
    text = (project / "gpu_repo" / "tiny.graph" / "config.pbtxt").read_text()
    assert "kind: KIND_GPU" in text
    assert not outcome.manifest.details["checked"]
    assert pipeline.deploy(other, check=False, device="cuda").skipped
    assert pipeline.deploy(other, check=False, device="cuda", force=True).folder.name == "2"
    assert more not in capsys.readouterr().err, "the recipe names its variants"
    with pytest.raises(MachineError) as caught:
        serving.rollback("tiny", repository=project / "gpu_repo")
    assert caught.value.asked == "publish version 1 of tiny"
    assert caught.value.found.startswith("tiny.graph is configured for a GPU (KIND_GPU): there is no NVIDIA driver")
    assert caught.value.fix.endswith("without a check: `--no-check`")


def test_graphs_for_the_cpu_are_not_published_where_the_recipe_wants_them_for_a_gpu(project: Path) -> None:
    """The export is older than the recipe."""
    recipe = recipe_with("export", Recipe.load(project), target="cuda")
    before = written(project)
    with pytest.raises(ArtifactError) as caught:
        pipeline.deploy(recipe, check=False)
    assert caught.value.found == "it was exported for cpu, the recipe's export.target is cuda"
    assert caught.value.fix.startswith(f"run `tldeploy export {project} --target cuda` first; as it is, ")
    assert written(project) == before
    assert pipeline.deploy(recipe, check=False, device="cpu").skipped
    assert pipeline.deploy(recipe_with("deploy", recipe, device="cpu"), check=False).skipped


def test_a_graph_without_kernels_is_told_after_a_gpu_that_is_not_there(project: Path) -> None:
    with pytest.raises(MachineError, match="deploy tiny on cuda"):
        pipeline.deploy(recipe_with("deploy", Recipe.load(project), device="cuda"))


def test_what_is_live_already_is_no_canary(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(project)
    assert execute(["deploy", str(project), "--no-check", "--canary", "10%"]) == 5
    shown = capsys.readouterr()
    assert "error: cannot start a canary of tiny: nothing differs from version 1, which is live" in shown.err
    assert shown.out == ""
    assert written(project) == before


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:0"])
def test_what_is_no_device_is_wrong_usage_from_python_too(device: Any, project: Path) -> None:
    verbs = (pipeline.tune, pipeline.export, pipeline.deploy, pipeline.bench, pipeline.run)
    for verb in verbs:
        with pytest.raises(UsageError, match=f"compute on {device}: no device is named so") as caught:
            verb(project, device=device)
        assert caught.value.fix.startswith("give cpu, cuda, tensorrt")
        assert ("deploy.cuda.gpus" in caught.value.fix) == (device == "cuda:0")
    with pytest.raises(UsageError):
        pipeline.deploy(project, check=False, device=device)
    with pytest.raises(UsageError):
        serving.serve(project / "triton_repo", device=device)


def test_a_folder_that_is_not_there_is_told_before_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["serve", str(tmp_path / "nothere"), "--device", "cuda"]) == 5
    assert "there is no such folder" in capsys.readouterr().err


def test_what_tensorrt_runs_is_trained_on_cuda(project: Path) -> None:
    with pytest.raises(MachineError, match="cannot tune tiny on cuda") as caught:
        pipeline.tune(project, device="tensorrt")
    assert "what tensorrt will run is trained on cuda" in caught.value.fix


def test_settings_of_another_device_do_not_count(project: Path) -> None:
    recipe = Recipe.load(project)
    both = Deploy(device="tensorrt", cuda=Cuda(gpus=[1]), tensorrt=TensorRT(precision="FP16"))
    recipe = recipe.model_copy(update={"deploy": both})
    on_cuda = to_serve(recipe, "cuda", "cpu", here=False).deploy
    assert (on_cuda.device, on_cuda.cuda, on_cuda.tensorrt) == ("cuda", both.cuda, None)
    on_cpu = to_serve(recipe, "cpu", "cuda", here=True).deploy
    assert (on_cpu.device, on_cpu.cuda, on_cpu.tensorrt) == ("cpu", None, None)
    assert to_serve(recipe, None, "cpu", here=False) is recipe


def test_a_graph_without_kernels_there_is_not_published(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = artifacts.read(project / "onnx", "export")
    int8 = manifest.model_copy(update={"details": {**manifest.details, "chosen": "int8-dynamic"}})
    monkeypatch.setattr(artifacts, "read", lambda folder, kind: int8)
    with pytest.raises(ArtifactError) as caught:
        pipeline.deploy(project, check=False, device="cuda")
    assert "int8-dynamic, which was chosen for cpu, has operators that cuda has no kernels for" in caught.value.found
    assert caught.value.fix == f"run `tldeploy export {project} --target cuda` first", "the GPU is elsewhere"
    on_cuda = recipe_with("deploy", Recipe.load(project), device="cuda")
    with pytest.raises(ArtifactError) as caught:
        refuse_without_kernels(on_cuda, "cpu", "int8-dynamic", here=True)
    assert caught.value.fix == f"run `tldeploy export {project} --device cuda` first"


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_engines_that_know_no_gpu_are_refused_before_the_first_stage(device: Device, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(QUICK.replace("[onnxruntime,", "[openvino,"))
    for verb in (to_bench, pipeline.bench):
        with pytest.raises(RecipeError, match=f"bench openvino on {device}"):
            verb(Recipe.load(tmp_path), device=device)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_what_is_published_for_the_cpu_is_not_benched_as_if_it_ran_on_a_gpu(project: Path) -> None:
    recipe = Recipe.load(project)
    place = recipe.path(recipe.deploy.repository)
    served_on = placement.of(place, published(place, recipe.name))
    assert served_on == "cpu"
    on_cuda = recipe_with("bench", recipe, device="cuda")
    with pytest.raises(RecipeError, match="triton-http on cuda: the graph that is served is") as caught:
        refuse_served_elsewhere(on_cuda, served_on)
    assert caught.value.fix.startswith(f"`tldeploy run {project} --device cuda` deploys it there")
    for fine in (recipe, recipe_with("bench", on_cuda, engines=["onnxruntime"])):
        refuse_served_elsewhere(fine, served_on)
    refuse_served_elsewhere(on_cuda, "tensorrt")
    refuse_served_elsewhere(recipe, "cuda")


def test_a_device_and_a_target_that_is_another_are_wrong_usage(project: Path) -> None:
    with pytest.raises(UsageError, match="both --device cuda and --target cpu"):
        pipeline.export(project, device="cuda", target="cpu")


def test_a_target_alone_is_made_for_and_not_measured(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(project, tmp_path / "tiny")
    outcome = pipeline.export(folder, target="cuda")
    said = next(choice for choice in outcome.manifest.decisions if choice.about == "speed on cuda")
    assert said.value == "not measured"
    assert execute(["deploy", str(folder)]) == 6, "what runs a graph follows from its export"
    capsys.readouterr()
    assert execute(["export", str(folder), "--target", "cuda"]) == 0
    assert capsys.readouterr().out.endswith(f"next: tldeploy deploy {folder} --no-check\n")
    assert execute(["deploy", str(folder), "--no-check"]) == 0
    place = (folder / "triton_repo").resolve()
    assert capsys.readouterr().out.endswith(
        "it is not checked: this machine cannot run it on cuda\n"
        f"next: copy {place} to one that can, or tldeploy manifests {place} --for docker\n"
    )
