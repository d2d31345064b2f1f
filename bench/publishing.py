"""Publishing while a server is busy, and publishers that are killed: is a request lost, or an answer wrong?

    python bench/publishing.py bench/results/<machine> [busy] [killed] [killed-serving]    # by default all three

busy: 32 connections ask two tiny models for two minutes, while versions are published, rolled back, and published
broken: a graph that no server loads, golden answers that differ, a configuration that does not fit. Every answer has to
be that of a version that was legitimately live at some moment between its request and its receipt.

killed, killed-serving: a publisher is killed by SIGKILL at a random moment, 25 times, without a running server and with
one. The next command then reads the repository, and lint must find no error. Every fifth time a fresh server loads it
and answers right; the running one does so each time, and must not lose a request.

What is run is tests/triton/publish_busy.py and publish_killed.py. Writes publishing.json there, and publishing.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures.publishing import page

from tldeploy import environment
from tldeploy.triton.home import SERVER_VERSION

ROOT = Path(__file__).parent.parent
SECONDS, CONNECTIONS, KILLS, FRESH_EVERY, SEED = 120, 32, 25, 5, 0
PARTS: dict[str, tuple[str, Sequence[int]]] = {
    "busy": ("publish_busy", (SECONDS, CONNECTIONS)),
    "killed": ("publish_killed", (KILLS, FRESH_EVERY, 0, SEED)),
    "killed-serving": ("publish_killed", (KILLS, FRESH_EVERY, 1, SEED)),
}


def prove(part: str) -> dict[str, Any]:
    script, arguments = PARTS[part]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"tests.triton.{script}", folder, *map(str, arguments)]
        variables = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(out: Path, parts: Sequence[str]) -> int:
    file = out / "publishing.json"
    found = json.loads(file.read_text(encoding="utf-8"))["parts"] if file.exists() and parts else {}
    for part in parts or PARTS:
        found[part] = prove(part)
        print(part, json.dumps(found[part]))
    found = {part: found[part] for part in PARTS if part in found}
    record = {"environment": environment.describe(), "server": SERVER_VERSION, "parts": found}
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / "publishing.md").write_text(page(record), encoding="utf-8")
    return int(any(each["lost"] or each.get("wrong") or each.get("faults") for each in found.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
