"""Ctrl-C and SIGTERM while a verb still imports its libraries, which is when nothing is ready for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# What the library does when the signal comes in the middle of its import.
LIBRARIES = {
    "as it is": "stop()",
    "out of an exec, as in dataclasses": "exec('stop()')",
    "hidden behind an error of its own": (
        "try:\n    stop()\nexcept BaseException as error:\n    raise ModuleNotFoundError('numpy') from error"
    ),
}
LIBRARY = """
import os, signal

def stop():
    os.kill(os.getpid(), signal.{signal})
    for _ in range(1000):
        pass

{statement}
"""
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tldeploy.cli import main; main()"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("passes_on", LIBRARIES)
def test_an_interrupted_command_says_how_to_go_on(passes_on: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text(LIBRARY.format(signal=name, statement=LIBRARIES[passes_on]))
    command = [sys.executable, "-c", RUN, str(tmp_path), "tune", "models/any", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "interrupted; what is finished is kept: run the same command again to go on"
    assert json.loads(done.stdout.splitlines()[-1]) == {"error": "Interrupted", "exit_code": 130}
