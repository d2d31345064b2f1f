"""Adaptation of an image network: squares, and the same squares in the dark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.tiny_images import write_image_project, write_squares
from tests.tuning.adaptation.domains import make_job
from tldeploy.tuning.adaptation.adapt import Adapted, adapt
from tldeploy.tuning.fine_tuning import fine_tuning

ADAPT = "adapt: {file: dark, methods: [adabn, self-training, coral, pretraining]}\n"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = write_image_project(tmp_path_factory.mktemp("images") / "tiny")
    for path in write_squares(folder / "dark", per_class=20).rglob("*.*"):
        pixels = np.asarray(Image.open(path))
        Image.fromarray((pixels * 0.4).astype(np.uint8)).save(path)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + ADAPT, encoding="utf-8")
    loaded, job, target = make_job(folder, tmp_path_factory.mktemp("scratch"))
    assert loaded.adapt is not None
    return adapt(loaded.adapt, job, target, "fine-tuning", fine_tuning(job))


def test_every_method_for_images_is_a_candidate(adapted: Adapted) -> None:
    assert list(adapted.figures) == ["fine-tuning", "class shares", "adabn", "self-training", "coral"]
    assert adapted.figures["adabn"]["adapted_layers"] > 0
    assert all(0 <= found["test"]["value"] <= 1 for name, found in adapted.figures.items() if name != "fine-tuning")


def test_statistics_of_the_target_make_up_for_the_dark(adapted: Adapted) -> None:
    assert adapted.figures["adabn"]["test"]["value"] > adapted.figures["class shares"]["test"]["value"]


def test_masked_words_are_not_for_images(adapted: Adapted) -> None:
    assert [(c.about, c.reason) for c in adapted.decisions[:-1]] == [
        ("pretraining", "it is masked words that are learnt, and the rows are images")
    ]
