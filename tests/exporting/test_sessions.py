"""Which ways to open a session are tried, and which are kept: real sessions on the CPU, on a clock that they move."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.exporting.tiny_source import text_source
from tests.measuring.virtual import Clock
from tests.runtime.full import FULL, FullGpu
from tldeploy.errors import MachineError
from tldeploy.exporting.export import _Made, _parities
from tldeploy.exporting.parity import Parity
from tldeploy.exporting.scorecard import ENOUGH, measure_variants
from tldeploy.exporting.sessions import (
    CANDIDATES,
    MOST_ROWS,
    Candidate,
    Found,
    How,
    Subject,
    Trials,
    choose_session,
    fastest_session,
    plain,
    rows_for,
    tolerance_of,
)
from tldeploy.exporting.source import Source
from tldeploy.exporting.targets import Place, place_for
from tldeploy.recipe import Cuda
from tldeploy.recipe.serving import Goal
from tldeploy.runtime.local import Local
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.session import CUDA_OPTIONS
from tldeploy.tasks.classification import Row

TEXTS = Subject("cuda", "fp32", {"MatMul", "Softmax"}, lengths=4)
IMAGES = Subject("cuda", "fp32", {"Conv", "MatMul"}, lengths=0)
HERE = Subject("cpu", "fp32", {"MatMul"}, lengths=4)
TF32, LAST, ALL, PIECES, BOUND, GRAPHS = (candidate.about for candidate in CANDIDATES)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return text_source(tmp_path_factory.mktemp("text"), layers=1)


@pytest.mark.parametrize(
    ("subject", "tried"),
    [
        (TEXTS, {TF32, PIECES, BOUND, GRAPHS}),
        (IMAGES, {TF32, LAST, ALL, PIECES, BOUND, GRAPHS}),
        (replace(IMAGES, variant="fp16"), {LAST, ALL, PIECES, BOUND, GRAPHS}),
        (replace(TEXTS, variant="int8-weights"), {TF32, PIECES, BOUND, GRAPHS}),
        (replace(IMAGES, lengths=4), {TF32, LAST, PIECES, BOUND, GRAPHS}),
        (replace(TEXTS, lengths=65), {TF32, PIECES, BOUND}),
        (replace(IMAGES, target="tensorrt"), {BOUND}),
        (replace(IMAGES, target="cpu"), set()),
        (replace(IMAGES, target="openvino"), set()),
    ],
)
def test_what_is_tried_follows_from_the_network_the_variant_and_the_target(
    subject: Subject, tried: Collection[str]
) -> None:
    assert {candidate.about for candidate in CANDIDATES if candidate.misfit(subject) is None} == tried


def test_each_way_is_what_onnxruntime_calls_it_and_what_a_recipe_can_say() -> None:
    how = plain("cuda")
    assert how == How({"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}, "allocated")
    for candidate in CANDIDATES:
        how = candidate.on(how)
    assert how.as_json() == {
        "options": {
            "use_tf32": "1",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "prefer_nhwc": "1",
            "arena_extend_strategy": "kSameAsRequested",
        },
        "memory": "captured",
    }
    assert Cuda.model_validate(how.options) == Cuda(
        use_tf32=True,
        cudnn_conv_algo_search="EXHAUSTIVE",
        prefer_nhwc=True,
        arena_extend_strategy="kSameAsRequested",
    )
    assert Cuda.model_validate(CUDA_OPTIONS).use_tf32 is False
    assert plain("tensorrt") == How()


class Paced(OnnxRunner):
    """A session on the CPU, which says that it takes what `ms` says of how it is opened and how many rows it is asked,
    and a little more or less."""

    def __init__(self, source: Source, how: How, clock: Clock, ms: Callable[[int], float]) -> None:
        super().__init__(source.graph, source.task, memory=how.memory)
        self.clock, self.ms, self.draw = clock, ms, np.random.default_rng(len(how.options))

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        self.clock.now_s += self.ms(len(rows)) * self.draw.normal(1, 0.02) / 1000
        return super().predict(rows)


class Job:
    """The search, on virtual time. ms: of a request, by how its session is opened and its number of rows."""

    def __init__(self, source: Source, clock: Clock, ms: Callable[[How, int], float]) -> None:
        self.source, self.clock, self.ms = source, clock, ms
        self.opened: list[How] = []
        self.kind: Callable[[How], type[Paced]] = lambda _: Paced

    def open(self, how: How) -> Local:
        self.opened.append(how)
        number = len(self.opened)

        def ms(rows: int) -> float:
            return self.ms(how, rows) if number else 0

        return self.kind(how)(self.source, how, self.clock, ms)

    def run(self, candidates: Sequence[Candidate], goal: Goal = "latency", tolerance: float = 1e-4) -> Found:
        rows = self.source.validation.inputs
        with closing(Trials(self.open, How(), self.source.task, rows, goal, tolerance)) as trials:
            return choose_session(trials, HERE, candidates)


@pytest.fixture
def job(text: Source, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[How, int], float]], Job]:
    clock = Clock()
    monkeypatch.setattr("tldeploy.measuring.asking.time", clock)
    monkeypatch.setattr("tldeploy.measuring.warming.time", clock)
    return lambda ms: Job(text, clock, ms)


def fits(_: Subject) -> None:
    return None


def option(name: str) -> Candidate:
    return Candidate(name, fits, {name: "1"})


def said(found: Found) -> dict[str, tuple[Any, str]]:
    return {choice.about.removeprefix("session: "): (choice.value, choice.reason) for choice in found.choices}


def test_what_is_surely_faster_is_kept_and_all_of_it_together_is_timed_against_the_plain_session(job: Any) -> None:
    factors = {"quick": 0.8, "slow": 1.3, "idle": 1.0}

    def ms(how: How, rows: int) -> float:
        return float(10 * np.prod([factors[name] for name in how.options]) * (0.5 if how.memory == "bound" else 1))

    candidates = [*map(option, factors), Candidate("bound", fits, memory="bound")]
    found = job(ms).run(candidates)
    assert found.how == How({"quick": "1"}, "bound")
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx(1 / 0.4, rel=0.01)
    assert found.speedup.low < found.speedup.value < found.speedup.high
    values = {about: value for about, (value, _) in said(found).items()}
    assert values == {
        "quick": "kept",
        "slow": "not kept",
        "idle": "not kept",
        "bound": "kept",
        "as a whole": "memory bound, quick 1",
    }
    assert said(found)["quick"][1].startswith("1.25 [1.2")
    assert said(found)["slow"][1].startswith("not surely faster: 0.77 [")
    assert said(found)["as a whole"][1].endswith("] times as fast as the plain one")
    assert found.as_json("fp32", "cuda")["memory"] == "bound"


def test_each_is_tried_on_top_of_what_was_kept_before_it(job: Any) -> None:
    """Whichever of two that bring the same comes first is kept, and the other brings nothing more."""
    one = job(lambda how, rows: 8 if how.options else 10)
    found = one.run([option("first"), option("second")])
    assert found.how == How({"first": "1"})
    assert said(found)["second"][0] == "not kept"
    assert How({"first": "1", "second": "1"}) in one.opened
    assert How({"second": "1"}) not in one.opened


def test_without_anything_that_is_faster_the_session_stays_plain(job: Any) -> None:
    found = job(lambda how, rows: 10).run([option("idle"), Candidate("bound", fits, memory="bound")])
    assert (found.how, found.speedup) == (How(), None)
    assert said(found)["as a whole"] == ("plain", "nothing that was tried is surely faster")


def test_what_does_not_last_is_not_kept(job: Any) -> None:
    """A session that is fast when it is tried and slow when it is opened again, as one that was lucky is."""
    opened = job(lambda how, rows: 8 if opened.opened.count(How({"lucky": "1"})) == 1 and how.options else 10)
    found = opened.run([option("lucky")])
    assert said(found)["lucky"][0] == "kept"
    assert found.how == How()
    assert said(found)["as a whole"][1].startswith("not surely faster together: 1.00 [")


def test_with_throughput_as_the_goal_batches_decide(job: Any) -> None:
    """It answers one row sooner, and eight later."""
    opened = job(lambda how, rows: (5 if rows == 1 else 90) if how.options else 10 * rows)
    assert opened.run([option("single")]).how == How({"single": "1"})
    assert opened.run([option("single")], goal="throughput").how == How()


class Off(Paced):
    """Its probabilities are off by a thousandth."""

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return super().run(tensors) + np.float32(1e-3)


class Stale(Paced):
    """It answers what it answered first to that shape."""

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        known: dict[tuple[int, ...], NDArray[np.float32]] = self.__dict__.setdefault("known", {})
        return known.setdefault(tensors["input_ids"].shape, super().run(tensors))


@pytest.mark.parametrize(("kind", "tolerance", "is_kept"), [(Off, 1e-4, 0), (Off, 2e-3, 1), (Stale, 1e-4, 0)])
def test_a_session_that_answers_otherwise_is_not_kept_however_fast(
    job: Any, kind: type[Paced], tolerance: float, is_kept: bool
) -> None:
    opened = job(lambda how, rows: 1 if how.options else 10)
    opened.kind = lambda how: kind if how.options else Paced
    found = opened.run([option("other")], tolerance=tolerance)
    assert said(found)["other"][0] == ("kept" if is_kept else "not kept")
    if not is_kept:
        assert said(found)["other"][1].startswith("its probabilities are off by ")
        assert said(found)["other"][1].endswith("tolerance 1.0e-04")


class Full(Paced):
    """It is on a GPU whose memory is full once it was compared, and begins to be timed."""

    def __init__(self, source: Source, how: How, clock: Clock, ms: Callable[[int], float]) -> None:
        super().__init__(source, how, clock, ms)
        compared = 3 * len(source.task.parity_batches(source.validation.inputs))
        self._session, self._on = FullGpu(self._session, compared + 5), "CUDAExecutionProvider"


WORDS = " ".join(FULL.split())


@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_a_session_that_fails_while_it_is_timed_is_not_kept_and_the_others_are_tried(job: Any, goal: Goal) -> None:
    opened = job(lambda how, rows: 8 if "quick" in how.options else 10)
    opened.kind = lambda how: Full if "large" in how.options else Paced
    found = opened.run([option("large"), option("quick")], goal=goal)
    assert said(found)["large"] == ("not kept", f"not possible here: {WORDS}")
    assert found.how == How({"quick": "1"})


def test_sessions_that_fail_when_all_that_was_kept_is_timed_stay_plain(job: Any) -> None:
    opened = job(lambda how, rows: 8 if how.options else 10)
    opened.kind = lambda how: Full if opened.opened.count(How({"quick": "1"})) == 2 else Paced
    found = opened.run([option("quick")])
    assert said(found)["quick"][0] == "kept"
    assert said(found)["as a whole"] == ("plain", f"not possible together: {WORDS}")
    assert (found.how, found.speedup) == (How(), None)


def test_a_variant_that_does_not_fit_is_left_out_but_fp32_may_not_be(text: Source, tmp_path: Path) -> None:
    text.network.save(tmp_path)

    def full() -> OnnxRunner:
        runner = OnnxRunner(text.graph, text.task)
        runner._session, runner._on = FullGpu(runner._session, 2), "CUDAExecutionProvider"  # type: ignore[assignment]
        return runner

    files = [text.graph, tmp_path / "fp16.onnx"]
    with closing(_Made([*files], [OnnxRunner(text.graph, text.task), full()])) as made:
        assert len(_parities(tmp_path, made, text.task, text.validation)) == len(made.runners) == 1
        assert [(choice.about, choice.reason) for choice in made.left_out] == [("variant fp16", WORDS)]
    with (
        closing(_Made([*files], [full(), OnnxRunner(text.graph, text.task)])) as made,
        pytest.raises(MachineError, match=r"cannot run fp32\.onnx on CUDAExecutionProvider"),
    ):
        _parities(tmp_path, made, text.task, text.validation)


def test_what_cannot_be_opened_here_is_said_with_its_reason(job: Any, text: Source) -> None:
    opened = job(lambda how, rows: 10)
    plainly = opened.open

    def on_a_gpu(how: How) -> Local:
        return OnnxRunner(text.graph, text.task, "cuda", how.options) if how.options else plainly(how)

    try:
        on_a_gpu(How({"use_tf32": "1"})).close()
        pytest.skip("there is a GPU")
    except MachineError as error:
        refusal = error.found
    opened.open = on_a_gpu
    found = opened.run([Candidate("TF32", fits, {"use_tf32": "1"}), Candidate("misfit", lambda _: "not for this one")])
    assert said(found)["TF32"] == ("not kept", f"not possible here: {refusal}")
    assert said(found)["misfit"] == ("not kept", "not for this one")


def test_a_session_that_cannot_be_opened_again_leaves_the_one_that_is_there(text: Source) -> None:
    found = Found(How({"device_id": "99"}), None, [])  # refused by a machine without a GPU, and by one with
    with closing(_Made([text.graph], [OnnxRunner(text.graph, text.task)])) as made:
        (runner,) = made.runners
        with pytest.raises(MachineError, match="CUDAExecutionProvider"):
            made.reopen(0, text.task, Place("cuda", "CUDAExecutionProvider"), found, text.validation)
        assert made.runners == [runner]
        assert runner.predict(text.validation.inputs[:2]).shape == (2, 3)


def test_a_session_that_is_opened_again_replaces_the_one_that_was_there(text: Source) -> None:
    found = Found(How(memory="bound"), None, [])
    with closing(_Made([text.graph], [OnnxRunner(text.graph, text.task)])) as made:
        (runner,) = made.runners
        expected = runner.predict(text.validation.inputs[:2])
        golden = made.reopen(0, text.task, Place("cpu", "CPUExecutionProvider"), found, text.validation)
        assert made.runners[0].provider == "CPUExecutionProvider, bound"
        np.testing.assert_allclose(golden[:2], expected, atol=1e-6)


def test_where_the_gpu_is_not_here_or_not_the_target_nothing_is_tried(text: Source) -> None:
    here = place_for("cpu", text.graph)
    with closing(OnnxRunner(text.graph, text.task)) as runner:
        parity = Parity([(1, 7)], 2e-6, 1e-6, 1.0)
        rows = text.validation.take([0, 1])
        (entry,) = measure_variants([text.graph], [runner], [parity], text.task, rows, replace(here, why_not_there="-"))
    elsewhere = Place("cuda", "CPUExecutionProvider", "there is no driver")
    assert fastest_session(text.graph, entry, text, here, 4) is None
    assert fastest_session(text.graph, entry, text, elsewhere, 4) is None
    assert tolerance_of(entry) == pytest.approx(1e-4 - 2e-6)
    assert tolerance_of(replace(entry, name="fused")) == pytest.approx(1e-4 - 2e-6)
    assert tolerance_of(replace(entry, name="fp16")) == 1e-4
    assert tolerance_of(replace(entry, name="fp16", parity=replace(parity, max_abs_diff=3e-3))) == 3e-3


def test_rows_are_enough_and_from_everywhere() -> None:
    many = [str(number) for number in range(1000)]
    taken = rows_for(many)
    assert (len(taken), taken[0], taken[-1]) == (MOST_ROWS, "0", "999")
    assert rows_for(["a", "b", "c"]) == ["a", "b", "c"] * 54
    assert ENOUGH <= 3 * 54
