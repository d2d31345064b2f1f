"""Short versions of what bench/publishing.py proves: publishing under load, and publishers killed at random moments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.triton.test_repository import ROOT


def proved(script: str, *arguments: object) -> dict[str, object]:
    """What one of the scripts beside this file prints."""
    command = [sys.executable, "-m", f"tests.triton.{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.proof  # test_running.py asks while a version is published, too
def test_under_load_every_request_is_answered_and_right(tmp_path: Path) -> None:
    found = proved("publish_busy", tmp_path, 2, 4, 0.02)
    assert (found["lost"], found["wrong"], found["examples"]) == (0, 0, [])
    assert isinstance(found["requests"], int)
    assert found["requests"] > 100


@pytest.mark.proof  # test_transaction.py cuts publishers off at each step
@pytest.mark.parametrize("served", [1, 0])
def test_what_killed_publishers_leave_loads_and_answers_right(tmp_path: Path, served: int) -> None:
    found = proved("publish_killed", tmp_path, 2, 2, served, 0)
    assert (found["killed"], found["lost"], found["faults"]) == (2, 0, [])
