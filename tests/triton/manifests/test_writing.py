"""Errors, files that are there, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.triton import handmade
from tests.triton.manifests.made import IMAGE, STORAGE
from tldeploy import serving
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, MachineError, QualityError, TldeployError, UsageError
from tldeploy.triton.manifests.writing import Kind


def broken(place: Path) -> None:
    handmade.classifier(place, handmade.put("TYPE_FP32", "TYPE_INT32"))


def unparsable(place: Path) -> None:
    (handmade.python_model(place) / "1" / "model.py").write_text("def f(:\n")


def needing_what_is_not_here(place: Path) -> None:
    (handmade.python_model(place) / "1" / "model.py").write_text("import module_that_nobody_has\n")


@pytest.mark.parametrize(
    ("write", "kind", "said"),
    [
        (lambda place: None, ArtifactError, "no such folder"),
        (lambda place: place.mkdir(), ArtifactError, "no model is in it"),
        (broken, QualityError, "a server would refuse it: classifier/config.pbtxt"),
        (unparsable, ArtifactError, "no Python that this version reads"),
        (needing_what_is_not_here, MachineError, "crop imports module_that_nobody_has, which is not installed here"),
        (lambda place: handmade.classifier(place.parent).rename(place), UsageError, "it is a model, not a repository"),
    ],
)
@pytest.mark.parametrize("wanted", ["docker", "helm", "kserve"])
def test_a_repository_that_cannot_be_served_is_one_clear_error(
    wanted: Kind, write: Any, kind: type[TldeployError], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "models")
    with pytest.raises(kind, match=re.escape(said)) as raised:
        serving.manifests(tmp_path / "models", wanted, tmp_path / "out", IMAGE, STORAGE)
    assert raised.value.fix
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_repository_or_a_file(on_gpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a server would take it for a model"):
        serving.manifests(on_gpus, "docker", on_gpus / "manifests")
    assert [path.name for path in on_gpus.iterdir()] == ["classifier"]
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="file is a file"):
            serving.manifests(on_gpus, "docker", out)


@pytest.mark.parametrize("kind", ["docker", "helm", "kserve"])
def test_what_was_changed_by_hand_is_kept_unless_told(kind: Kind, repository: Path, tmp_path: Path) -> None:
    first = serving.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    again = serving.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    assert (again.written, again.unchanged) == ((), first.written)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ours, removed = tmp_path / first.written[0], tmp_path / first.written[-1]
    ours.write_text("# mine\n")
    if removed != ours:
        removed.unlink()
    with pytest.raises(UsageError, match=f"other files already: {first.written[0]}\n"):
        serving.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    assert ours.read_text() == "# mine\n"
    assert removed == ours or not removed.exists()
    serving.manifests(repository, kind, tmp_path, IMAGE, STORAGE, force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_command_says_what_it_wrote(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["manifests", str(repository), "--for", "docker", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["written"] == ["Dockerfile", "Dockerfile.dockerignore"]
    assert (answer["for"], answer["models"], answer["gpus"]) == ("docker", ["My_reviews"], 0)
    assert (tmp_path / "manifests" / "Dockerfile").is_file()
    assert execute(["manifests", str(repository), "--for", "docker"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("unchanged: manifests/Dockerfile\n")
    assert "next: docker build -t my-reviews -f manifests/Dockerfile " in shown
    assert execute(["manifests", str(repository), "--for", "kserve"]) == 2
