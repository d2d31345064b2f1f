"""Publish again and again from a copy of one repository, killed at the 1st, 2nd, 3rd … change to the disk.

    python kill_publisher.py <export> <repository> <folder for the copies>

Prints the number of copies; the last publisher was not killed. Each runs in a fork, so that imports are paid once.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# tldeploy imports these where it first needs them, which would be in every fork.
import onnx  # noqa: F401
import tritonclient.grpc.model_config_pb2  # noqa: F401

from tldeploy.recipe import Deploy
from tldeploy.triton.repository import publish

KILLED = 9
CHANGES = ("replace", "rename", "unlink", "rmdir")


def die_at(change: int) -> None:
    """Let the process die just before its `change`-th rename or removal."""
    done = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == change:
                os._exit(KILLED)
            return original(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def main(export: Path, repository: Path, copies: Path) -> None:
    change = 0
    while True:
        change += 1
        copy = copies / str(change) / repository.name
        shutil.copytree(repository, copy)
        child = os.fork()
        if child == 0:
            die_at(change)
            publish(export, copy, "tiny", Deploy(keep_versions=2))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != KILLED:
            print(change)
            return


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
