"""A process that shares a study: `python -m tests.tuning.sharer FOLDER TOTAL SECONDS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from optuna.trial import Trial

from tldeploy.recipe import Search, Tune
from tldeploy.tuning.space import Space
from tldeploy.tuning.study import Study


def open_study(folder: Path, total: int, search: Search | None = None, key: str = "key") -> Study:
    settings = search or Search(space={"learning_rate": {"low": 0.1, "high": 0.9}}, sampler="random")
    return Study(folder, key, settings, Space.of(Tune(), settings), total, epochs=9, seed=0)


def main() -> None:
    folder, total, seconds = sys.argv[1:]

    def objective(trial: Trial) -> float:
        print(trial.number, flush=True)
        time.sleep(float(seconds))
        return float(trial.params["learning_rate"])

    open_study(Path(folder), int(total)).run(objective)


if __name__ == "__main__":
    main()
