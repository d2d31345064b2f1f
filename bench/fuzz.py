"""Spoilt requests against the real server, for minutes: it must go on, with the same workers and the right answers.

    .venv/bin/python -m bench.fuzz bench/results/<machine> [--minutes 3] [--seed 0]
    .venv/bin/python -m bench.fuzz --replay 0:1234 [--gate]     # one attack of seed 0 again, and what came back

A tiny text model and a tiny image model are served, once directly and once behind the gate, for half of the time each;
what is known to end Triton itself (ENDS_TRITON) goes through the gate only.
The attacks of fuzz_attacks.py go to both ports, one after the other; each is made from the seed and its number alone.
Every so often the server's memory is read. At the end the workers are those of the start (none died), the golden rows
are answered as when they were exported, and memory is flat: in the last third of the time it is, in the median, at most
FLAT_MB or FLAT_SHARE above the middle third. The first third is left out: buffers grow to the largest request, once.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import psutil

from bench.figures.fuzz import page
from bench.fuzz_attacks import ATTACKS, ENDS_TRITON, IMAGE, TEXT, Shot
from tests.tiny import write_export
from tests.tiny_images import write_image_export
from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.errors import ServerError
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.gate import Gate
from tldeploy.triton.home import SERVER_VERSION
from tldeploy.triton.repository import golden, publish
from tldeploy.triton.server import Server
from tldeploy.triton.workers import STUB

WAIT_S = 10.0
LOOK_EVERY = 50  # attacks, after which workers are counted and memory is read
FLAT_MB, FLAT_SHARE = 32.0, 0.1
GOLDEN_TOLERANCE = 1e-5
SILENT, CLOSED = "no answer", "closed"
HIDDEN = {"number", "last_name", "outcomes", "memory"}  # of a Run; its report has them in other forms
DIES_WITHIN_S = 0.2  # a server that breaks a connection off may be about to


@contextmanager
def serving(gate: Gate | None) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repo"
        publish(write_export(Path(folder) / "text"), repository, TEXT, Deploy(max_batch_size=8))
        publish(write_image_export(Path(folder) / "image"), repository, IMAGE, Deploy(max_batch_size=8))
        with Server(repository, http_port=0, grpc_port=0, metrics_port=0, gate=gate) as server:
            yield server


def shot_of(seed: int, number: int, has_gate: bool) -> tuple[str, Shot]:
    draw = Random(f"{seed}:{number}")
    attack = draw.choice([attack for attack in ATTACKS if has_gate or attack not in ENDS_TRITON])
    return attack.__name__, attack(draw)


class Gun:
    """Sends shots to a server, and tells what came back: HTTP or gRPC statuses, closed, no answer, or left by us."""

    def __init__(self, server: Server) -> None:
        self._ports = {"http": server.http_port, "grpc": server.grpc_port}
        self._channel = grpc.insecure_channel(server.grpc_url)
        (self._server,) = [process for process in processes(server) if process.name() == "tritonserver"]

    def close(self) -> None:
        self._channel.close()

    def server_lives(self) -> bool:
        try:
            return self._server.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        except psutil.NoSuchProcess:
            return False

    def fire(self, shot: Shot) -> tuple[str, str]:
        """The outcome, and the words of the answer."""
        return self._call(shot) if shot.method else self._send(shot)

    def _call(self, shot: Shot) -> tuple[str, str]:
        try:
            answer = self._channel.unary_unary(shot.method)(shot.content, timeout=WAIT_S)
        except grpc.RpcError as error:
            silent = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return SILENT if silent else error.code().name, str(error.details())
        return "OK", repr(answer[:300])

    def _send(self, shot: Shot) -> tuple[str, str]:
        try:
            with socket.create_connection(("127.0.0.1", self._ports[shot.to]), timeout=WAIT_S) as connection:
                connection.sendall(shot.content)
                if shot.ending == "closed":
                    return "left", ""
                if shot.ending == "half closed":
                    connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
        except TimeoutError:
            return SILENT, ""
        except OSError as error:
            return CLOSED, str(error)
        first = answer.split(b"\r\n", 1)[0].decode("latin-1")
        status = first.split(" ")[1] if first.startswith("HTTP/1") and " " in first else "other bytes"
        return (status if answer else CLOSED), answer[-300:].decode("latin-1")


def resident_mb(server: Server) -> float:
    """Of the server and its workers, and of the gate, if there is one."""
    return sum(process.memory_info().rss for process in processes(server)) / 1e6


def workers(server: Server) -> list[int]:
    return sorted(process.pid for process in processes(server) if process.name() == STUB)


def processes(server: Server) -> list[psutil.Process]:
    """All that have the server's id in their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if server.id in " ".join(process.cmdline()):
                found.append(process)
    return found


def answers_right(server: Server) -> bool:
    """Whether every golden row is answered as when it was exported, over both protocols."""
    try:
        for publication in server.published:
            rows, expected = golden(publication)
            for protocol, url in (("http", server.http_url), ("grpc", server.grpc_url)):
                with Client(url, model=publication.name, protocol=protocol) as client:  # type: ignore[arg-type]  # a str
                    answers = np.concatenate([client.predict([row]) for row in rows])
                if not np.allclose(answers, expected, atol=GOLDEN_TOLERANCE, rtol=0):
                    return False
    except ServerError:
        return False
    return True


