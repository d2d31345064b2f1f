"""What is measured is what will be served: the arena's configurations against those that are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_export
from tldeploy.recipe import Cuda, Deploy
from tldeploy.triton import config
from tldeploy.triton.config import CONFIG_FILE
from tldeploy.triton.fitting.arena import NAME, configs, publish_to_measure
from tldeploy.triton.fitting.goals import Running
from tldeploy.triton.repository import publish

OTHER = Running(instances=2, threads=1, step_instances=1, queue_delay_us=500, preferred_batch_sizes=(2,))
MEASURED = {"options": {"use_tf32": "1", "prefer_nhwc": "1", "cudnn_conv_algo_search": "EXHAUSTIVE"}}
Export = Callable[..., Path]


@pytest.fixture
def exported(tmp_path: Path) -> Export:
    def write(chosen: str, **details: Any) -> Path:
        variants = [{"name": chosen, "file": "fp32.onnx", "size_bytes": 1}]
        return write_export(tmp_path / "onnx", padded_lengths={"16": 3}, chosen=chosen, variants=variants, **details)

    return write


def graph_measured_and_published(export: Path, settings: Deploy, running: Running, folder: Path) -> tuple[Any, Any]:
    """The graph's two configurations; those of the step are the same."""
    publication = publish_to_measure(export, folder / "private", settings)
    publish(export, folder / "triton_repo", NAME, running.within(settings))
    step, graph = configs(publication, running)
    there = [config.read(folder / "triton_repo" / each.name / CONFIG_FILE) for each in (step, graph)]
    del step.model_warmup[:], there[0].model_warmup[:]
    assert step == there[0]
    return graph, there[1]


@pytest.mark.parametrize("running", [None, OTHER], ids=["as the recipe", "otherwise"])
@pytest.mark.parametrize(
    ("settings", "chosen", "details", "expected"),
    [
        (Deploy(), "fp32", {"target": "cuda"}, {"cuda": {"use_tf32": "0"}}),
        (Deploy(device="cuda"), "fp32", {}, {"cuda": {"use_tf32": "0"}}),
        (
            Deploy(device="tensorrt"),
            "fp16",
            {"target": "cuda"},
            {"tensorrt": {"precision_mode": "FP16"}, "cuda": {"use_tf32": "0"}},
        ),
        (
            Deploy(device="cuda", cuda=Cuda(gpus=[0, 1])),
            "fp32",
            {"target": "cuda", "session": MEASURED},
            {"cuda": {"use_tf32": "1", "prefer_nhwc": "1"}},
        ),
    ],
    ids=["by the export", "cuda", "tensorrt", "as measured"],
)
def test_what_is_measured_on_a_gpu_is_what_is_published(
    settings: Deploy,
    chosen: str,
    details: dict[str, Any],
    expected: dict[str, Any],
    running: Running | None,
    exported: Export,
    tmp_path: Path,
) -> None:
    running = running or Running.of(settings)
    measured, there = graph_measured_and_published(exported(chosen, **details), settings, running, tmp_path)
    assert measured == there
    (group,) = measured.instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_GPU, settings.cuda.gpus if settings.cuda else [0])
    accelerators = measured.optimization.execution_accelerators.gpu_execution_accelerator
    assert {each.name: dict(each.parameters) for each in accelerators} == expected
    assert {sample.batch_size for sample in measured.model_warmup} == {1, measured.max_batch_size}


def test_algorithms_are_looked_for_as_they_will_be(exported: Export, tmp_path: Path) -> None:
    """For batches of two at most each one is tried, as all of their shapes are warmed up."""
    export = exported("fp32", target="cuda", session=MEASURED)
    measured, there = graph_measured_and_published(export, Deploy(max_batch_size=2), OTHER, tmp_path)
    assert measured == there
    assert measured.parameters["cudnn_conv_algo_search"].string_value == "0"


def test_on_a_cpu_only_what_warms_it_up_differs(exported: Export, tmp_path: Path) -> None:
    measured, there = graph_measured_and_published(exported("fp32"), Deploy(), OTHER, tmp_path)
    assert (len(measured.model_warmup), len(there.model_warmup)) == (0, 1)
    del there.model_warmup[:]
    assert measured == there
    assert measured.instance_group[0].kind == measured.instance_group[0].KIND_CPU
