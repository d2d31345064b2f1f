from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.tiny_project import FILLERS, WORDS, write_backbone, write_project, write_reviews
from tldeploy import pipeline
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Recipe


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside `backbone`, with random weights, one whose word vectors carry the class, and a broken one."""
    folder = write_project(tmp_path_factory.mktemp("rank") / "tiny")
    write_reviews(folder / "reviews.csv", rows=150)
    write_backbone(folder / "knowing")
    weights = load_file(folder / "knowing" / "model.safetensors")
    first = 4 + len(FILLERS)
    words = weights["embeddings.word_embeddings.weight"]
    for number, group in enumerate(WORDS.values()):
        words[first : first + len(group)] = 0
        words[first : first + len(group), number] = 3.0
        first += len(group)
    save_file(weights, folder / "knowing" / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(folder / "backbone", folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"cut off")
    return folder


def test_the_backbone_that_knows_the_classes_comes_first(project: Path) -> None:
    found = pipeline.rank(project, ["backbone", "broken", "knowing", "backbone"])
    assert [candidate.backbone for candidate in found] == ["knowing", "backbone", "broken"]
    best, other, broken = found
    assert best.score is not None
    assert other.score is not None
    assert best.score > other.score + 0.1
    assert (best.features, best.parameters) == (32, other.parameters)
    assert broken.score is None
    assert "corrupt" in str(broken.reason)


def test_the_table_says_what_the_score_means(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rank", str(project), str(project / "backbone"), "./nowhere/at/all"]
    assert execute(arguments) == 0
    table = capsys.readouterr().out
    assert "LogME is the log evidence" in table
    assert "./nowhere/at/all: there is no such folder" in table
    assert execute([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["score"] is None for row in answer["backbones"]] == [False, True]


def test_no_backbone_that_loads_is_an_error_with_every_reason(project: Path) -> None:
    with pytest.raises(ArtifactError, match=r"broken: .*corrupt.*\./no/such/folder"):
        pipeline.rank(project, ["broken", "./no/such/folder"])


def test_only_training_rows_are_looked_at(project: Path) -> None:
    recipe = Recipe.load(project)
    scores = []
    for name, rows in (("some.csv", "great,positive"), ("others.csv", "nonsense,neutral\nmore,negative")):
        (project / name).write_text(f"text,label\n{rows}\n", encoding="utf-8")
        data = recipe.data.model_copy(update={"validation": name, "test": name})
        scores.append(pipeline.rank(recipe.model_copy(update={"data": data}), ["backbone"])[0].score)
    assert scores[0] is not None
    assert scores[0] == scores[1]
