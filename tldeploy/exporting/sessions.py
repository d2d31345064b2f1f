"""How the session of the chosen graph is opened on a GPU: what is tried, and kept only where it measures faster.

1. CANDIDATES is the table of what can be tried, in the order in which it is: what changes the kernels first, then what
   launches them. Some of it suits neither every network nor every variant: it says why not.
2. Each is tried on top of what was kept so far. Its session is opened, and has to answer as the plain one does, which
   is open_session's own: fp32 that is fp32. Then both are timed in one interleaved run on real rows, and the new one is
   kept if it is surely faster. One that fails on the way, as for want of memory, is not kept.
3. All that was kept is timed together against the plain session. Where that is not surely faster, plain it stays: of
   many that do nothing, one in forty each looks faster by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.artifacts import Choice
from tldeploy.errors import MachineError, QualityError
from tldeploy.exporting.parity import TOLERANCE, measure_parity
from tldeploy.exporting.scorecard import Entry, again_and_again
from tldeploy.exporting.source import Source
from tldeploy.exporting.targets import Place
from tldeploy.exporting.variants import REFERENCE, VARIANTS
from tldeploy.measuring.scenarios import offline, single_stream
from tldeploy.measuring.statistics import Estimate, speedup
from tldeploy.recipe.serving import Goal, Target
from tldeploy.runtime.bound import MOST_SHAPES
from tldeploy.runtime.local import Local
from tldeploy.runtime.onnx import Memory, OnnxRunner
from tldeploy.runtime.session import CUDA_OPTIONS
from tldeploy.tasks.classification import Classification

HALVES = ("fp16", "bf16")
MOST_ROWS = 320  # in each run, where there are as many


@dataclass(frozen=True)
class How:
    """How a session is opened: see OnnxRunner."""

    options: Mapping[str, str] = field(default_factory=dict)
    memory: Memory = "allocated"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return ", ".join([f"memory {self.memory}", *(f"{name} {value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Subject:
    """What a session is opened for. operators: of its graph. lengths: how many there are that rows are padded to; 0
    where all rows have one shape."""

    target: Target
    variant: str
    operators: Collection[str]
    lengths: int


@dataclass(frozen=True)
class Candidate:
    """One thing to try. options: that it adds. memory: that it changes to. misfit: why it is not worth trying; None if
    it is."""

    about: str
    misfit: Callable[[Subject], str | None]
    options: Mapping[str, str] = field(default_factory=dict)
    memory: Memory | None = None

    def on(self, how: How) -> How:
        return replace(how, options={**how.options, **self.options}, memory=self.memory or how.memory)


@dataclass(frozen=True)
class Found:
    """speedup: over the plain session, which it may be itself; None then. choices: one for each candidate, and one for
    all together."""

    how: How
    speedup: Estimate | None
    choices: list[Choice]

    def as_json(self, variant: str, device: Target) -> dict[str, Any]:
        gain = self.speedup.as_json() if self.speedup else None
        return {"variant": variant, "device": device, **self.how.as_json(), "speedup": gain}


def _no_tf32(subject: Subject) -> str | None:
    return f"{subject.variant} computes in sixteen bits" if subject.variant in HALVES else _no_cuda(subject)


def _no_nhwc(subject: Subject) -> str | None:
    return _no_cuda(subject) if "Conv" in subject.operators else "the network has no convolutions"


def _no_exhaustive(subject: Subject) -> str | None:
    if "Conv" in subject.operators and subject.lengths:
        return "rows differ in length, and every algorithm would be tried again for each"
    return _no_nhwc(subject)


def _no_capture(subject: Subject) -> str | None:
    if subject.target == "tensorrt":
        return "an engine that is built again for a new shape would leave the captured ones without memory"
    if subject.lengths > MOST_SHAPES:
        return f"rows are padded to {subject.lengths} lengths, of which {MOST_SHAPES} would be captured"
    return _no_cuda(subject)


def _no_cuda(subject: Subject) -> str | None:
    return None if subject.target == "cuda" else f"an option of the CUDA provider, and this is for {subject.target}"


def _no_gpu(subject: Subject) -> str | None:
    return None if subject.target in {"cuda", "tensorrt"} else f"{subject.target} has no memory of its own"


CANDIDATES = (
    Candidate("TF32", _no_tf32, {"use_tf32": "1"}),
    Candidate("channels last in convolutions", _no_nhwc, {"prefer_nhwc": "1"}),
    Candidate("trying all algorithms of convolutions", _no_exhaustive, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    Candidate("memory in pieces as requested", _no_cuda, {"arena_extend_strategy": "kSameAsRequested"}),
    Candidate("I/O binding", _no_gpu, memory="bound"),
    Candidate("CUDA graphs", _no_capture, memory="captured"),
)


def plain(target: Target) -> How:
    """What open_session does unless told, written out where there is something to tell a server."""
    return How(CUDA_OPTIONS if target == "cuda" else {})


def tolerance_of(entry: Entry) -> float:
    """How far a session's probabilities may be from the plain one's, so that the variant stays what was measured.

    A float graph is to agree with PyTorch to TOLERANCE, of which its parity has some already. Any other may be moved by
    as much as it is away from PyTorch anyway.
    """
    is_float = entry.name == REFERENCE or VARIANTS[entry.name].is_float
    off = entry.parity.max_abs_diff
    return TOLERANCE - off if is_float else max(TOLERANCE, off)


class Trials:
    """Where sessions are held against each other, and each against the plain one, which stays open.

    opened: opens the graph; raises MachineError where that cannot be done so. rows: asked one at a time or, where the
    goal is throughput, in batches. tolerance: see tolerance_of.
    """

    def __init__(
        self,
        opened: Callable[[How], Local],
        plain: How,
        task: Classification,
        rows: Sequence[str],
        goal: Goal,
        tolerance: float,
    ) -> None:
        self._opened, self._task, self._rows, self._goal = opened, task, rows, goal
        self.plain, self.tolerance = plain, tolerance
        batches = task.parity_batches(rows)
        turned = [{name: np.ascontiguousarray(values[::-1]) for name, values in batch.items()} for batch in batches]
        # Each shape again, with its rows in another order: what has memory of its own, or was captured, must not answer
        # with what was there before.
        self._batches = [*batches, *turned, *batches]
        self._reference = opened(plain)

    def difference(self, other: Local) -> float:
        """The largest, of probabilities, from the plain session's. Raises what measure_parity does where it does not
        run."""
        return measure_parity(self._reference, other, self._batches).max_abs_diff

    def speedup(self, new: Local, over: How) -> Estimate:
        """In one interleaved run. Raises MachineError where the GPU does not get through it."""
        with self.opened(over) as old:
            if self._goal == "throughput":
                lengths = self._task.examples(self._rows).lengths if len(self._task.axes) > 1 else None
                batched = offline([new, old], self._rows, lengths, "export: session")
                return speedup(batched.batch_ms[0], batched.batch_ms[1], batched.block)
            stream = single_stream([new, old], self._rows, len(self._task.labels), "export: session")
            return speedup(stream.latency_ms[0], stream.latency_ms[1], stream.block)

    @contextmanager
    def opened(self, how: How) -> Iterator[Local]:
        if how == self.plain:
            yield self._reference
        else:
            with closing(self._opened(how)) as runner:
                yield runner

    def close(self) -> None:
        self._reference.close()


def fastest_session(graph: Path, entry: Entry, source: Source, place: Place, lengths: int) -> Found | None:
    """How a variant's session is fastest on the GPU that it is for; None where that is not here, or it is for a CPU.

    lengths: see Subject.
    """
    if place.target not in {"cuda", "tensorrt"} or place.why_not_there:
        return None

    def opened(how: How) -> Local:
        return OnnxRunner(graph, source.task, place.target, **how.as_json())

    rows, first = rows_for(source.validation.inputs), plain(place.target)
    subject = Subject(place.target, entry.name, set(source.operators), lengths)
    with closing(Trials(opened, first, source.task, rows, source.settings.goal, tolerance_of(entry))) as trials:
        return choose_session(trials, subject)


def rows_for(inputs: Sequence[str]) -> list[str]:
    """Some of the rows, from everywhere among them, or all of them as often as it takes."""
    taken = np.linspace(0, len(inputs) - 1, min(len(inputs), MOST_ROWS)).astype(int).tolist()
    return again_and_again([inputs[at] for at in taken])


def choose_session(trials: Trials, subject: Subject, candidates: Sequence[Candidate] = CANDIDATES) -> Found:
    """Go through the candidates; see the top of this file."""
    how, choices = trials.plain, []
    for candidate in candidates:
        tried = candidate.on(how)
        misfit = candidate.misfit(subject)
        is_kept, reason = (False, misfit) if misfit else _judge(trials, how, tried)
        how = tried if is_kept else how
        choices.append(_choice(candidate.about, "kept" if is_kept else "not kept", reason))
    gain, reason = _together(trials, how)
    choices.append(_choice("as a whole", str(how) if gain else "plain", reason))
    return Found(how if gain else trials.plain, gain, choices)


def _judge(trials: Trials, how: How, tried: How) -> tuple[bool, str]:
    """Whether `tried` is surely faster than `how`, and answers as it should; and what was found."""
    try:
        with trials.opened(tried) as runner:
            difference = trials.difference(runner)
            if not difference <= trials.tolerance:  # also where it is no number
                return False, f"its probabilities are off by {difference:.1e}, tolerance {trials.tolerance:.1e}"
            gain = trials.speedup(runner, how)
    except (MachineError, QualityError) as error:
        return False, f"not possible here: {error.found}"
    return gain.low > 1, _words(gain) if gain.low > 1 else f"not surely faster: {_words(gain)}"


def _together(trials: Trials, how: How) -> tuple[Estimate | None, str]:
    """What all that was kept gains over the plain session, None where that is not surely so; and what was found."""
    if how == trials.plain:
        return None, "nothing that was tried is surely faster"
    try:
        with trials.opened(how) as runner:
            gain = trials.speedup(runner, trials.plain)
    except (MachineError, QualityError) as error:
        return None, f"not possible together: {error.found}"
    words = f"{_words(gain)} as the plain one"
    return (gain, words) if gain.low > 1 else (None, f"not surely faster together: {words}")


def _words(gain: Estimate) -> str:
    return f"{gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}] times as fast"


def _choice(about: str, value: Any, reason: str) -> Choice:
    return Choice(about=f"session: {about}", value=value, reason=reason)
