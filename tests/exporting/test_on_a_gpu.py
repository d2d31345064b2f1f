"""On an NVIDIA GPU: what engines and sessions answer there is what PyTorch answers on the CPU, to their precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.exporting.tiny_source import image_source, text_source
from tldeploy.devices import lacking
from tldeploy.exporting.parity import measure_parity
from tldeploy.exporting.scorecard import measure_variants
from tldeploy.exporting.sessions import CANDIDATES, fastest_session, tolerance_of
from tldeploy.exporting.source import Source
from tldeploy.exporting.targets import place_for
from tldeploy.recipe import Export
from tldeploy.runtime.local import Local
from tldeploy.runtime.onnx import Memory, OnnxRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.runtime.pytorch_compiled import TorchCompileRunner
from tldeploy.runtime.pytorch_half import TorchBf16Runner, TorchFp16Runner

LACK = lacking("cuda", ["torch", "onnxruntime"])
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(LACK is not None, reason=LACK.found if LACK else "")]


@pytest.fixture(scope="module", params=[text_source, image_source])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    make: Callable[[Path, Export], Source] = request.param
    made = make(tmp_path_factory.mktemp("source"), Export(target="cuda"))
    made.network.save(made.graph.parent)
    return made


@pytest.fixture(scope="module")
def expected(source: Source) -> Iterator[NDArray[np.float32]]:
    with closing(TorchRunner(source.graph.parent, source.task)) as eager:
        yield np.concatenate([eager.predict([row]) for row in source.validation.inputs])


def answers_alone_together_and_to_threads(runner: Local, rows: list[str], expected: object, tolerance: float) -> None:
    with closing(runner), ThreadPoolExecutor(4) as pool:
        alone = np.concatenate([runner.predict([row]) for row in rows])
        together = np.concatenate([runner.predict(rows[start : start + 8]) for start in range(0, len(rows), 8)])
        threads = np.concatenate(list(pool.map(lambda row: runner.predict([row]), rows)))
    for found in (alone, together, threads):
        np.testing.assert_allclose(found, expected, atol=tolerance)
    assert "CUDA" in runner.provider


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(TorchRunner, 1e-4), (TorchBf16Runner, 3e-2), (TorchFp16Runner, 5e-3), (TorchCompileRunner, 5e-3)],
)
def test_pytorch_answers_as_on_the_cpu(
    source: Source, expected: NDArray[np.float32], kind: type[TorchRunner], tolerance: float
) -> None:
    runner = kind(source.graph.parent, source.task, "cuda")
    answers_alone_together_and_to_threads(runner, source.validation.inputs, expected, tolerance)


@pytest.mark.parametrize("memory", ["allocated", "bound", "captured"])
def test_onnxruntime_answers_as_on_the_cpu_wherever_its_memory_is(
    source: Source, expected: NDArray[np.float32], memory: Memory
) -> None:
    runner = OnnxRunner(source.graph, source.task, "cuda", memory=memory)
    answers_alone_together_and_to_threads(runner, source.validation.inputs, expected, 1e-4)


def test_the_session_that_is_found_answers_as_pytorch(source: Source) -> None:
    rows, place = source.validation, place_for("cuda", source.graph)
    batches = source.task.parity_batches(rows.inputs)
    with (
        closing(TorchRunner(source.graph.parent, source.task)) as eager,
        closing(OnnxRunner(source.graph, source.task, "cuda")) as plain,
    ):
        parity = measure_parity(eager, plain, batches)
        (entry,) = measure_variants([source.graph], [plain], [parity], source.task, rows, place)
        found = fastest_session(source.graph, entry, source, place, lengths=2 if len(source.task.axes) > 1 else 0)
        assert found is not None
        with closing(OnnxRunner(source.graph, source.task, "cuda", **found.how.as_json())) as fast:
            assert measure_parity(plain, fast, batches).max_abs_diff <= tolerance_of(entry)
            assert measure_parity(eager, fast, batches).max_abs_diff <= 1e-4
    assert len(found.choices) == len(CANDIDATES) + 1
