from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SwinConfig, SwinModel

from tldeploy.backbones.network import ImageNetwork
from tldeploy.errors import QualityError
from tldeploy.exporting import graph
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.image_classification import ImageClassification
from tldeploy.tasks.pixels import ImageEncoder

SIDE = 32


@pytest.fixture(scope="module")
def swin() -> ImageNetwork:
    """torch.export cannot follow how its attention is put together again when the batch is open."""
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4}
    backbone = SwinModel(SwinConfig(image_size=SIDE, **sizes))
    normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "rescale_factor": 1 / 255, "channels": "bgr"}
    return ImageNetwork(backbone, normalisation, 3).eval()


@pytest.fixture(scope="module")
def task() -> ImageClassification:
    return ImageClassification(["a", "b", "c"], ImageEncoder(image_size=SIDE))


def test_what_torch_does_not_follow_is_exported_with_the_patches_of_transformers(
    swin: ImageNetwork, task: ImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched, tried = graph._patched, []

    @contextlib.contextmanager
    def only_now() -> Iterator[None]:
        tried.append("without")
        with patched():
            yield

    monkeypatch.setattr(graph, "_patched", only_now)
    graph.export_graph(swin, task, tmp_path / "graph.onnx", 20, {})
    assert tried == ["without"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = swin.probabilities(pixels=torch.from_numpy(pixels)).numpy()
    with contextlib.closing(OnnxRunner(tmp_path / "graph.onnx", task)) as runner:
        for batch in (1, 3, 5):
            np.testing.assert_allclose(runner.run({"pixels": pixels[:batch]}), expected[:batch], atol=1e-5)


def test_what_is_not_exported_with_them_either_is_refused_with_the_first_reason(
    swin: ImageNetwork, task: ImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(("the batch is baked in", "the patches fail"))

    def fail(*given: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("advice") from ValueError(next(reasons))

    monkeypatch.setattr(graph, "_traced", fail)
    with pytest.raises(QualityError, match="the batch is baked in") as refused:
        graph.export_graph(swin, task, tmp_path / "graph.onnx", 20, {})
    assert "use another backbone" in refused.value.fix
    assert not (tmp_path / "graph.onnx").exists()
