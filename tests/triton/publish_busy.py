"""Publish, roll back and publish broken versions while clients ask a running server without a pause; judge each answer.

    python publish_busy.py <folder> <seconds> <connections> [<pause of each between requests, in seconds>]

Prints one JSON object. An answer is right if it is that of a version that was legitimately live at some moment between
its request and its receipt; a version is so from the beginning of the call that published it, if that succeeded, to the
end of the call that replaced it.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx

from tests.tiny import ROWS, answer, write_export
from tests.triton.asking import Asked, asking
from tldeploy import artifacts
from tldeploy.errors import QualityError, ServerError, TldeployError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.checking import check
from tldeploy.triton.keeping import rollback
from tldeploy.triton.repository import Publication, publish, published
from tldeploy.triton.server import Server

MODELS = ("first", "second")
ASKED = ROWS[:4]
SETTINGS = {"first": Deploy(max_batch_size=8, keep_versions=1), "second": Deploy(max_batch_size=8, keep_versions=3)}
TOLERANCE = 1e-5


@dataclass
class History:
    """What was live when: export, from and until, in seconds of the monotonic clock; until is infinite for the last."""

    spans: list[list[Any]] = field(default_factory=list)

    def change(self, export: str, from_s: float, until_s: float) -> None:
        if self.spans:
            self.spans[-1][2] = until_s
        self.spans.append([export, from_s, math.inf])

    def answers(self, asked: Asked, right: dict[str, dict[str, list[float]]]) -> bool:
        live = {
            export for export, from_s, until_s in self.spans if from_s < asked.received_s and until_s > asked.sent_s
        }
        return any(close(right[export][asked.row], asked.answer) for export in live)


def close(expected: list[float], found: tuple[float, ...]) -> bool:
    return len(expected) == len(found) and bool(np.allclose(expected, found, rtol=0, atol=TOLERANCE))


def make_exports(folder: Path) -> dict[str, Path]:
    """Three that are good, the third with other labels; one whose graph no server loads, one that answers otherwise."""
    labels = ("a", "b", "c", "d")
    exports = {name: write_export(folder / name, seed=seed) for seed, name in enumerate(("one", "two"))}
    exports["labels"] = write_export(folder / "labels", labels=labels, seed=2)
    exports["corrupt"] = altered(write_export(folder / "corrupt", seed=3), "int8-dynamic.onnx", unloadable)
    exports["different"] = altered(write_export(folder / "different", seed=4), "golden.json", turned)
    exports["misfit"] = write_export(folder / "misfit", seed=5)
    return exports


def altered(export: Path, file: str, change: Callable[[Path], None]) -> Path:
    change(export / file)
    artifacts.seal(export, artifacts.read(export, "export"))
    return export


def unloadable(file: Path) -> None:
    model = onnx.load(file)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, file)


def turned(file: Path) -> None:
    golden = json.loads(file.read_text(encoding="utf-8"))
    golden["probabilities"][-1].reverse()
    file.write_text(json.dumps(golden), encoding="utf-8")


@contextmanager
def misfitting() -> Iterator[None]:
    """Configurations whose output has a class too many."""
    right = config.graph_config

    def wrong(*given: Any) -> Any:
        described = right(*given)
        described.output[0].dims[0] += 1
        return described

    with mock.patch.object(config, "graph_config", wrong):
        yield


def ask_apart(url: str, model: str, connections: int, pause_s: float, pipe: Connection) -> None:
    """In a process of its own, until something comes through the pipe; what was answered goes back."""
    with asking(url, model, ASKED, connections, pause_s) as log:
        pipe.recv()
    pipe.send(log.requests)


class Publisher:
    """What is done meanwhile, one after the other, and what came of it."""

    def __init__(self, repository: Path, exports: dict[str, Path]) -> None:
        self.repository, self.exports = repository, exports
        self.by_hash = {artifacts.read(path, "export").sha256: name for name, path in exports.items()}
        self.histories = {model: History() for model in MODELS}
        self.done: Counter[str] = Counter()
        self.seconds: list[float] = []

    def good(self, model: str, export: str) -> None:
        self._change(
            "published",
            model,
            lambda: publish(self.exports[export], self.repository, model, SETTINGS[model], check=check),
        )

    def back(self, model: str) -> None:
        self._change("rolled back", model, lambda: rollback(self.repository, model, check=check))

    def broken(self, model: str, export: str, error: type[TldeployError]) -> None:
        before = published(self.repository, model).version
        try:
            self.good(model, export)
        except error:
            self.done[f"refused: {export}"] += 1
        else:
            raise AssertionError(f"{export} was published")
        assert published(self.repository, model).version == before

    def _change(self, what: str, model: str, act: Callable[[], Publication]) -> None:
        begun_s = time.monotonic()
        live = act()
        ended_s = time.monotonic()
        self.seconds.append(ended_s - begun_s)
        self.histories[model].change(self.by_hash[live.manifest.parents["export"]], begun_s, ended_s)
        self.done[what] += 1

    def actions(self) -> Iterator[Callable[[], None]]:
        """Again and again; `first` keeps no old version."""
        while True:
            yield lambda: self.good("first", "two")
            yield lambda: self.broken("first", "corrupt", ServerError)
            yield lambda: self.good("second", "labels")
            yield lambda: self.back("second")
            yield lambda: self.broken("second", "different", QualityError)
            yield lambda: self.good("first", "labels")
            yield self._misfit
            yield lambda: self.good("second", "two")
            yield lambda: self.good("first", "one")

    def _misfit(self) -> None:
        with misfitting():
            self.broken("first", "misfit", QualityError)


def busy(folder: Path, seconds: float, connections: int, pause_s: float = 0) -> dict[str, Any]:
    """Counts: `lost` requests, `wrong` answers; each must be 0. At least one action of each kind that fits is done."""
    exports = make_exports(folder / "exports")
    right = {
        name: dict(zip(ASKED, answer(path, ASKED).tolist(), strict=True))
        for name, path in exports.items()
        if name != "corrupt"
    }
    publisher = Publisher(folder / "repo", exports)
    for model in MODELS:
        publisher.good(model, "one")
    spawn = multiprocessing.get_context("spawn")
    with Server(folder / "repo", http_port=0, grpc_port=0, metrics_port=0, follows=True) as server:
        askers = []
        for model in MODELS:
            here, there = spawn.Pipe()
            given = (server.http_url, model, connections // len(MODELS), pause_s, there)
            process = spawn.Process(target=ask_apart, args=given)
            process.start()
            askers.append((model, here, process))
        try:
            until_s = time.monotonic() + seconds
            for act in publisher.actions():
                act()
                if time.monotonic() > until_s:
                    break
        finally:
            for _, pipe, _ in askers:
                pipe.send("stop")
            requests = {model: pipe.recv() for model, pipe, _ in askers}
            for *_, process in askers:
                process.join()
    return judged(publisher, requests, right)


def judged(publisher: Publisher, requests: dict[str, list[Asked]], right: dict[str, Any]) -> dict[str, Any]:
    every = list(itertools.chain.from_iterable(requests.values()))
    lost = [asked.error for asked in every if asked.error]
    wrong = [
        (model, asked.row, asked.answer)
        for model, all_asked in requests.items()
        for asked in all_asked
        if not asked.error and not publisher.histories[model].answers(asked, right)
    ]
    answered_by = Counter(
        name
        for asked in every
        for name, answers in right.items()
        if asked.answer and close(answers[asked.row], asked.answer)
    )
    return {
        "requests": len(every),
        "lost": len(lost),
        "wrong": len(wrong),
        "answered by": dict(sorted(answered_by.items())),
        "longest wait ms": round(1000 * max((asked.received_s - asked.sent_s for asked in every), default=0)),
        "done": dict(sorted(publisher.done.items())),
        "publishing took s": [round(seconds, 1) for seconds in publisher.seconds],
        "examples": [*sorted(set(lost))[:5], *map(str, wrong[:5])],
    }


if __name__ == "__main__":
    print(json.dumps(busy(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:]))))
