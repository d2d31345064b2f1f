from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tiny_project import write_project
from tests.tuning import train_together
from tests.tuning.tiny_part import image_network, sha256, text_network
from tldeploy import artifacts, pipeline
from tldeploy.backbones.network import Network
from tldeploy.errors import MachineError, QualityError, RecipeError, UsageError
from tldeploy.recipe import Tune
from tldeploy.tuning import checkpoints, trackers
from tldeploy.tuning.batches import collate
from tldeploy.tuning.fine_tuning import train
from tldeploy.tuning.order import EpochBatches, Key
from tldeploy.tuning.training import Training

HERE = Path(__file__).parent
TEXT = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image-weights")


def trained(folder: Path, rest: dict[str, Any] | None = None, **settings: Any) -> tuple[Network, Training]:
    network, part, validation = text_network(folder)
    return network, train(network, part, Tune(**{**TEXT, **settings}), "test", validation=validation, **(rest or {}))


def changed(before: dict[str, torch.Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_frozen_weights_come_out_bit_by_bit_as_they_went_in(folder: Path) -> None:
    network, part, _ = text_network(folder)
    before = copied(network)
    found = train(network, part, Tune(**TEXT, freeze=["embeddings", "layer 0"], averaging="ema"), "test")
    moved = changed(before, network)
    assert not any(name.startswith(("backbone.embeddings", "backbone.encoder.layer.0.")) for name in moved)
    assert {"head.weight", "head.bias", "backbone.encoder.layer.1.output.dense.weight"} <= moved
    upper = sum(weight.numel() for name, weight in network.named_parameters() if "layer.1." in name or "head" in name)
    assert found.details["trained_parameters"] == upper
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_frozen_name_that_matches_nothing_is_a_mistake_of_the_recipe(folder: Path) -> None:
    with pytest.raises(RecipeError, match="layer 7"):
        trained(folder, freeze=["layer 7"])


def test_rates_that_leave_nothing_to_learn_are_a_mistake_of_the_recipe(folder: Path) -> None:
    with pytest.raises(RecipeError, match="leave nothing, not even the head, to learn"):
        trained(folder, rates={"*": 0.0})


def test_gradual_unfreezing_begins_with_the_head(folder: Path) -> None:
    network, part, _ = text_network(folder)
    before = copied(network)
    train(network, part, Tune(**{**TEXT, "gradual_unfreezing": 1}), "test")
    groups = {
        name.split(".layer.")[-1].split(".")[0] if ".layer." in name else name for name in changed(before, network)
    }
    assert groups == {"1", "head.weight", "head.bias"}


def test_lower_layers_move_less_with_layer_decay(folder: Path) -> None:
    network, part, _ = text_network(folder)
    before = copied(network)
    train(network, part, Tune(**TEXT, layer_decay=0.1, rates={"embeddings": 0.0}), "test")
    moved = {
        layer: (network.state_dict()[name] - before[name]).abs().max().item()
        for layer in (0, 1)
        if (name := f"backbone.encoder.layer.{layer}.output.dense.weight")
    }
    assert 0 < moved[0] < moved[1] / 5
    assert not any("embeddings" in name for name in changed(before, network))


def test_batch_norm_keeps_its_statistics_unless_told_to_learn_them(image_folder: Path) -> None:
    for batch_norm, keeps in (("frozen", True), ("train", False)):
        network, part = image_network(image_folder)
        before = copied(network)
        train(network, part, Tune(epochs=1, batch_size=8, batch_norm=batch_norm), "test")
        moved = {name for name in changed(before, network) if "running" in name or "tracked" in name}
        assert (moved == set()) is keeps
        assert not network.training


def test_early_stopping_restores_the_best_epoch(folder: Path) -> None:
    network, part, validation = text_network(folder)
    scores = iter([0.3, 0.9, 0.5, 0.4, 1.0])
    ends = []
    found = train(
        network,
        part,
        Tune(**{**TEXT, "epochs": 5, "early_stopping": 2}),
        "test",
        validation=validation,
        on_epoch=lambda epoch, metric: ends.append((epoch, metric, sha256(network))),
        measure=lambda truth, predicted: next(scores),
    )
    assert [(epoch, metric) for epoch, metric, _ in ends] == [(1, 0.3), (2, 0.9), (3, 0.5), (4, 0.4)]
    assert found.details["best_epoch"] == 2
    assert sha256(network) == ends[1][2]


def test_an_exception_of_on_epoch_comes_through_unchanged(folder: Path) -> None:
    class PrunedError(Exception):
        pass

    def prune(epoch: int, metric: float) -> None:
        if epoch == 1:
            raise PrunedError(metric)

    with pytest.raises(PrunedError):
        trained(folder, {"on_epoch": prune})


def test_curves_tell_of_every_step_and_epoch(folder: Path) -> None:
    _, found = trained(folder, epochs=3, schedule="cosine", warmup=0.2)
    steps = 3 * math.ceil(36 / 8)
    assert found.details["steps"] == steps
    assert len(found.curves["training loss"]) == len(found.curves["learning rate"]) == steps
    assert [epoch for epoch, _ in found.curves["validation metric"]] == [1, 2, 3]
    rates = [rate for _, rate in found.curves["learning rate"]]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(3e-3)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize("schedule", ["linear", "constant", "polynomial", "inverse-sqrt"])
def test_every_schedule_has_its_shape(folder: Path, schedule: str) -> None:
    _, found = trained(folder, schedule=schedule, warmup=0.2, epochs=4)
    rates = np.array([rate for _, rate in found.curves["learning rate"]]) / 3e-3
    shapes = {
        "linear": lambda step: 1 - (step - 4) / 16,
        "constant": lambda step: 1.0,
        "polynomial": lambda step: (1 - (step - 4) / 16) ** 2,
        "inverse-sqrt": lambda step: math.sqrt(4 / step),
    }
    assert rates[4:] == pytest.approx([shapes[schedule](step) for step in range(4, 20)])


def test_accumulated_batches_are_one_larger_batch(folder: Path) -> None:
    """24 rows, for batches of equal size; without dropout, on texts of one length, so that both see the same rows."""
    found = []
    for batch_size, accumulation in ((12, 1), (6, 2)):
        network, part, _ = text_network(folder, rows=24, dropout=0.0)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        order = EpochBatches(None, part.classes, Tune(batch_size=batch_size)).whole(0)
        found.append([row for batch in order for row in batch])
        settings = Tune(epochs=1, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-3)
        part.examples.lengths = None  # type: ignore[misc]
        train(network, part, settings, "test")
        found.append(network.head.weight.detach().clone())
    assert found[0] == found[2]
    torch.testing.assert_close(found[1], found[3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [None, list(range(40, 0, -1))])
@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_the_order_is_a_function_of_seed_and_epoch_however_many_share_it(
    lengths: list[int] | None, sampling: str
) -> None:
    classes = np.array([0] * 30 + [1] * 10)
    settings = Tune(batch_size=12, sampling=sampling)
    alone = EpochBatches(lengths, classes, settings)
    shared = [EpochBatches(lengths, classes, settings, rank, world=3) for rank in range(3)]
    orders = []
    for epoch in (1, 0, 1):
        for order in (alone, *shared):
            order.set_epoch(epoch)
        whole = [[key.row for key in batch] for batch in alone]
        orders.append(whole)
        assert len(alone) == len(whole) == 4
        for batch, parts in zip(whole, zip(*shared, strict=True), strict=True):
            assert [key.row for part in parts for key in part if key.share > 0] == batch
            assert sum(key.share / 3 * len(batch) / len(part) for part in parts for key in part) == pytest.approx(
                len(batch)
            )
    assert orders[0] == orders[2] != orders[1]
    counts = np.bincount(classes[[row for batch in orders[0] for row in batch]])
    assert counts.tolist() == ([20, 20] if sampling == "balanced" else [30, 10])


def test_a_batch_that_processes_cannot_share_is_a_mistake_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match="2 processes cannot share equally"):
        EpochBatches(None, np.zeros(4, dtype=np.int64), Tune(batch_size=5), 0, 2)


def test_a_training_image_looks_the_same_in_one_epoch_and_other_in_the_next(image_folder: Path) -> None:
    _, part = image_network(image_folder)

    def view(epoch: int, rows: list[int], augmentation: str = "strong") -> Any:
        found = collate(part, Tune(augmentation=augmentation, seed=3))([Key(epoch, row, 1.0) for row in rows])
        return found["pixels"].numpy()

    np.testing.assert_array_equal(view(1, [4, 5])[1], view(1, [5])[0])
    assert not np.array_equal(view(1, [5]), view(2, [5]))
    np.testing.assert_array_equal(view(1, [4, 5], "none"), part.examples.batch([4, 5])["pixels"])


def test_precision_that_the_machine_lacks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match=r"set tune\.precision to auto"):
        trained(folder, precision="fp16")


def test_bf16_on_the_cpu_keeps_weights_in_fp32(folder: Path) -> None:
    network, found = trained(folder, precision="bf16", epochs=1)
    assert found.details["precision"] == "bf16"
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_gradient_checkpointing_gives_the_same_weights(folder: Path) -> None:
    plain, _ = trained(folder, epochs=1)
    frugal, _ = trained(folder, epochs=1, gradient_checkpointing=True)
    assert sha256(frugal) == sha256(plain)
    assert not frugal.backbone.is_activation_checkpointing


def test_a_backbone_without_gradient_checkpointing_is_a_mistake_of_the_recipe(folder: Path) -> None:
    network, part, _ = text_network(folder)
    network.backbone.supports_gradient_checkpointing = False
    with pytest.raises(RecipeError, match="BertModel does not support"):
        train(network, part, Tune(**TEXT, gradient_checkpointing=True), "test")


def test_diverged_training_says_so(folder: Path) -> None:
    network, part, _ = text_network(folder)

    def loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return logits.sum() * float("nan")

    with pytest.raises(QualityError, match=r"lower tune\.learning_rate"):
        train(network, part, Tune(**TEXT), "test", loss=loss)


def test_tensorboard_gets_an_events_file(folder: Path, tmp_path: Path) -> None:
    trained(folder, {"runs": tmp_path / "runs"}, trackers=["tensorboard"], epochs=3)
    files = list((tmp_path / "runs").glob("events.out.tfevents.*"))
    assert len(files) == 1
    assert b"validation_metric" in files[0].read_bytes()


def test_a_tracker_that_is_not_installed_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="pip install mlflow"):
        trackers.callbacks(["mlflow"], tmp_path)


