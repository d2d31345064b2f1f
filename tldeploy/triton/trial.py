"""A canary: a new version that answers a share of the requests beside the live one, until one of the two is kept.

    <name>/          the ensemble that clients call; while a trial runs its only step is the next
    <name>.split/    asks one of the next two, or both: split_step.py, labels.txt, and the share in its configuration
    <name>.stable/   the ensemble that <name> was, with the live version
    <name>.canary/   the same with the new version
    <name>.tokenize/ (or .decode/) and <name>.graph/ serve both versions, as after any publication

So every client takes part, whatever it is written in, on this server and on NVIDIA's; and each version can be asked by
its own name. `stage` writes what a trial adds, `running` reads it back.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy.environment import usable_cores
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.config import LABELS_FILE, Signature
from tldeploy.triton.transaction import CONFIG_FILE

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PROGRAM = Path(__file__).with_name("split_step.py")
# Version folders of ensembles are empty, and an empty folder is lost by git, archives and object stores.
PLACEHOLDER = ".keep"
MOST_INSTANCES = 4


@dataclass(frozen=True)
class Trial:
    """stable, canary: versions of `name`. share: of the requests that the canary answers, 0 .. 1."""

    name: str
    stable: int
    canary: int
    share: float

    @property
    def models(self) -> tuple[str, str, str]:
        """What the trial adds to the repository; what others need comes first."""
        return f"{self.name}.stable", f"{self.name}.canary", f"{self.name}.split"


def stage(
    staging: Path, trial: Trial, steps: tuple[str, str], given: str, signature: Signature, settings: Deploy
) -> None:
    """Write the trial's three models, and the configuration that makes <name> ask them.

    steps: the names of the preprocessing step and of the graph. given: what clients send, `text` or `image`. The
    graph's labels are staged already.
    """
    stable, canary, split = trial.models
    for ensemble, version in ((stable, trial.stable), (canary, trial.canary)):
        described = config.ensemble_config(ensemble, steps, given, signature, version, settings)
        _write(staging / ensemble, version, described)
        (staging / ensemble / str(version) / PLACEHOLDER).touch()
    _write(staging / split, trial.canary, _split_config(trial, given, signature, settings))
    shutil.copyfile(PROGRAM, staging / split / str(trial.canary) / "model.py")
    shutil.copyfile(staging / steps[1] / LABELS_FILE, staging / split / LABELS_FILE)
    entry = config.split_config(trial.name, (split, trial.canary), given, signature, trial.stable, settings)
    (staging / trial.name / CONFIG_FILE).write_text(config.to_text(entry), encoding="utf-8")


def running(repository: Path, name: str) -> Trial | None:
    """The trial of `name` that runs in a repository. Raises ArtifactError for a configuration that cannot be read."""
    split = repository / f"{name}.split" / CONFIG_FILE
    if not split.is_file():
        return None
    parameters = config.read(split).parameters
    stable, canary, share = (parameters[key].string_value for key in ("stable_version", "version", "share"))
    return Trial(name, int(stable), int(canary), float(share))


def _split_config(trial: Trial, given: str, signature: Signature, settings: Deploy) -> ModelConfig:
    stable, canary, split = trial.models
    described = config.step_config(split, given, signature.outputs, [trial.canary], settings)
    described.output[0].label_filename = LABELS_FILE
    # An instance waits for the answers to what it was handed; another one takes what comes meanwhile.
    described.instance_group[0].count = min(MOST_INSTANCES, max(2, usable_cores()))
    parameters = {
        "stable": stable,
        "canary": canary,
        "stable_version": trial.stable,
        "version": trial.canary,
        "share": trial.share,
    }
    for key, value in parameters.items():
        described.parameters[key].string_value = str(value)
    return described


def _write(model: Path, version: int, described: ModelConfig) -> None:
    (model / str(version)).mkdir(parents=True, exist_ok=True)
    (model / CONFIG_FILE).write_text(config.to_text(described), encoding="utf-8")
