from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import Trial, TrialState

from tests.tuning.sharer import open_study
from tldeploy.errors import QualityError
from tldeploy.recipe import Search
from tldeploy.tuning.study import REASON, Study

GRID = {"batch_size": [8, 16], "schedule": ["linear", "cosine"], "epochs": {"low": 1, "high": 3, "step": 1}}


def rate(trial: Trial) -> float:
    return float(trial.params["learning_rate"])


def sharing(folder: Path, total: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.tuning.sharer", str(folder), str(total), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_grid_visits_every_point_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, 12, Search(space=GRID, sampler="grid"))
    study.run(lambda trial: 0.5)
    points = [tuple(trial.params.items()) for trial in study.trials]
    assert len(points) == len(set(points)) == 12
    assert sorted(map(str, map(dict, points))) == sorted(map(str, study.space.grid()))


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(sampler: str, tmp_path: Path) -> None:
    search = Search(space=GRID, sampler=sampler)
    whole = open_study(tmp_path / "whole", 8, search)
    whole.run(lambda trial: trial.params["batch_size"] / 100)

    def stopped_in_the_fourth(trial: Trial) -> float:
        if trial.number == 3:
            raise KeyboardInterrupt
        return float(trial.params["batch_size"]) / 100

    with pytest.raises(KeyboardInterrupt):
        open_study(tmp_path / "cut", 8, search).run(stopped_in_the_fourth)
    resumed = open_study(tmp_path / "cut", 8, search)
    assert len(resumed.trials) == 3
    resumed.run(lambda trial: trial.params["batch_size"] / 100)
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]


def test_more_trials_can_be_asked_for_later(tmp_path: Path) -> None:
    open_study(tmp_path, 2).run(rate)
    seen: list[int] = []
    open_study(tmp_path, 5).run(lambda trial: seen.append(trial.number) or rate(trial))
    assert seen == [2, 3, 4]


def test_processes_that_share_a_study_do_no_more_than_was_asked(tmp_path: Path) -> None:
    processes = [sharing(tmp_path, 9, 0.05) for _ in range(2)]
    numbers = [[int(line) for line in process.communicate(timeout=120)[0].split()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(number for part in numbers for number in part) == list(range(9))
    study = open_study(tmp_path, 9)
    assert len(study.optuna.get_trials()) == 9
    assert len({rate(trial) for trial in study.trials}) == 9  # type: ignore[arg-type]


def test_a_killed_trial_does_not_count_and_is_done_again(tmp_path: Path) -> None:
    process = sharing(tmp_path, 3, 600)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    study = open_study(tmp_path, 3)
    assert study.trials[0].state == TrialState.RUNNING
    process.kill()
    process.communicate()
    study.run(rate)  # type: ignore[arg-type]
    assert [trial.number for trial in study.trials] == [1, 2, 3]
    assert not list((tmp_path / "running").iterdir())


def test_a_trial_that_diverges_counts_with_its_reason(tmp_path: Path) -> None:
    def diverges_first(trial: Trial) -> float:
        if trial.number == 0:
            raise QualityError("fine-tune", "training diverged", "lower it")
        return rate(trial)

    study = open_study(tmp_path, 3)
    study.run(diverges_first)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].user_attrs[REASON] == "training diverged"


@pytest.mark.parametrize("pruner", ["none", "median", "hyperband"])
def test_a_hopeless_trial_is_pruned(pruner: str, tmp_path: Path) -> None:
    epochs: dict[int, int] = {}

    def hopeless_last(trial: Trial) -> float:
        value = 0.9 if trial.number < 12 else 0.1
        for epoch in range(1, 10):
            epochs[trial.number] = epoch
            trial.report(value + epoch / 1000, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    search = Search(space={"learning_rate": {"low": 0.1, "high": 0.9}}, sampler="random", pruner=pruner)
    study = open_study(tmp_path, 16, search)
    study.run(hopeless_last)
    pruned = [trial.number for trial in study.trials if trial.state == TrialState.PRUNED]
    if pruner == "none":
        assert pruned == []
        assert set(epochs.values()) == {9}
    else:
        assert set(pruned) & {12, 13, 14, 15}
        assert all(epochs[number] < 9 for number in pruned)
    assert len(study.trials) == 16


def test_another_key_is_another_study(tmp_path: Path) -> None:
    open_study(tmp_path, 2).run(rate)
    other: Study = open_study(tmp_path, 2, key="other")
    assert other.trials == []
