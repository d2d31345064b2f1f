"""Run as a script: opens the sleeper of a folder, says the process it is in, and asks it for something endless."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.measuring.test_isolated import sleeper

if __name__ == "__main__":
    runner = sleeper(Path(sys.argv[1]), seconds=1000)
    print(runner.pid, flush=True)
    try:
        runner.predict(["3"])
    finally:
        runner.close()
