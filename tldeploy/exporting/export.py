"""The export stage: a tuned network in, ONNX variants and their scorecard out.

1. The network becomes the fp32 graph; the other variants are made from that file, and opened where they will run.
2. Each is compared with PyTorch at several shapes; fp32 must be within tolerance.
3. All are measured in one interleaved run on the validation rows, and one is chosen to be served. On a GPU, if it is
   here, its session is opened in several ways, and the fastest is kept (sessions.py).
4. The chosen one and fp32 answer the held-out rows: the final figure, which no choice looks at.
5. The files of the variants that were refused are deleted, unless they are to be kept. The answers of the chosen one
   to a few rows are kept as golden samples, for whoever serves it to check against.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tldeploy import __version__, artifacts, environment
from tldeploy.artifacts import Choice, Manifest
from tldeploy.backbones.network import load_network
from tldeploy.data.rows import Rows
from tldeploy.errors import ArtifactError, MachineError, QualityError
from tldeploy.exporting.graph import export_graph, metadata
from tldeploy.exporting.parity import TOLERANCE, Parity, measure_parity
from tldeploy.exporting.scorecard import GOLDEN_ROWS, Entry, measure_variants
from tldeploy.exporting.selection import as_details, choose, judge, measure_held_out
from tldeploy.exporting.sessions import Found, fastest_session
from tldeploy.exporting.source import Source
from tldeploy.exporting.storage import delete_graph
from tldeploy.exporting.targets import Place, place_for
from tldeploy.exporting.variants import REFERENCE, VARIANTS, wanted
from tldeploy.progress import progress
from tldeploy.recipe import Export
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification

GOLDEN = "golden.json"
TEST_ROWS, CALIBRATION_ROWS = "test.jsonl", "calibration.jsonl"


@dataclass(frozen=True)
class _Made:
    """The variants that could be made, fp32 first, each open; what their makers said; and those left out, with why."""

    files: list[Path]
    runners: list[OnnxRunner]
    details: dict[str, Any] = field(default_factory=dict)
    left_out: list[Choice] = field(default_factory=list)

    def leave_out(self, at: int, reason: str) -> None:
        file = self.files.pop(at)
        self.runners.pop(at).close()
        delete_graph(file)
        self.left_out.append(Choice(about=f"variant {file.stem}", value="left out", reason=reason))

    def reopen(self, at: int, task: Classification, place: Place, session: Found, rows: Rows) -> list[list[float]]:
        """In the session that was found; gives the golden answers, as it answers. Raises what opening it does."""
        opened = OnnxRunner(self.files[at], task, place.target, **session.how.as_json())
        self.runners[at].close()
        self.runners[at] = opened
        return [self.runners[at].predict([row])[0].tolist() for row in rows.inputs[:GOLDEN_ROWS]]

    def close(self) -> None:
        for runner in self.runners:
            runner.close()


def export(settings: Export, tuned: Path, folder: Path, inputs: str, *, there: bool = False) -> Manifest:
    """Write the variants that `settings` names into `folder`, an artifact of kind "export".

    tuned: the artifact of the tune stage. there: they must be measured on the target. A variant that cannot be made
    soundly is left out, with the reason in the manifest's decisions. Raises QualityError when fp32 itself is out of
    tolerance, and MachineError for a target that has to be there and is not.
    """
    parent = artifacts.load(tuned, "tune")
    task = load_task(parent.task, tuned, parent.labels)
    rows = Rows.load(tuned / "validation.jsonl")
    calibration = _calibration(tuned)
    network = load_network(tuned)
    with artifacts.writing(folder) as beside:
        graph = beside / f"{REFERENCE}.onnx"
        export_graph(network, task, graph, settings.opset, metadata(task, parent.sha256, __version__))
        place = place_for(settings.target, graph, there=there)
        source = Source(graph, network, task, calibration, rows, settings)
        with closing(_make_variants(source, place)) as made:
            parities = _parities(tuned, made, task, rows)
            measured = measure_variants(made.files, made.runners, parities, task, rows, place)
            learnt = any(method.get("quantization_aware") for method in parent.metrics.values())
            entries = judge(measured, settings, learnt)
            choice = choose(entries, settings)
            at = [entry.name for entry in entries].index(choice.value)
            lengths = _padded_lengths(task, calibration)
            chosen, session = entries[at], fastest_session(made.files[at], entries[at], source, place, len(lengths))
            if session is not None:
                chosen = replace(chosen, golden=made.reopen(at, task, place, session, rows))
            runners = made.runners[:1] if at == 0 else [made.runners[0], made.runners[at]]
            test = Rows.load(tuned / TEST_ROWS)
            held_out, over = measure_held_out(runners, task, test, chosen.drop, settings)
        if not settings.keep_all:
            entries = list(_without_files_of_refused(entries, beside))
        golden = {"rows": _golden_rows(rows), "probabilities": chosen.golden}
        (beside / GOLDEN).write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        task.save(beside)
        manifest = Manifest(
            kind="export",
            name=parent.name,
            inputs=inputs,
            task=task.name,
            labels=task.labels,
            preprocessing=task.preprocessing,
            metrics={chosen.metric.name: chosen.metric.as_json()},
            decisions=[
                *(choice, *over, *_about_place(place), *_refused(entries), *made.left_out),
                *(session.choices if session else []),
            ],
            environment=environment.describe(),
            parents={"tune": parent.sha256},
            details={
                "chosen": chosen.name,
                "target": settings.target,
                "goal": settings.goal,
                "max_drop": settings.max_drop,
                "padded_lengths": lengths,
                "variants": [entry.as_json() for entry in entries],
                "held_out": as_details(held_out),
                **({"session": session.as_json(chosen.name, place.target)} if session else {}),
                **made.details,
            },
        )
        return artifacts.seal(beside, manifest)


def _calibration(tuned: Path) -> Rows:
    """Rows that were learnt from. Raises ArtifactError where a tune stage that did not keep any wrote the artifact."""
    file = tuned / CALIBRATION_ROWS
    if not file.is_file():
        found = f"there is no {file.name} in it: an older tldeploy tuned it, and kept no rows to calibrate with"
        raise ArtifactError(f"export {tuned}", found, "run `tldeploy tune` again, or `tldeploy run` for all stages")
    return Rows.load(file)


def _padded_lengths(task: Classification, rows: Rows) -> dict[str, int]:
    """How many rows are padded to each length, the shortest first; nothing where all have one shape."""
    if len(task.axes) == 1:
        return {}
    examples = task.examples(rows.inputs)
    padded = Counter(examples.batch([at])[task.inputs[0]].shape[1] for at in range(len(examples)))
    return {str(length): count for length, count in sorted(padded.items())}


def _make_variants(source: Source, place: Place) -> _Made:
    names, left_out = wanted(source)
    where = "cpu" if place.why_not_there else place.target
    made = _Made([source.graph], [OnnxRunner(source.graph, source.task, where)], left_out=left_out)
    with progress("export: graphs", len(names)) as advance:
        for name in names:
            file = source.graph.with_name(f"{name}.onnx")
            try:
                for key, said in VARIANTS[name].make(source, file).items():
                    made.details[key] = made.details.get(key, {}) | said
                made.runners.append(OnnxRunner(file, source.task, where))
                made.files.append(file)
            except (QualityError, ArtifactError, MachineError) as error:
                delete_graph(file)
                made.left_out.append(Choice(about=f"variant {name}", value="left out", reason=error.found))
            advance(1)
    return made


def _parities(tuned: Path, made: _Made, task: Classification, rows: Rows) -> list[Parity]:
    """One for each variant; those whose answers are not even numbers, or that do not answer, are left out of `made`.

    Raises the error of fp32 if that does not answer.
    """
    batches = task.parity_batches(rows.inputs)
    parities: list[Parity] = []
    with closing(TorchRunner(tuned, task)) as reference:
        for runner in list(made.runners):
            try:
                parities.append(measure_parity(reference, runner, batches))
            except (QualityError, MachineError) as error:
                if not parities:
                    raise
                made.leave_out(len(parities), error.found)
    if not parities[0].max_abs_diff <= TOLERANCE:  # also where it is no number
        found = f"probabilities differ from PyTorch's by {parities[0].max_abs_diff:.1e}, tolerance {TOLERANCE:.0e}"
        raise QualityError("trust the exported graph", found, "report this backbone as a bug of tldeploy")
    for at in reversed(range(len(parities))):
        if not math.isfinite(parities[at].max_abs_diff):
            parities.pop(at)
            made.leave_out(at, "its answers are not finite numbers")
    return parities


def _about_place(place: Place) -> list[Choice]:
    if place.why_not_there is None:
        return []
    reason = f"{place.why_not_there}; accuracy was measured on the CPU"
    return [Choice(about=f"speed on {place.target}", value="not measured", reason=reason)]


def _refused(entries: Sequence[Entry]) -> list[Choice]:
    """Every refused variant is in the manifest with its reason, as those are that could not be made."""
    return [
        Choice(
            about=f"variant {entry.name}", value="refused" if entry.file else "refused, deleted", reason=entry.reason
        )
        for entry in entries
        if not entry.kept
    ]


def _without_files_of_refused(entries: Sequence[Entry], folder: Path) -> Iterable[Entry]:
    for entry in entries:
        if not entry.kept and entry.file:
            delete_graph(folder / entry.file)
        yield entry if entry.kept else replace(entry, file=None)


def _golden_rows(rows: Rows) -> list[str]:
    """The first rows as JSON carries them: texts as they are, image files in base64."""
    first = rows.inputs[:GOLDEN_ROWS]
    return [base64.b64encode(Path(row).read_bytes()).decode() for row in first] if rows.column == "image" else first
