"""Repositories to make manifests for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.triton import handmade
from tldeploy.recipe import Deploy
from tldeploy.triton.repository import publish

GPU_CONFIG = handmade.put("count: 2 kind: KIND_CPU", "count: 1 kind: KIND_GPU gpus: [ 0, 1 ]")


@pytest.fixture(scope="session")
def repository(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a text model, the newer one of them served."""
    place = tmp_path_factory.mktemp("manifests") / "triton_repo"
    for instances in (1, 2):
        publish(tiny_export, place, "My_reviews", Deploy(queue_delay_us=500, instances=instances))
    return place


@pytest.fixture
def on_gpus(tmp_path: Path) -> Path:
    handmade.classifier(tmp_path / "gpu_models", GPU_CONFIG)
    return tmp_path / "gpu_models"
