"""Whether clusters know the fields of what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.triton.manifests.made import chart_of, service_of
from tests.triton.manifests.templates import render

FIELDS = json.loads(Path(__file__).with_name("cluster_fields.json").read_text(encoding="utf-8"))


def objects_of(repository: Path, out: Path) -> list[dict[str, Any]]:
    everything = {"autoscaling.rowsPerSecond": 100, "monitoring.labels": {"release": "p"}, "nodeSelector": {"a": "b"}}
    secrets = {"imagePullSecrets": [{"name": "registry"}]}
    made = render(chart_of(repository, out / "chart"), everything | secrets)
    return [*made.values(), service_of(repository, out / "service")]


def unknown(found: Any, known: Any, path: str = "") -> Iterator[str]:
    """The paths of fields that are not among the known names. "*": any name will do."""
    if isinstance(found, list):
        for item in found:
            yield from unknown(item, known, path)
    elif isinstance(found, dict) and known != "*":
        for name, value in found.items():
            if not isinstance(known, dict) or name not in known:
                yield f"{path}.{name}"
            else:
                yield from unknown(value, known[name], f"{path}.{name}")


def test_every_field_is_one_that_is_published(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    kinds = set()
    for place in (repository, on_gpus):
        for made in objects_of(place, tmp_path / "out" / place.name):
            assert list(unknown(made, FIELDS[made["kind"]])) == []
            kinds.add(made["kind"])
    assert kinds == FIELDS.keys() - {"source"}


def test_a_misspelt_field_would_be_found() -> None:
    made = {"kind": "Service", "spec": {"ports": [{"name": "http", "targetport": 1}], "selector": {"any": "name"}}}
    assert list(unknown(made, FIELDS["Service"])) == [".spec.ports.targetport"]


def test_kubernetes_own_schemas_accept_every_object(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for place in (repository, on_gpus):
        for made in objects_of(place, tmp_path / "out" / place.name):
            if made["kind"] not in {"InferenceService", "ServiceMonitor"}:
                for version in ("1.25", "1.37"):
                    validator.validate(made, version, strict=True)


def test_helm_makes_the_same_of_the_chart(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    helm = pytest.importorskip("helm_python")
    for place in (repository, on_gpus):
        chart = chart_of(place, tmp_path / "out" / place.name)
        for values in ({}, {"autoscaling": {"enabled": False}, "monitoring": {"enabled": False}}):
            with helm.Chart.load(str(chart)) as loaded:
                made = loaded.render(values, name="demo", namespace="default")
            documents = {Path(name).name: yaml.safe_load(text) for name, text in made.items() if name.endswith(".yaml")}
            paths = {f"{name}.{key}": value for name, inner in values.items() for key, value in inner.items()}
            assert {name: found for name, found in documents.items() if found} == render(chart, paths)
