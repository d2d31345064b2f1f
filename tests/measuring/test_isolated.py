"""Engines in processes of their own: the same answers, their own times, and an end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.benchmarking.job import write_job
from tests.engine import Engine
from tests.tiny import LABELS, ROWS
from tldeploy.errors import ArtifactError, MachineError, QualityError
from tldeploy.measuring.isolated import Isolated
from tldeploy.measuring.scenarios import ROUNDS, closed_loop, multi_stream, offline, single_stream
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks import load_task

NUMBERS = [str(number) for number in range(50)]


def sleeper(folder: Path, seconds: float) -> Isolated:
    exported = folder / "onnx"
    if not exported.exists():
        write_job(folder, rows=3)
    model = folder / "seconds.txt"
    model.write_text(str(seconds), encoding="ascii")
    task = load_task("text-classification", exported, LABELS)
    return Isolated("sleeper", "tests.measuring.sleeper:Sleeper", model, task, exported)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolated]:
    with closing(sleeper(tmp_path_factory.mktemp("sleeper"), seconds=0.004)) as opened:
        yield opened


def test_it_answers_what_the_same_runner_answers_in_this_process(tiny_export: Path) -> None:
    task, graph = load_task("text-classification", tiny_export, LABELS), tiny_export / "fp32.onnx"
    with (
        closing(OnnxRunner(graph, task)) as here,
        closing(Isolated("onnxruntime", "tldeploy.runtime.onnx:OnnxRunner", graph, task, tiny_export)) as there,
    ):
        assert (there.name, there.provider) == (here.name, here.provider)
        assert there.opening.size_bytes == here.size_bytes == graph.stat().st_size
        assert there.opening.seconds > 0
        assert there.opening.memory_mb is not None
        assert there.opening.memory_mb > 10, "onnxruntime alone is larger"
        np.testing.assert_array_equal(there.predict(ROWS), here.predict(ROWS))
        run = single_stream([here, there], ROWS, 3, "test")
        np.testing.assert_array_equal(*run.probabilities)


def test_the_device_and_the_settings_reach_the_runner(tmp_path: Path) -> None:
    write_job(tmp_path, rows=3)
    model = tmp_path / "seconds.txt"
    model.write_text("0", encoding="ascii")
    exported = tmp_path / "onnx"
    task = load_task("text-classification", exported, LABELS)
    kind = "tests.measuring.sleeper:Sleeper"
    with closing(Isolated("sleeper", kind, model, task, exported, "tensorrt", bed="soft", light="off")) as runner:
        assert runner.provider == "tensorrt, bed soft, light off"
        assert runner.settings == {"bed": "soft", "light": "off"}


def test_a_session_with_memory_of_its_own_answers_the_same(tiny_export: Path) -> None:
    task, graph = load_task("text-classification", tiny_export, LABELS), tiny_export / "fp32.onnx"
    runner = "tldeploy.runtime.onnx:OnnxRunner"
    with (
        closing(OnnxRunner(graph, task)) as here,
        closing(Isolated("onnxruntime", runner, graph, task, tiny_export, memory="bound")) as bound,
    ):
        assert bound.provider == "CPUExecutionProvider, bound"
        run = single_stream([here, bound], ROWS, 3, "test")
        np.testing.assert_allclose(*run.probabilities, atol=1e-6)
        assert closed_loop([bound], ROWS, [4], 0.06, "test").completed.min() >= 4


def test_latencies_follow_the_rows_that_they_belong_to_beside_an_engine_of_this_process(runner: Isolated) -> None:
    run = single_stream([Engine("here", lambda number: 0), runner], NUMBERS, 3, "test")
    assert run.engines == ("here", "sleeper")
    np.testing.assert_array_equal(run.probabilities.argmax(axis=2), [[0] * 50, np.arange(50) % 3])
    slow = np.arange(50) % 10 == 3
    assert run.latency_ms[1][slow].min() >= 4, "a sleep never ends early"
    assert np.median(run.latency_ms[1][~slow]) < run.latency_ms[1][slow].min()


def test_queries_and_batches_of_rows_take_what_their_rows_take(runner: Isolated) -> None:
    rows = [str(10 * number + 3) for number in range(16)]
    assert multi_stream([runner], rows, 4, "test").query_ms.min() >= 4 * 4
    assert offline([runner], rows, None, "test").batch_ms.min() >= 8 * 4


def test_the_bytes_of_a_row_arrive(runner: Isolated) -> None:
    assert runner.predict([b"1", "2", b"4"]).argmax(axis=1).tolist() == [1, 2, 1]


def test_the_pipe_is_not_in_the_times(runner: Isolated) -> None:
    """Megabytes go over it, in no time compared with looking at the first word of each."""
    rows = [f"{number} {'x' * 1_000_000}" for number in (0, 1, 2, 4)]
    start = time.perf_counter()
    took_ms, answers = runner.timed([[row] for row in rows])
    whole_ms = 1000 * (time.perf_counter() - start)
    assert [int(answer.argmax()) for answer in answers] == [0, 1, 2, 1]
    assert took_ms.sum() < whole_ms / 2


def test_clients_of_a_closed_loop_are_in_the_process(runner: Isolated) -> None:
    load = closed_loop([runner], ["3"], [1, 3], 0.06, "test")
    assert load.health == {}
    assert (load.completed >= [[[1] * ROUNDS, [3] * ROUNDS]]).all()
    assert load.latency_ms.min() >= 4
    assert (load.completed[0, 0] / load.elapsed_s[0, 0] <= 250).all(), "one client, 4 ms a row"
    with pytest.raises(QualityError, match="not to its taste"):
        closed_loop([runner], ["refuse"], [2], 60, "test")


def test_an_error_is_the_same_here_and_the_process_goes_on(runner: Isolated) -> None:
    with pytest.raises(QualityError) as caught:
        runner.predict(["refuse"])
    assert (caught.value.asked, caught.value.found) == ("answer", "the row is not to its taste")
    assert caught.value.fix == "ask another one"
    assert runner.predict(["2"]).argmax() == 2


def test_what_cannot_be_opened_is_the_error_of_the_runner(tiny_export: Path, tmp_path: Path) -> None:
    (tmp_path / "fp32.onnx").write_bytes(b"no graph")
    task = load_task("text-classification", tiny_export, LABELS)
    with pytest.raises(ArtifactError, match=r"run fp32\.onnx on CPU"):
        Isolated("onnxruntime", "tldeploy.runtime.onnx:OnnxRunner", tmp_path / "fp32.onnx", task, tiny_export)


def test_a_process_that_is_killed_is_one_error_with_its_name_and_exit_code(tmp_path: Path) -> None:
    with closing(sleeper(tmp_path, 0)) as killed:
        match = r"run sleeper: its process is gone \(exit code -9, SIGKILL\)"
        with pytest.raises(MachineError, match=match):
            closed_loop([killed], ["vanish"], [2], 60, "test")
        with pytest.raises(MachineError, match=match):
            killed.predict(["1"])


def test_the_last_words_of_a_process_that_fails_are_told(tmp_path: Path) -> None:
    with closing(sleeper(tmp_path, 0)) as failing, pytest.raises(MachineError) as caught:
        failing.predict(["stumble"])
    assert "its process is gone (exit code 1); its last words:" in caught.value.found
    assert "something about tensors" in caught.value.found
    assert caught.value.found.endswith("RuntimeError: shapes do not match")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it_and_no_folder(stop: signal.Signals, tmp_path: Path) -> None:
    """In the midst of a request, which is when it does not listen."""
    command = [sys.executable, "-m", "tests.measuring.open_and_wait", str(tmp_path)]
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": os.environ | {"TMPDIR": str(tmp_path)}}
    with subprocess.Popen(command, text=True, **said) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, stop)
        parent.wait(timeout=60)
    gone, alive = psutil.wait_procs([child], timeout=60)
    assert (len(gone), alive) == (1, [])
    assert not list(tmp_path.glob("tldeploy-*"))