def test_a_finished_training_goes_on_at_its_end(folder: Path, tmp_path: Path) -> None:
    first, found = trained(folder, {"checkpoints": tmp_path}, early_stopping=1, averaging="ema")
    epochs: list[int] = []
    second, again = trained(
        folder,
        {"checkpoints": tmp_path, "on_epoch": lambda epoch, _: epochs.append(epoch)},
        early_stopping=1,
        averaging="ema",
    )
    assert sha256(second) == sha256(first)
    assert again == found
    assert epochs[:1] == [1]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    with checkpoints.writing(tmp_path, 3) as beside:
        (beside / "weights").write_text("3")
    left_behind = tmp_path / f".writing-{2**22 + 1}"  # no process has such an id
    left_behind.mkdir()
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(tmp_path, 4) as beside:
        (beside / "weights").write_text("half of 4")
        raise KeyboardInterrupt
    assert checkpoints.steps(tmp_path) == [3]
    with checkpoints.writing(tmp_path, 5):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    settings = ["averaging=swa", "early_stopping=2", "epochs=3"]
    found = json.loads(python(HERE / "kill_trainer.py", tmp_path, 1, 0, *settings).splitlines()[-1])
    assert 0 < found["killed_after_step"][0] < found["steps"]
    assert found["broken"] == found["unbroken"]