@dataclass
class Run:
    """What is known of a bombardment so far. Attacks are named by seed and number, as `--replay` takes them."""

    seed: int
    has_gate: bool
    number: int = 0
    last_name: str = ""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)
    workers_lost: list[str] = field(default_factory=list)
    without_answer: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def fire(self, gun: Gun) -> None:
        name, shot = shot_of(self.seed, self.number, self.has_gate)
        self.last_name = name
        outcome, _ = gun.fire(shot)
        self.outcomes.setdefault(name, Counter())[outcome] += 1
        if outcome == SILENT:
            self.without_answer.append(self.last)
        if outcome in {CLOSED, "UNAVAILABLE"}:
            time.sleep(DIES_WITHIN_S)
        self.number += 1

    @property
    def last(self) -> str:
        return f"{self.seed}:{self.number}"


def fuzz(seconds: float, seed: int = 0, gate: Gate | None = None) -> dict[str, Any]:
    """The report of a server that was shot at for so long; one that dies is replaced by another."""
    run, spent = Run(seed, gate is not None), 0.0
    while spent < seconds:
        with serving(gate) as server:
            spent = _bombard(server, run, spent, seconds)
    report = {key: value for key, value in vars(run).items() if key not in HIDDEN}
    outcomes = {name: dict(counts.most_common()) for name, counts in sorted(run.outcomes.items())}
    about = {"seconds": seconds, "attacks": run.number, "outcomes": outcomes}
    return about | report | {"memory": flatness(run.memory), "memory_mb": run.memory}


def _bombard(server: Server, run: Run, spent: float, seconds: float) -> float:
    """The seconds that are spent when it ends: those in which a server starts do not count."""
    gun, known, start = Gun(server), workers(server), time.monotonic() - spent
    while (now := time.monotonic() - start) < seconds:
        run.fire(gun)
        if not gun.server_lives():
            run.deaths.append(f"{run.seed}:{run.number - 1} {run.last_name}")
            break
        if run.number % LOOK_EVERY == 0:
            run.memory.append((round(now, 1), round(resident_mb(server), 1)))
            if (found := workers(server)) != known:
                run.workers_lost.append(f"before {run.last}")
                known = found
    else:
        if workers(server) != known:
            run.workers_lost.append(f"before {run.last}")
        if not answers_right(server):
            run.wrong_answers.append(f"after {run.last}")
    gun.close()
    return time.monotonic() - start


def flatness(memory: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of the thirds, and the slope of a line through the last two of them."""
    memory = memory or [(0.0, 0.0)]
    third = max(1, len(memory) // 3)
    parts = [memory[:third], memory[third : 2 * third] or memory, memory[2 * third :] or memory]
    first, middle, last = (statistics.median(mb for _, mb in part) for part in parts)
    times, sizes = zip(*memory[third:] or memory, strict=True)
    slope = float(np.polyfit(times, sizes, 1)[0]) * 60 if len(times) > 2 else 0.0
    return {
        "first_third_mb": first,
        "middle_third_mb": middle,
        "last_third_mb": last,
        "slope_mb_per_minute": round(slope, 2),
        "flat": last <= middle + max(FLAT_MB, FLAT_SHARE * middle),
    }


def is_well(run: dict[str, Any]) -> bool:
    return not (run["deaths"] or run["workers_lost"] or run["wrong_answers"]) and bool(run["memory"]["flat"])


def replay(seed: int, number: int, gate: Gate | None) -> None:
    with serving(gate) as server:
        gun, before = Gun(server), workers(server)
        name, shot = shot_of(seed, number, gate is not None)
        print(name, shot.to, shot.method, len(shot.content), shot.content[:500])
        print(gun.fire(shot))
        print("server", "alive" if gun.server_lives() else "DEAD")
        print("workers", "kept" if workers(server) == before else "LOST")
        gun.close()


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path, nargs="?", help="bench/results/<machine>")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", help="SEED:NUMBER of one attack")
    parser.add_argument("--gate", action="store_true", help="replay it behind the gate")
    given = parser.parse_args()
    if given.replay:
        seed, number = map(int, given.replay.split(":"))
        replay(seed, number, Gate() if given.gate else None)
        return 0
    runs = [fuzz(30 * given.minutes, given.seed, gate) for gate in (None, Gate())]
    report = {"server": SERVER_VERSION, "environment": environment.describe(), "runs": runs}
    if given.out:
        write_file(given.out / "fuzz.json", json.dumps(report, indent=1) + "\n")
        write_file(given.out / "fuzz.md", page(report))
    print(json.dumps({"well": all(map(is_well, runs)), "attacks": sum(run["attacks"] for run in runs)}))
    return 0 if all(map(is_well, runs)) else 1


if __name__ == "__main__":
    sys.exit(main())
