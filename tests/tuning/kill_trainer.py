"""Train, be killed with SIGKILL, go on, again and again, until training comes to its end.

    python kill_trainer.py <folder> <kills> <seed> [name=value of the tune section …]

Prints as JSON the sha256 of the weights of an unbroken training and of the broken one, and the last checkpointed step
before each kill. Every training is a fork, so that imports are paid once; there is a checkpoint after every step.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import yaml

from tests.tuning.tiny_part import sha256, text_network
from tldeploy.recipe import Tune
from tldeploy.tuning import checkpoints
from tldeploy.tuning.fine_tuning import train


def training(folder: Path, place: Path, settings: Tune) -> None:
    """Train into `place`, and leave the hash of the weights there."""
    network, part, validation = text_network(folder, rows=96)
    train(network, part, settings, "training", validation=validation, checkpoints=place)
    (place / "sha256").write_text(sha256(network), encoding="utf-8")


def start(folder: Path, place: Path, settings: Tune) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            training(folder, place, settings)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_at_random(child: int, place: Path, draw: random.Random, last: int) -> int:
    """Let some more steps be checkpointed, wait a little, kill; the latest step that is on disk."""
    wanted = last + draw.randint(1, 4)
    while (checkpoints.steps(place) or [0])[-1] < wanted:
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit("training ended before it was killed")
        time.sleep(0.001)
    time.sleep(draw.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        raise SystemExit("training ended before it was killed")
    return checkpoints.steps(place)[-1]


def main(folder: Path, kills: int, seed: int, given: list[str]) -> None:
    torch.set_num_threads(1)
    checkpoints.EVERY_S = 0
    values = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in given)}
    settings = Tune(**{"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, **values})
    text_network(folder)
    draw, steps, last = random.Random(seed), [], 0
    unbroken, broken = folder / "unbroken", folder / "broken"
    os.waitpid(start(folder, unbroken, settings), 0)
    for _ in range(kills):
        last = kill_at_random(start(folder, broken, settings), broken, draw, last)
        steps.append(last)
    os.waitpid(start(folder, broken, settings), 0)
    hashes = {place.name: (place / "sha256").read_text(encoding="utf-8") for place in (unbroken, broken)}
    print(json.dumps({**hashes, "killed_after_step": steps, "steps": checkpoints.steps(unbroken)[-1]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
