"""A study on disk that several processes share, and its budget of trials.

1. Everything lies in one folder: Optuna's journal, and beside it a file for each trial that runs, in `running/`.
2. A trial is claimed under a lock: how many count is looked up and the next one is drawn in one step, so that all
   processes together do no more than was asked for. What is drawn depends on the seed and the trials before alone.
3. Whoever runs a trial touches its file. A trial whose process has gone, or whose file is not touched any more, is
   failed by the others and does not count.

Processes may run on other machines, as long as they see the folder.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from tldeploy.errors import QualityError, TldeployError, storage_errors
from tldeploy.progress import say
from tldeploy.tuning.space import Space

if TYPE_CHECKING:
    from tldeploy.recipe import Search

JOURNAL, RUNNING = "study.journal", "running"
BEAT_S = 5.0
STALE_S = 60.0  # a process that is only slow, or swapped out, still gets through
LOOK_S = 0.5

Objective = Callable[[Trial], float]
REASON, LOST = "reason", "lost"


@dataclass(frozen=True)
class Study:
    """A study of `total` trials in `folder`. key: identifies what is searched; another key is another study.

    epochs: the most that a trial can have, for hyperband. seed: fixes what is drawn.
    """

    folder: Path
    key: str
    settings: Search
    space: Space
    total: int
    epochs: int
    seed: int
    _study: optuna.Study = field(init=False, repr=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with storage_errors(self.folder):
            (self.folder / RUNNING).mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
            opened = optuna.create_study(
                storage=storage,
                study_name=self.key,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(self.settings, self.epochs),
            )
        object.__setattr__(self, "_study", opened)

    def run(self, objective: Objective) -> None:
        """Do what is left of the trials, and wait for those of other processes.

        A trial that raises QualityError has failed, with its words as the reason; optuna.TrialPruned ends it early.
        Anything else ends the run, and that trial does not count.
        """
        waiting = False
        while True:
            claimed = self._claim()
            if isinstance(claimed, Trial):
                self._do(claimed, objective)
                waiting = False
            elif claimed == 0:
                return
            else:
                if not waiting:
                    say(f"search: waiting for {claimed} trial(s) of other processes")
                waiting = True
                time.sleep(LOOK_S)

    @property
    def optuna(self) -> optuna.Study:
        """For figures."""
        return self._study

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that count, in the order in which they began."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if counts(trial)]

    def _claim(self) -> Trial | int:
        """The next trial; or, when none is left to do, how many still run elsewhere."""
        with self._locked():
            self._fail_stale()
            done = self.trials
            points = self.space.grid() if self.settings.sampler == "grid" else []
            left = min(self.total, len(points)) if points else self.total
            if len(done) >= left:
                return sum(trial.state == TrialState.RUNNING for trial in done)
            self._study.sampler = _sampler(self.settings, self.seed + len(done))
            if points and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                visited = [trial.params for trial in done]
                unvisited = [point for point in points if point not in visited]
                self._study.enqueue_trial(_spread(unvisited, points, self.seed))
            trial = self._study.ask(self.space.distributions)
            self._alive(trial.number).write_text(_process(os.getpid()), encoding="utf-8")
            return trial

    def _do(self, trial: Trial, objective: Objective) -> None:
        say(f"search: trial {trial.number}: {words(self.space.values(trial.params))}")
        try:
            with self._beating(trial.number):
                value = objective(trial)
            self._end(trial, TrialState.COMPLETE, value)
        except optuna.TrialPruned:
            self._end(trial, TrialState.PRUNED)
        except QualityError as error:
            trial.set_user_attr(REASON, error.found)
            self._end(trial, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            say(f"search: trial {trial.number} was given up by another process, which took this one for dead")
        except BaseException as error:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr(LOST, error.found if isinstance(error, TldeployError) else type(error).__name__)
                self._end(trial, TrialState.FAIL)
            raise
        finally:
            self._alive(trial.number).unlink(missing_ok=True)

    def _end(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        self._study.tell(trial, value, state, skip_if_finished=True)
        said = {TrialState.COMPLETE: f"{value:.4f}" if value is not None else "", TrialState.PRUNED: "pruned"}
        say(f"search: trial {trial.number}: {said.get(state, 'failed')}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = JournalFileSymlinkLock(str(self.folder / "claim"))  # it works on shared folders, and outlives its owner
        lock.acquire()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # taken from us, as from a dead process: we slept too long
                lock.release()

    def _alive(self, number: int) -> Path:
        return self.folder / RUNNING / f"{self.key}-{number}"

    @contextlib.contextmanager
    def _beating(self, number: int) -> Iterator[None]:
        """Touch the trial's file every few seconds, from a thread."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_S):
                with contextlib.suppress(OSError):
                    os.utime(self._alive(number))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _fail_stale(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_stale(self._alive(trial.number)):
                storage = self._study._storage
                storage.set_trial_user_attr(trial._trial_id, LOST, "its process has gone")
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                self._alive(trial.number).unlink(missing_ok=True)

    def _is_stale(self, alive: Path) -> bool:
        """Times are compared as the file system has them: clocks of machines differ."""
        probe = self.folder / RUNNING / f".now-{os.getpid()}"
        try:
            owner = alive.read_text(encoding="utf-8")
            probe.touch()
            age = probe.stat().st_mtime - alive.stat().st_mtime
        except FileNotFoundError:
            return True
        finally:
            probe.unlink(missing_ok=True)
        machine, _, rest = owner.partition(" ")
        is_here = machine == _machine()
        return age > STALE_S or (is_here and _process(int(rest.partition(" ")[0])) != owner)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: lost ones are done again."""
    return trial.state != TrialState.WAITING and LOST not in trial.user_attrs


def words(values: dict[str, Any]) -> str:
    """Settings on one line."""
    return ", ".join(
        f"{name} {value:.3g}" if type(value) is float else f"{name} {value}" for name, value in values.items()
    )


def _machine() -> str:
    """This boot of this machine, and the container on it: where process numbers mean the same."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"


def _process(pid: int) -> str:
    """A process and when it started, in words that no other process ever has; other words once it has gone."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        started = "gone"
    return f"{_machine()} {pid} {started}"


def _spread(unvisited: list[dict[str, Any]], points: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The next point of a grid, in an order that is mixed, so that a part of the grid says something of all of it."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(points)).tolist()
    return next(points[at] for at in order if points[at] in unvisited)


def _sampler(settings: Search, seed: int) -> optuna.samplers.BaseSampler:
    if settings.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # trials that still run count as poor
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(settings: Search, epochs: int) -> optuna.pruners.BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return optuna.pruners.NopPruner()
