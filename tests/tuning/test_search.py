"""Searches of the tiny project, with real training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.tiny_project import RECIPE, write_project, write_reviews
from tldeploy import pipeline
from tldeploy.cli import execute
from tldeploy.errors import QualityError, RecipeError
from tldeploy.pipeline.learning import search_key
from tldeploy.recipe import Recipe
from tldeploy.tuning.study import Study

SEARCH = """\
tune:
  epochs: 1
  batch_size: 32
  search:
    space:
      learning_rate: [0.003, 0.0001]
      dropout: [0.0, 0.2]
    sampler: grid
"""


def write_search(folder: Path, tune: str = SEARCH) -> Path:
    before, _, rest = RECIPE.partition("tune:\n")
    text = f"{before}{tune}export: {{}}\n{rest[rest.index('deploy:') :]}"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("search") / "models" / "tiny")
    write_reviews(folder / "reviews.csv", rows=150)
    return write_search(folder)


@pytest.fixture(scope="module")
def searched(project: Path) -> pipeline.Searched:
    return pipeline.search(project)


def test_the_best_recipe_gives_the_figure_of_its_trial(searched: pipeline.Searched, project: Path) -> None:
    best = searched.trials[0]
    assert [trial.state for trial in searched.trials] == ["complete"] * 4
    assert best.value == max(trial.value or 0 for trial in searched.trials)
    assert len({trial.value for trial in searched.trials}) > 1
    assert searched.best == project / "search" / "best" / "recipe.yaml"
    recipe = Recipe.load(searched.best)
    assert recipe.name == "tiny-best"
    assert recipe.tune.search is None
    assert (recipe.tune.learning_rate, recipe.tune.dropout) == (
        best.settings["learning_rate"],
        best.settings["dropout"],
    )
    assert recipe.path(recipe.deploy.repository) == project / "triton_repo"
    outcome = pipeline.tune(searched.best)
    assert outcome.manifest.metrics["fine-tuning"]["validation"]["value"] == best.value


def test_the_best_recipe_says_what_was_found_and_how_good_it_is(searched: pipeline.Searched) -> None:
    text = searched.best.read_text(encoding="utf-8")
    words = " ".join(text.replace("#", " ").split())  # comments are broken into lines
    assert "# found among 0.003, 0.0001" in text
    assert f"{searched.trials[0].value:.4f}" in words
    assert "best of 4" in words


def test_a_search_that_is_done_trains_nothing_and_keeps_what_a_person_changed(
    searched: pipeline.Searched, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = searched.best.read_text(encoding="utf-8")
    searched.best.write_text(before + "# mine\n", encoding="utf-8")
    try:
        assert execute(["search", str(project), "--json"]) == 0
        shown = capsys.readouterr()
        answer = json.loads(shown.out.splitlines()[-1])
        assert answer["best"] == str(project / "search" / "best-2" / "recipe.yaml")
        assert [trial["number"] for trial in answer["trials"]] == [trial.number for trial in searched.trials]
        assert "search: trial" not in shown.err
        assert searched.best.read_text(encoding="utf-8") == before + "# mine\n"
    finally:
        searched.best.write_text(before, encoding="utf-8")


def test_the_table_and_the_page_show_the_trials(
    searched: pipeline.Searched, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["search", str(project)]) == 0
    table = capsys.readouterr().out
    assert "complete" in table
    assert f"{searched.trials[0].value:.4f}" in table
    page = searched.page.read_text(encoding="utf-8")
    assert "tiny: 4 trials" in page
    assert all(f"plot-{number}" in page for number in range(3))
    assert "What mattered" in page


def test_held_out_rows_may_be_anything(searched: pipeline.Searched, tmp_path: Path) -> None:
    """The same rows to learn from and to choose by, other test rows: the same figures."""
    folder = write_project(tmp_path / "tiny")
    write_reviews(folder / "reviews.csv", rows=90)
    values = []
    for name in ("one", "two"):
        lines = write_reviews(folder / f"{name}.csv", rows=30).read_text(encoding="utf-8").splitlines()
        if name == "two":
            lines = [lines[0], *(f"nonsense {number},neutral" for number in range(8))]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_search(folder, SEARCH.replace("[0.003, 0.0001]", "[0.003]").replace("[0.0, 0.2]", "[0.1]"))
        recipe = folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("test: 0.3", f"test: {name}.csv"), encoding="utf-8")
        values.append(pipeline.search(folder).trials[0].value)
    assert values[0] == values[1]


def test_a_changed_recipe_or_changed_rows_are_another_study(project: Path) -> None:
    recipe = Recipe.load(project)
    keys = {search_key(recipe, None)}
    for changed in (
        recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"epochs": 2})}),
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"seed": 1})}),
        recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"max_length": 16})}),
    ):
        keys.add(search_key(changed, None))
    assert len(keys) == 4
    more = recipe.tune.model_copy(update={"search": recipe.tune.search.model_copy(update={"trials": 99})})  # type: ignore[union-attr]
    searched_setting = recipe.tune.model_copy(update={"learning_rate": 0.5, "methods": ["fine-tuning"]})
    for same in (more, searched_setting):
        assert search_key(recipe.model_copy(update={"tune": same}), None) in keys


def test_a_search_in_which_all_diverges_says_why(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "tiny")
    write_reviews(folder / "reviews.csv", rows=60)
    wild = SEARCH.replace("[0.003, 0.0001]", "[0.99]").replace("[0.0, 0.2]", "[0.0]\n      weight_decay: [1.0e+30]")
    write_search(folder, wild.replace("epochs: 1", "epochs: 4"))
    with pytest.raises(QualityError, match="no trial came to its end: training diverged"):
        pipeline.search(folder)


@pytest.mark.parametrize(
    ("tune", "found"),
    [
        ("tune:\n  epochs: 1\n", "no section tune.search"),
        (SEARCH.replace("[0.0, 0.2]", "[0.0, 2]"), "tune.search.space.dropout: found 2, expected"),
    ],
)
def test_a_search_that_cannot_be_is_one_clear_error(tune: str, found: str, project: Path, tmp_path: Path) -> None:
    folder = write_search(tmp_path, tune)
    with pytest.raises(RecipeError) as caught:
        pipeline.search(folder)
    assert found in caught.value.found
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_results_are_plain_values(searched: pipeline.Searched) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(searched.trials[0])))["settings"] == searched.trials[0].settings


class Hopeless:
    """A trial that is to be pruned after its first epoch."""

    number = 0

    def __init__(self, params: dict[str, object]) -> None:
        self.params = params
        self.reported: list[float] = []

    def report(self, value: float, epoch: int) -> None:
        self.reported.append(value)

    def should_prune(self) -> bool:
        return True

    def set_user_attr(self, name: str, value: object) -> None: ...


@pytest.mark.parametrize("method", ["fine-tuning", "lora"])
def test_a_hopeless_trial_ends_after_the_epoch_that_shows_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    asked: list[Hopeless] = []

    def run(self: Study, objective: Callable[[Any], float]) -> None:
        asked.append(Hopeless(self.space.grid()[0]))
        with pytest.raises(optuna.TrialPruned):
            objective(asked[0])

    monkeypatch.setattr(Study, "run", run)
    three = SEARCH.replace("epochs: 1", "epochs: 3").replace("sampler: grid", f"method: {method}")
    write_search(project, three)
    try:
        with pytest.raises(QualityError, match="all were pruned"):
            pipeline.search(project)
    finally:
        write_search(project)
    assert len(asked[0].reported) == 1
