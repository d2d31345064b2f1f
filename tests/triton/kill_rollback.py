"""Roll back again and again from a copy of one repository, killed at the 1st, 2nd, 3rd … change to the disk.

    python kill_rollback.py <repository> <folder for the copies>

Prints the number of copies; the last one was not killed. Each runs in a fork, so that imports are paid once.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.triton.kill_publisher import KILLED, die_at
from tldeploy.triton.keeping import rollback


def main(repository: Path, copies: Path) -> None:
    change = 0
    while True:
        change += 1
        copy = copies / str(change) / repository.name
        shutil.copytree(repository, copy)
        child = os.fork()
        if child == 0:
            die_at(change)
            rollback(copy, "tiny")
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != KILLED:
            print(change)
            return


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
