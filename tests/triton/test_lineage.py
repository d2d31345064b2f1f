"""A trace from the served graph back to the recipe, with the artifacts there, changed, made again, and gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import LABELS, write_export
from tests.tiny_project import RECIPE
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest, file_sha256
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.triton.lineage import Link, Trace, trace
from tldeploy.triton.repository import publish

CHAIN = ["graph", "deploy", "export", "tune", "rows, train", "rows, validation", "rows, test", "fetch", "recipe"]
METRIC = {"value": 0.9, "low": 0.8, "high": 0.95}


def write_fetched(folder: Path) -> Manifest:
    with artifacts.writing(folder) as new:
        (new / "reviews.csv").write_text("text,label\n")
        return artifacts.seal(new, Manifest(kind="fetch", name="tiny", inputs="f"))


def write_tuned(folder: Path, fetched: Manifest, content: str = "network") -> Manifest:
    with artifacts.writing(folder) as new:
        for name in ("train", "validation", "test"):
            (new / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
        (new / "model.safetensors").write_text(content)
        manifest = Manifest(
            kind="tune",
            name="tiny",
            inputs="t",
            labels=list(LABELS),
            metrics={"fine-tuning": {"validation": METRIC}, "feature-extraction": {"validation": METRIC}},
            parents={"fetch": fetched.sha256},
            details={"kept": "fine-tuning", "backbone": "backbone"},
            environment={"packages": {"torch": "2.13"}},
        )
        return artifacts.seal(new, manifest)


def adopt(export: Path, tuned: Manifest) -> None:
    """Make the tiny export a child of the tuned network."""
    manifest = artifacts.load(export, "export")
    changed = manifest.model_copy(update={"parents": {"tune": tuned.sha256}, "metrics": {"f1": METRIC}})
    artifacts.seal(export, changed)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe's folder with every artifact, published to triton_repo beside them."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    tuned = write_tuned(folder / "tuned", write_fetched(folder / "data"))
    adopt(write_export(folder / "onnx"), tuned)
    pipeline.deploy(folder)
    return folder


def follow(project: Path, version: int | None = None) -> Trace:
    return trace(project / "triton_repo", "tiny", version)


def link(project: Path, what: str) -> Link:
    return next(link for link in follow(project).links if link.what == what)


def states(project: Path) -> dict[str, str]:
    """Of the links that are not intact."""
    return {link.what: link.state for link in follow(project).links if link.state != "intact"}


def test_the_chain_is_whole_and_names_every_hash(project: Path) -> None:
    found = follow(project)
    assert [link.what for link in found.links] == CHAIN
    assert states(project) == {}
    sha256 = {link.what: link.sha256 for link in found.links}
    assert sha256["graph"] == file_sha256(project / "triton_repo" / "tiny.graph" / "1" / "model.onnx")
    assert sha256["graph"] == file_sha256(project / "onnx" / "int8-dynamic.onnx")
    assert sha256["rows, test"] == file_sha256(project / "tuned" / "test.jsonl")
    for kind, folder in (("export", "onnx"), ("tune", "tuned"), ("fetch", "data")):
        assert sha256[kind] == artifacts.load(project / folder, kind).sha256


def test_metrics_and_versions_are_shown(project: Path) -> None:
    assert link(project, "export").facts["metrics"] == {"f1": METRIC}
    tuned = link(project, "tune").facts
    assert tuned["metrics"] == {"validation": METRIC}
    assert (tuned["method"], tuned["packages"]) == ("fine-tuning", {"torch": "2.13"})


def test_what_is_gone_is_shown_as_it_was_recorded(project: Path) -> None:
    before = follow(project)
    for folder in ("onnx", "tuned", "data"):
        shutil.rmtree(project / folder)
    (project / "recipe.yaml").unlink()
    after = follow(project)
    assert [(link.what, link.sha256, link.facts) for link in after.links] == [
        (link.what, link.sha256, link.facts) for link in before.links
    ]
    assert [link.state for link in after.links] == ["intact"] * 2 + ["gone"] * 7


def test_what_was_made_again_or_changed_is_told_apart(project: Path) -> None:
    write_tuned(project / "tuned", artifacts.read(project / "data", "fetch"), content="another")
    assert states(project) == {"tune": "replaced"}
    (project / "onnx" / "fp32.onnx").write_bytes(b"damaged")
    (project / "tuned" / "test.jsonl").write_text("")
    assert states(project) == {"tune": "replaced", "export": "damaged", "rows, test": "damaged"}
    (project / "triton_repo" / "tiny.graph" / "1" / "model.onnx").write_bytes(b"damaged")
    assert states(project).items() >= {"graph": "damaged", "deploy": "damaged"}.items()


def test_a_comment_in_the_recipe_is_no_change_but_a_setting_is(project: Path) -> None:
    (project / "recipe.yaml").write_text("# mine\n" + RECIPE)
    assert states(project) == {}
    (project / "recipe.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 3"))
    assert states(project) == {"recipe": "replaced"}


def test_recipe_and_repository_can_be_moved_together(project: Path) -> None:
    moved = project.rename(project.with_name("moved"))
    assert states(moved) == {}


def test_a_tuned_network_made_again_before_deploying_is_not_taken_for_the_parent(project: Path) -> None:
    parent = artifacts.load(project / "onnx", "export").parents["tune"]
    write_tuned(project / "tuned", artifacts.read(project / "data", "fetch"), content="another")
    pipeline.deploy(project, force=True)
    found = follow(project)
    tuned = found.links[3]
    assert (tuned.what, tuned.sha256, tuned.state) == ("tune", parent, "replaced")
    assert [link.what for link in found.links] == ["graph", "deploy", "export", "tune", "recipe"]


def test_an_older_version_is_traced_by_its_own_record(project: Path) -> None:
    first = artifacts.load(project / "onnx", "export").sha256
    adopt(write_export(project / "onnx", seed=1), artifacts.read(project / "tuned", "tune"))
    pipeline.deploy(project)
    assert (follow(project).version, follow(project).live) == (2, True)
    old = follow(project, 1)
    assert (old.version, old.live) == (1, False)
    assert [(link.sha256, link.state) for link in old.links if link.what == "export"] == [(first, "replaced")]
    with pytest.raises(ArtifactError, match=r"it is not kept \(kept: 1, 2\)"):
        follow(project, 9)


def test_what_was_published_without_a_recipe_still_names_its_export(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    found = trace(tmp_path / "repo", "tiny").links
    assert [link.what for link in found] == ["graph", "deploy", "export"]
    assert found[-1].sha256 == artifacts.load(tiny_export, "export").sha256


def test_the_verb_shows_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(project / "triton_repo")
    capsys.readouterr()
    assert execute(["trace", "tiny", "--repository", place, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [link["what"] for link in answer["links"]] == CHAIN
    assert execute(["trace", "tiny", "--repository", place]) == 0
    shown = capsys.readouterr().out
    assert "tiny, version 1, is live" in shown
    assert "export, metrics: f1 0.900 [0.800, 0.950]" in shown
    assert execute(["trace", "other", "--repository", place]) == 5
