"""What a canary adds to the model repository.

    <name>/            the ensemble that clients call; meanwhile its only step is <name>.split
    <name>.split/      asks one of the next two, or both: split_step.py, labels.txt, and the share in its configuration
    <name>.stable/     the ensemble that <name> was, with its live version
    <name>.canary/     the other model, published beside it as any model is: with .tokenize or .decode, .graph, deploy
                       artifact, hashes and golden rows of its own

So every client takes part, whatever it is written in, on this server and on NVIDIA's; and each of the two can be asked
by its own name.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy.artifacts import Manifest
from tldeploy.environment import usable_cores
from tldeploy.errors import UsageError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.config import CONFIG_FILE, LABELS_FILE, Signature
from tldeploy.triton.steps import step_of

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PROGRAM = Path(__file__).with_name("split_step.py")
# The version folder of an ensemble is empty, and an empty folder is lost by git, archives and object stores.
PLACEHOLDER = ".keep"
MOST_INSTANCES = 4


@dataclass(frozen=True)
class Canary:
    """stable: the live version of `name`. tag: the beginning of the hash of the canary's deploy artifact.

    share: of the requests that the canary answers, 0 .. 1.
    """

    name: str
    stable: int
    tag: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            found = f"{self.share:g} is no share of the requests"
            raise UsageError(f"start a canary of {self.name}", found, "give one between 0 and 1, such as 0.1")

    @property
    def model(self) -> str:
        """The name that the canary is published by."""
        return canary_of(self.name)

    @property
    def stable_model(self) -> str:
        return f"{self.name}.stable"

    @property
    def split(self) -> str:
        return f"{self.name}.split"


def canary_of(name: str) -> str:
    return f"{name}.canary"


def running(repository: Path, name: str) -> Canary | None:
    """The canary of `name`, if one answers requests there. Raises ArtifactError for a configuration that is damaged."""
    entry, split = repository / name / CONFIG_FILE, repository / f"{name}.split" / CONFIG_FILE
    if not entry.is_file() or not split.is_file():
        return None
    if [step.model_name for step in config.read(entry).ensemble_scheduling.step] != [split.parent.name]:
        return None
    parameters = config.read(split).parameters
    stable, tag, share = (parameters[key].string_value for key in ("version", "tag", "share"))
    return Canary(name, int(stable), tag, float(share))


def stage_stable(staging: Path, canary: Canary, live: Manifest, signature: Signature) -> None:
    """live: the deploy artifact of the live version. signature: of its graph."""
    steps, given = (live.details["models"][0], live.details["models"][1]), step_of(live.task).input
    settings = Deploy.model_validate(live.details["settings"])
    described = config.ensemble_config(canary.stable_model, steps, given, signature, canary.stable, settings)
    described.ClearField("response_cache")  # what it is compared with has none
    _write(staging / canary.stable_model, described)
    version = staging / canary.stable_model / str(canary.stable)
    version.mkdir()
    (version / PLACEHOLDER).touch()


def stage_split(staging: Path, canary: Canary, live: Manifest, signature: Signature) -> None:
    """The splitting step, and the configuration that makes <name> ask it. Arguments as above."""
    given, settings = step_of(live.task).input, Deploy.model_validate(live.details["settings"])
    _write(staging / canary.split, _split_config(canary, given, signature, settings))
    (staging / canary.split / LABELS_FILE).write_text("".join(f"{label}\n" for label in live.labels), encoding="utf-8")
    version = staging / canary.split / str(canary.stable)
    version.mkdir()
    shutil.copyfile(PROGRAM, version / "model.py")
    pinned = (canary.split, canary.stable)
    _write(staging / canary.name, config.entry_config(canary.name, pinned, given, signature, settings))


def _split_config(canary: Canary, given: str, signature: Signature, settings: Deploy) -> ModelConfig:
    described = config.step_config(canary.split, given, signature.outputs, [canary.stable], settings)
    described.output[0].label_filename = LABELS_FILE
    del described.model_warmup[:]  # what it asks may not be there yet, and counts
    # An instance waits for the answers to what it was handed; another one takes what comes meanwhile.
    described.instance_group[0].count = min(MOST_INSTANCES, max(2, usable_cores()))
    parameters = {
        "stable": canary.stable_model,
        "canary": canary.model,
        "version": canary.stable,
        "tag": canary.tag,
        "share": canary.share,
    }
    for key, value in parameters.items():
        described.parameters[key].string_value = str(value)
    return described


def _write(model: Path, described: ModelConfig) -> None:
    model.mkdir(exist_ok=True)
    (model / CONFIG_FILE).write_text(config.to_text(described), encoding="utf-8")
