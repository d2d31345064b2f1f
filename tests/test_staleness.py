from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tldeploy import artifacts, environment
from tldeploy.artifacts import Manifest
from tldeploy.staleness import why_again

MACHINE = {"cpu": "AMD EPYC", "cores": 2, "gpus": [], "packages": {"torch": "2.13.0", "onnx": "1.23.0"}}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with a file, of another one, made on a machine like this one."""
    monkeypatch.setattr(environment, "describe", lambda: MACHINE)
    (tmp_path / "report.json").write_text("{}", encoding="utf-8")
    parents = {"tune": "a" * 64, "export": "b" * 64}
    artifacts.seal(tmp_path, Manifest(kind="bench", name="job", inputs="0", environment=MACHINE, parents=parents))
    return tmp_path


def why(folder: Path, export: str = "b" * 64) -> str:
    return why_again(folder, "bench", {"tune": "a" * 64, "export": export}, True, "the recipe's `bench`, or tldeploy")


def test_there_is_nothing_to_say_where_there_is_no_artifact(tmp_path: Path) -> None:
    assert why(tmp_path) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"cores": 1}, "cores 2 → 1"),
        ({"gpus": [{"name": "H100", "driver": "580"}]}, "gpus none → H100"),
        ({"packages": {"torch": "2.14.0"}}, "torch 2.13.0 → 2.14.0; onnx 1.23.0 → none"),
        ({}, "the recipe's `bench`, or tldeploy changed"),
    ],
)
def test_what_changed_of_the_machine_is_named(
    made: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(environment, "describe", lambda: MACHINE | now)
    assert why(made) == said


def test_another_parent_is_named(made: Path) -> None:
    assert why(made, export="c" * 64) == "the export artifact is another one"


def test_damage_is_named(made: Path) -> None:
    (made / "report.json").unlink()
    assert why(made) == "report.json is missing"
