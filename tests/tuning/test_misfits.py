"""A mistake in the recipe is one error before anything is trained; what a network cannot do is no mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.adaptation.domains import RECIPE, write_domains
from tests.tuning.job import make_job, write_text_recipe
from tldeploy import artifacts, pipeline
from tldeploy.artifacts import Manifest
from tldeploy.backbones.network import Network
from tldeploy.errors import ArtifactError, DataError, RecipeError
from tldeploy.tuning.misfits import refuse_misfits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside it lies a teacher of other classes."""
    folder = write_text_recipe(tmp_path_factory.mktemp("models") / "student")
    with artifacts.writing(folder.parent / "other" / "tuned") as new:
        kept = {"kind": "tune", "name": "other", "inputs": "", "task": "text-classification", "labels": ["a", "b"]}
        artifacts.seal(new, Manifest.model_validate(kept))
    return folder


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        ("feature-extraction", {"freeze": ["layer 7"]}, "take the layers `layer 7`"),
        ("feature-extraction", {"rates": {"laier *": 0.1}}, r"'laier \*' matches no group and no parameter"),
        ("fine-tuning", {"rates": {"*": 0.0}}, "leave nothing, not even the head, to learn"),
        ("lora", {"lora": {"targets": ["qeury"]}}, "put adapters beside the layers qeury"),
        ("lora", {"freeze": ["*query.weight"]}, r"take the layers `\*query\.weight`"),  # an adapter took its place
        ("distillation", {"distillation": {"teacher": "../other"}}, "its labels are a, b"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    folder: Path, methods: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        refuse_misfits(make_job(folder, methods=[methods], **settings))


def test_a_teacher_that_is_not_tuned_is_missed_before_the_first_method_is_run(folder: Path) -> None:
    with pytest.raises(ArtifactError):
        refuse_misfits(make_job(folder, methods=["fine-tuning", "distillation"], distillation={"teacher": "../none"}))


def test_classes_that_are_too_small_for_few_shot_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="classes with fewer training rows: 'negative'"):
        refuse_misfits(make_job(folder, methods=["few-shot"], few_shot={"rows_per_class": 150}))


def test_a_backbone_without_gradient_checkpointing_is_refused(folder: Path) -> None:
    job = make_job(folder, gradient_checkpointing=True)
    refuse_misfits(job)
    job.network.backbone.supports_gradient_checkpointing = False
    with pytest.raises(RecipeError, match="BertModel does not support"):
        refuse_misfits(job)


def test_what_fits_leaves_the_network_as_it_was(folder: Path) -> None:
    job = make_job(folder, methods=["fine-tuning", "lora"], freeze=["embeddings"], rates={"layer 0": 0.5})
    refuse_misfits(job)
    assert names(job.network) == names(make_job(folder).network)


def names(network: Network) -> list[tuple[str, bool]]:
    return [(name, parameter.requires_grad) for name, parameter in network.named_parameters()]


@pytest.mark.parametrize("setting", ["freeze: [layer 7]", "rates: {layer 7: 0.1}"])
def test_a_wrong_pattern_is_refused_where_only_the_adaptation_would_heed_it(
    tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.replace("methods: [fine-tuning]", f"methods: [feature-extraction], {setting}")
    folder = write_domains(tmp_path / "moved", recipe)
    with pytest.raises(RecipeError, match="layer 7"):
        pipeline.tune(folder)
    assert "not possible" not in capsys.readouterr().err
    assert not list((folder / ".cache").glob("features-*"))
    assert not (folder / "tuned").exists()