def test_two_processes_train_as_one_does(folder: Path, tmp_path: Path) -> None:
    """Gradients are summed in another order: weights agree to 1e-5, after steps of 1e-3."""
    expected, together = train_together.trained(folder).state_dict(), tmp_path / "together"
    script = train_together.__file__
    python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, script, folder, together)
    found = load_file(together)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0)


def python(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_tune_stage_is_for_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for verb in (pipeline.run, pipeline.search):
        with pytest.raises(UsageError, match="only the tune stage"):
            verb(tmp_path)


def test_several_processes_run_the_tune_stage(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "tldeploy", "tune", folder)
    manifest = artifacts.load(folder / "tuned", "tune")
    assert set(manifest.metrics) == {"feature-extraction", "fine-tuning"}
    assert not (folder / ".cache" / "training").exists()
    assert [path.name for path in folder.iterdir() if ".writing-" in path.name] == []


def test_a_rate_is_suggested_by_the_recipes_own_rows(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    suggestion, page = pipeline.find_rate(folder)
    assert 1e-4 < suggestion.rate < 1e-1
    assert f"{suggestion.rate:.1e}" in page.read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir() if path.name != ".cache") == [
        "backbone",
        "find-rate.html",
        "recipe.yaml",
        "reviews.csv",
    ]
