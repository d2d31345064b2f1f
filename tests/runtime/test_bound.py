"""Bound memory, on the CPU: what is the same there as on a GPU. Captured graphs need a GPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tldeploy import artifacts
from tldeploy.runtime import bound
from tldeploy.runtime.bound import BoundGraph
from tldeploy.runtime.session import open_session
from tldeploy.tasks import load_task

TEXTS = ["good", "a bad one, and long", "good and bad", "a", "it is what it is and no more", "bad"]


@pytest.fixture
def graph(tiny_export: Path) -> BoundGraph:
    manifest = artifacts.load(tiny_export, "export")
    session = open_session(tiny_export / "fp32.onnx")
    return BoundGraph(session, "probabilities", len(manifest.labels), device="cpu")


def expected(export: Path, texts: list[str]) -> np.ndarray:
    tensors = encoded(export, texts)
    found: np.ndarray = open_session(export / "fp32.onnx").run(["probabilities"], tensors)[0]
    return found


def encoded(export: Path, texts: list[str]) -> dict[str, np.ndarray]:
    manifest = artifacts.load(export, "export")
    return load_task(manifest.task, export, manifest.labels).encode(texts)


def test_answers_are_those_of_the_session_for_shapes_that_come_and_come_again(
    graph: BoundGraph, tiny_export: Path
) -> None:
    for texts in ([TEXTS[0]], [TEXTS[1]], TEXTS[:3], [TEXTS[0]], TEXTS, [TEXTS[5]], [TEXTS[1]]):
        answer = graph.run(encoded(tiny_export, texts))
        np.testing.assert_allclose(answer, expected(tiny_export, texts), atol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next_of_its_shape(graph: BoundGraph, tiny_export: Path) -> None:
    first = graph.run(encoded(tiny_export, [TEXTS[0]]))
    kept = first.copy()
    graph.run(encoded(tiny_export, [TEXTS[5]]))
    np.testing.assert_array_equal(first, kept)


def test_shapes_beyond_those_that_have_memory_are_answered_without(
    graph: BoundGraph, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "MOST_SHAPES", 1)
    for texts in ([TEXTS[0]], TEXTS, TEXTS[:2], [TEXTS[5]]):
        np.testing.assert_allclose(graph.run(encoded(tiny_export, texts)), expected(tiny_export, texts), atol=1e-6)
    assert len(graph._bound) == 1


class Watched:
    """A session that writes down which thread runs it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.threads: list[int] = []

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.threads.append(threading.get_ident())
        self.session.run_with_iobinding(binding, options)


def test_what_is_captured_is_run_by_one_thread_whoever_asks(tiny_export: Path) -> None:
    """The CPU captures nothing, and heeds no number of a graph; but onnxruntime is asked as on a GPU."""
    watched = Watched(open_session(tiny_export / "fp32.onnx"))
    graph = BoundGraph(watched, "probabilities", 3, device="cpu", captures=True)  # type: ignore[arg-type]
    for text in TEXTS:
        graph.run(encoded(tiny_export, [text]))
    assert set(watched.threads) == {threading.get_ident()}, "nobody else asks: nothing is handed over"
    watched.threads.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: graph.run(encoded(tiny_export, [text]))[0], TEXTS * 8))
    graph.run(encoded(tiny_export, TEXTS))
    (one,) = set(watched.threads)
    assert one != threading.get_ident()
    wanted = [expected(tiny_export, [text])[0] for text in TEXTS]
    np.testing.assert_allclose(answers, wanted * 8, atol=1e-6)


def test_threads_get_their_own_answers(graph: BoundGraph, tiny_export: Path) -> None:
    asked = TEXTS * 8
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: graph.run(encoded(tiny_export, [text]))[0], asked))
    wanted = {text: expected(tiny_export, [text])[0] for text in TEXTS}
    np.testing.assert_allclose(answers, [wanted[text] for text in asked], atol=1e-6)
