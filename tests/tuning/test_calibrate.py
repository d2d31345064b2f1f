from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_project import write_project
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest
from tldeploy.backbones.network import load_network
from tldeploy.data.rows import Rows
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks import load_task
from tldeploy.tuning.calibrate import words


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Too few epochs and a wide head's dropout: a network that is wrong often enough to have a temperature."""
    folder = write_project(tmp_path_factory.mktemp("job") / "tiny")
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8").replace("epochs: 2", "epochs: 1\n  methods: [feature-extraction]")
    recipe.write_text(f"{text}export:\n  variants: [fp32]\n", encoding="utf-8")
    pipeline.tune(folder)
    pipeline.export(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(project: Path) -> Manifest:
    return artifacts.load(project / "tuned", "tune")


def test_the_exported_graph_divides_by_the_temperature(project: Path, manifest: Manifest) -> None:
    task = load_task(manifest.task, project / "onnx", manifest.labels)
    rows = Rows.load(project / "tuned" / "test.jsonl").inputs[:32]
    temperature = manifest.details["calibration"]["temperature"]
    assert temperature != 1
    network = load_network(project / "tuned")
    with torch.inference_mode():
        logits = network(**{name: torch.from_numpy(values) for name, values in task.encode(rows).items()})
    expected = torch.softmax(logits / temperature, dim=-1).numpy()
    np.testing.assert_allclose(OnnxRunner(project / "onnx" / "fp32.onnx", task).predict(rows), expected, atol=1e-5)


def test_the_temperature_is_the_best_one_on_validation_rows_and_is_explained(manifest: Manifest) -> None:
    found = manifest.details["calibration"]
    assert found["validation"]["nll_after"] < found["validation"]["nll_before"]
    reason = next(choice.reason for choice in manifest.decisions if choice.about == "temperature")
    assert f"{found['test']['ece_before']:.3f} before, {found['test']['ece_after']:.3f} after" in reason


def test_no_fit_is_claimed_where_no_validation_row_is_answered_wrong() -> None:
    perfect = {"ece_before": 0.389, "ece_after": 0.389}
    assert words({"temperature": 1.0, "test": perfect}) == (
        "not calibrated: no validation row is answered wrong, so that any surer answer would look better; expected "
        "calibration error on held-out rows 0.389"
    )


def test_calibration_can_be_left_out(project: Path) -> None:
    recipe = project / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    recipe.write_text(before.replace("epochs: 1", "epochs: 1\n  calibration: false"), encoding="utf-8")
    try:
        manifest = pipeline.tune(project).manifest
        assert "calibration" not in manifest.details
        assert load_network(project / "tuned").temperature == 1
    finally:
        recipe.write_text(before, encoding="utf-8")
        pipeline.tune(project)
