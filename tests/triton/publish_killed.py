"""Kill publishers by SIGKILL at random moments, with and without a running server; look at what they leave.

    python publish_killed.py <folder> <kills> <every how many kills a fresh server is started> <served: 0 or 1> <seed>

Prints one JSON object. Each publisher is a fork, so that it publishes at once; `--fork` is the process that forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# tldeploy imports these where it first needs them, which would be in every fork.
import onnx  # noqa: F401
import tritonclient.grpc.model_config_pb2  # noqa: F401

from tests.tiny import ROWS, answer, write_export
from tests.triton.asking import asking
from tldeploy import artifacts
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.checking import check
from tldeploy.triton.lint.check import lint
from tldeploy.triton.repository import publish, published
from tldeploy.triton.server import Server

ROOT = Path(__file__).parents[2]
KEEP = Deploy(max_batch_size=8, keep_versions=1)
ASKED = ROWS[:3]
# What may lie beside the repository once the next command has run. What a killed publisher staged goes with the next
# publication.
BESIDE = {".repo.lock", ".repo.staging", ".repo.candidate"}


def fork(repository: Path) -> None:
    """For each line `<export> <checked: 0 or 1> <seconds>` publish in a fork, and kill it after so long."""
    for line in sys.stdin:
        export, checked, seconds = line.split()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            publish(Path(export), repository, "tiny", KEEP, check=check if int(checked) else None)
            os._exit(0)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - begun > float(seconds):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                print("killed", flush=True)
                break
            time.sleep(0.002)
        else:
            print(f"done {time.monotonic() - begun}", flush=True)


class Publishers:
    def __init__(self, repository: Path) -> None:
        command = [sys.executable, __file__, "--fork", str(repository)]
        variables = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT
        )

    def run(self, export: Path, checked: bool, seconds: float) -> list[str]:
        assert self._process.stdin
        assert self._process.stdout
        print(export, int(checked), seconds, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().split()

    def close(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def serving(repository: Path, served: bool) -> Iterator[Server | None]:
    if not served:
        yield None
        return
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0, follows=True) as server:
        yield server


def killed(folder: Path, kills: int, fresh_every: int, served: bool, seed: int) -> dict[str, Any]:
    """Counts. `faults` is what was not right after a kill, in words; it must be empty."""
    repository, draw = folder / "repo", random.Random(seed)
    exports = [write_export(folder / "exports" / str(number), seed=number) for number in range(2)]
    exports.append(write_export(folder / "exports" / "2", labels=("a", "b", "c", "d"), seed=2))
    right = {artifacts.read(export, "export").sha256: answer(export, ASKED).tolist() for export in exports}
    publish(exports[0], repository, "tiny", KEEP)
    publishers, counts, faults, lost = Publishers(repository), Counter[str](), [], []
    with serving(repository, served) as server:
        took_s = {checked: float(publishers.run(exports[1], checked, 300)[1]) for checked in (False, True)}
        number = 0
        while counts["killed"] < kills:
            number += 1
            checked, export = draw.random() < 0.3, exports[number % len(exports)]
            before = published(repository, "tiny").version
            with contextlib.ExitStack() as stack:
                log = stack.enter_context(asking(server.http_url, "tiny", ASKED, 2, 0.01)) if server else None
                outcome = publishers.run(export, checked, draw.uniform(0, took_s[checked]))[0]
                faults += [f"{number}: {fault}" for fault in look(repository, server, right, log_folder=folder)]
            counts[outcome] += 1
            counts["new version live"] += published(repository, "tiny").version > before
            if log:
                counts["requests meanwhile"] += len(log.requests)
                lost += log.errors
            if number % fresh_every == 0:
                counts["fresh servers"] += 1
                with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as fresh:
                    faults += [f"{number}: a fresh server {fault}" for fault in wrong(fresh, repository, right)]
    publishers.close()
    return {
        **counts,
        "lost": len(lost),
        "faults": [*faults, *sorted(set(lost))[:5]],
        "publishing takes s": took_s[False],
    }


def look(repository: Path, server: Server | None, right: dict[str, Any], log_folder: Path) -> list[str]:
    """What is not right after a kill, when the next command has read the repository."""
    faults = [str(finding.found) for finding in lint(repository).findings if finding.severity == "error"]
    known = BESIDE | ({server.running.folder.name} if server and server.running else set())
    beside = {path.name for path in log_folder.iterdir() if path.name.startswith(".")} - known
    faults += [f"{name} was left" for name in sorted(beside)]
    return faults + (wrong(server, repository, right) if server else [])


def wrong(server: Server, repository: Path, right: dict[str, Any]) -> list[str]:
    expected = right[published(repository, "tiny").manifest.parents["export"]]
    with Client(server.http_url, model="tiny") as client:
        answers = [client.predict([row])[0].tolist() for row in ASKED]
    same = all(
        len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-5
        for a, b in zip(answers, expected, strict=True)
    )
    return [] if same else [f"answers {answers[0]}, expected {expected[0]}"]


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        fork(Path(sys.argv[2]))
    else:
        place, kills, every, with_server, seed = sys.argv[1:]
        print(json.dumps(killed(Path(place), int(kills), int(every), bool(int(with_server)), int(seed))))
