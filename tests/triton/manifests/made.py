"""Manifests as they are written, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.triton import handmade
from tests.triton.manifests.templates import render
from tldeploy import serving

IMAGE, STORAGE = "registry.example.com/reviews:1", "s3://models/triton_repo"
OPEN_THREADS = handmade.put('parameters { key: "intra_op_thread_count" value { string_value: "4" } }\n', "")


def chart_of(repository: Path, out: Path, image: str = IMAGE) -> Path:
    serving.manifests(repository, "helm", out, image)
    return next(out.iterdir())


def service_of(repository: Path, out: Path, image: str = IMAGE) -> dict[str, Any]:
    serving.manifests(repository, "kserve", out, image, STORAGE)
    service: dict[str, Any] = yaml.safe_load((out / "inference-service.yaml").read_text(encoding="utf-8"))
    return service


def container_of(chart: Path, values: dict[str, Any] | None = None) -> dict[str, Any]:
    container: dict[str, Any]
    (container,) = render(chart, values)["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    return container
