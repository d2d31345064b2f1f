"""What trains, and how it computes there: decided by the recipe and by what PyTorch says that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tuning.tiny_part import text_network
from tldeploy.errors import MachineError
from tldeploy.recipe import Tune
from tldeploy.tuning import precision
from tldeploy.tuning.batches import Batches
from tldeploy.tuning.device import chosen, computing, device
from tldeploy.tuning.order import EpochBatches
from tldeploy.tuning.training import train

CARD = "NVIDIA H200"


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch says of a GPU; `old` knows neither bf16 nor TF32."""
    kind: str | None = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: kind == "new")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place=None: CARD)


@pytest.mark.parametrize(
    ("gpu", "asked", "place", "name"),
    [
        (None, "auto", "cpu", "cpu"),
        (None, "cpu", "cpu", "cpu"),
        ("new", "auto", "cuda", CARD),
        ("new", "cuda", "cuda", CARD),
        ("new", "cpu", "cpu", "cpu"),
    ],
    indirect=["gpu"],
)
@pytest.mark.usefixtures("gpu")
def test_the_recipe_rules_over_what_is_there(asked: Any, place: str, name: str) -> None:
    with computing(asked):
        assert device().type == place
        assert chosen().value == name
        assert (chosen().reason == "asked for") == (asked != "auto")
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("gpu", [None], indirect=True)
@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_pytorch_does_not_find_is_no_silent_cpu() -> None:
    with computing("cuda"), pytest.raises(MachineError, match="finds no GPU"):
        device()


@pytest.mark.parametrize(
    ("gpu", "asked", "expected", "name"),
    [
        (None, "auto", {"use_cpu": True, "bf16": False, "fp16": False, "tf32": False}, "fp32"),
        (None, "bf16", {"use_cpu": True, "bf16": True, "fp16": False, "tf32": False}, "bf16"),
        ("old", "auto", {"use_cpu": False, "bf16": False, "fp16": False, "tf32": False}, "fp32"),
        ("old", "fp16", {"use_cpu": False, "bf16": False, "fp16": True, "tf32": False}, "fp16"),
        ("new", "auto", {"use_cpu": False, "bf16": True, "fp16": False, "tf32": True}, "bf16"),
        ("new", "fp32", {"use_cpu": False, "bf16": False, "fp16": False, "tf32": False}, "fp32"),
        ("new", "tf32", {"use_cpu": False, "bf16": False, "fp16": False, "tf32": True}, "tf32"),
        ("new", "fp16", {"use_cpu": False, "bf16": False, "fp16": True, "tf32": False}, "fp16"),
    ],
    indirect=["gpu"],
)
@pytest.mark.usefixtures("gpu")
def test_precision_follows_from_the_recipe_and_the_card(asked: Any, expected: dict[str, Any], name: str) -> None:
    found = precision.arguments(Tune(precision=asked))
    assert (found, precision.name(found)) == (expected, name)


@pytest.mark.parametrize(
    ("gpu", "settings", "found"),
    [
        (None, {"precision": "tf32"}, "needs a CUDA GPU"),
        (None, {"precision": "fp16"}, "needs a CUDA GPU"),
        ("new", {"precision": "tf32", "device": "cpu"}, "it is the CPU that trains"),
        ("old", {"precision": "tf32"}, f"tf32, which {CARD} does not have"),
        ("old", {"precision": "bf16"}, f"bf16, which {CARD} does not have"),
    ],
    indirect=["gpu"],
)
@pytest.mark.usefixtures("gpu")
def test_a_precision_that_is_not_to_be_had_is_refused(settings: dict[str, Any], found: str) -> None:
    tune = Tune(**settings)
    with computing(tune.device), pytest.raises(MachineError) as caught:
        precision.arguments(tune)
    assert found in caught.value.found
    assert "set tune.precision to auto" in caught.value.fix


def settings_of_pytorch() -> tuple[Any, ...]:
    return (
        torch.backends.fp32_precision,
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.parametrize("asked", [True, False])
def test_tf32_ends_with_the_training_that_asked_for_it(asked: bool) -> None:
    before = settings_of_pytorch()
    with precision.products({"tf32": asked}):
        assert settings_of_pytorch() == ("none", "high" if asked else "highest", asked, asked)
        # As TrainingArguments does on a GPU; by itself it makes PyTorch's older getters raise.
        torch.backends.fp32_precision = "tf32" if asked else "ieee"
        assert settings_of_pytorch()[1:] == ("high" if asked else "highest", asked, asked)
    assert settings_of_pytorch() == before


def test_a_caller_may_have_set_tf32_by_either_way() -> None:
    torch.backends.fp32_precision = "tf32"
    try:
        with precision.products({"tf32": False}):
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = "none"


@pytest.mark.parametrize("gpu", ["new"], indirect=True)
@pytest.mark.usefixtures("gpu")
def test_memory_is_pinned_for_a_gpu_only(tmp_path: Path) -> None:
    _, part, _ = text_network(tmp_path)
    order = EpochBatches(part.examples.lengths, part.classes, Tune())
    for asked, pinned in (("auto", True), ("cpu", False)):
        with computing(asked):  # type: ignore[arg-type]
            assert Batches(part, Tune(), order).pin_memory == pinned


@pytest.mark.parametrize("gpu", ["new"], indirect=True)
def test_a_network_is_trained_on_the_cpu_beside_a_gpu(tmp_path: Path, gpu: None) -> None:
    network, part, _ = text_network(tmp_path)
    with computing("cpu"):
        found = train(network, part, Tune(epochs=1, batch_size=8), "test")
    assert {weight.device.type for weight in network.parameters()} == {"cpu"}
    assert found.details["precision"] == "fp32"


def test_without_a_compiler_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    network, part, _ = text_network(tmp_path)
    with computing("cpu"), pytest.raises(MachineError) as caught:
        train(network, part, Tune(compile=True), "test")
    assert caught.value.found == "tune.compile is true, and there is no C++ compiler no-such-compiler"
    assert "apt-get install g++" in caught.value.fix


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch's own compiler imports
def test_a_compiled_network_learns_what_another_learns(tmp_path: Path) -> None:
    weights = []
    for compiled in (False, True):
        network, part, _ = text_network(tmp_path)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # compiled, it draws others
        found = train(network, part, Tune(compile=compiled, epochs=1, batch_size=8), "test")
        assert found.details.get("compiled", False) == compiled
        weights.append(torch.cat([weight.detach().flatten() for weight in network.parameters()]).numpy())
    np.testing.assert_allclose(*weights, atol=1e-4)
