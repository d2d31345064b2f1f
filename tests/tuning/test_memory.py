"""Memory that is full while tuning: an error that says what helps, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_project import RECIPE, write_backbone, write_project, write_reviews
from tests.tuning.tiny_part import text_network
from tldeploy import pipeline
from tldeploy.cli import execute
from tldeploy.errors import MachineError, QualityError
from tldeploy.recipe import Tune
from tldeploy.tuning import features, trainer
from tldeploy.tuning.checkpoints import steps
from tldeploy.tuning.device import LESS, computing, memory_errors
from tldeploy.tuning.training import train

GPU_IS_FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 8.06 MiB is "
    "free. Including non-PyTorch memory, this process has 79.08 GiB memory in use. If reserved but unallocated memory"
)
FOUND = ". ".join(GPU_IS_FULL.split(". ")[:3])
TOO_MUCH = 2**50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of 79 training rows: five steps an epoch."""
    folder = write_project(tmp_path / "tiny", RECIPE.replace("tune:\n", "tune:\n  methods: [fine-tuning]\n"))
    write_reviews(folder / "reviews.csv", rows=150)
    return folder


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError(GPU_IS_FULL), FOUND),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "CUDA error: out of memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS",
        ),
        (MemoryError(), "there is no memory left"),
    ],
)
def test_memory_of_a_gpu_that_is_full_is_said_with_what_helps(
    error: Exception, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(MachineError) as caught, computing("cuda"):
        raise error
    assert caught.value.asked == "train on cuda"
    assert caught.value.found.startswith(found)
    assert "unallocated" not in caught.value.found
    assert caught.value.fix == f"{LESS}; `nvidia-smi` shows what else holds the GPU's memory"
    for words in (word.rstrip(",;") for word in LESS.split() if word.startswith("tune.")):
        assert words.removeprefix("tune.") in Tune.model_fields


def test_memory_of_this_machine_that_is_full_is_said_likewise(tmp_path: Path) -> None:
    network, part, _ = text_network(tmp_path)

    def loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return logits.sum() + torch.empty(TOO_MUCH).sum()

    with pytest.raises(MachineError) as caught, computing("cpu"):
        train(network, part, Tune(epochs=1, batch_size=8), "test", loss=loss)
    assert caught.value.asked == "train on cpu"
    assert "DefaultCPUAllocator: can't allocate memory" in caught.value.found
    assert caught.value.fix == LESS


def test_any_other_error_comes_through_as_it_is() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), QualityError("a", "b", "c")):
        with pytest.raises(type(error)) as caught, memory_errors():
            raise error
        assert caught.value is error


def full_after(taken: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The GPU's memory is full once so many steps are taken; gives how many were."""
    count, step = 0, trainer.NetworkTrainer.training_step

    def training_step(self: Any, *given: Any) -> torch.Tensor:
        nonlocal count
        if count == taken:
            raise torch.OutOfMemoryError(GPU_IS_FULL)
        count += 1
        return step(self, *given)

    monkeypatch.setattr(trainer.NetworkTrainer, "training_step", training_step)
    return lambda: count


def test_tune_ends_with_one_message_and_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        full_after(7, patched)
        assert execute(["tune", str(folder), "--device", "cpu", "--json"]) == MachineError.exit_code == 6
    shown = capsys.readouterr()
    error = json.loads(shown.out.splitlines()[-1])
    assert (error["error"], error["asked"], error["found"]) == ("MachineError", "train on cpu", FOUND)
    assert "Traceback" not in shown.err
    assert "bug" not in shown.err
    assert not (folder / "tuned").exists()
    assert [path for path in folder.rglob("*") if "writing" in path.name] == []
    (checkpoints,) = (folder / ".cache" / "training").iterdir()
    assert steps(checkpoints) == [5]
    with monkeypatch.context() as patched:
        taken = full_after(-1, patched)
        assert pipeline.tune(folder).manifest.details["kept"] == "fine-tuning"
        assert taken() == 5, "the first epoch is not trained again"


def test_features_that_do_not_fit_leave_no_half_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, part, _ = text_network(folder)
    batch = part.examples.batch

    def second_is_too_much(rows: list[int]) -> Any:
        return batch(rows) if len(rows) == features.BATCH else torch.empty(TOO_MUCH)

    monkeypatch.setattr(part.examples, "batch", second_is_too_much)
    with pytest.raises(MachineError, match="can't allocate memory"), computing("cpu"):
        features.FeatureCache(folder / "features", "weights").features(network, part.examples, "training")
    assert list((folder / "features").iterdir()) == []


def test_a_trial_that_needs_too_much_memory_has_failed_and_the_search_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "  search:\n    space: {batch_size: [16, 32]}\n    sampler: grid\n"
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 1").replace("deploy:\n", f"{space}deploy:\n"))
    step = trainer.NetworkTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        if len(inputs["labels"]) > 16:
            raise torch.OutOfMemoryError(GPU_IS_FULL)
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(trainer.NetworkTrainer, "training_step", training_step)
    found = {trial.settings["batch_size"]: trial for trial in pipeline.search(folder, device="cpu").trials}
    assert found[16].state == "complete"
    assert (found[32].state, found[32].reason) == ("failed", FOUND)


def test_a_backbone_that_needs_too_much_memory_is_ranked_last_with_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(folder / "large", layers=3)
    extract = features.extract_features

    def extract_features(network: Any, *given: Any) -> Any:
        if network.backbone.config.num_hidden_layers == 3:
            raise torch.OutOfMemoryError(GPU_IS_FULL)
        return extract(network, *given)

    monkeypatch.setattr(features, "extract_features", extract_features)
    first, last = pipeline.rank(folder, ["large", "backbone"], device="cpu")
    assert first.score is not None
    assert (last.backbone, last.score, last.reason) == ("large", None, FOUND)
