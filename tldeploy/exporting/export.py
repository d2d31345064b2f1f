"""The export stage: a tuned network in, ONNX variants and their scorecard out.

1. The network becomes the fp32 graph; the other variants are made from that file.
2. Each is compared with PyTorch at several shapes; fp32 must be within tolerance.
3. All are measured in one interleaved run on the validation rows, and one is chosen to be served.
4. The answers of the chosen one to a few rows are kept as golden samples, for whoever serves it to check against.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tldeploy import __version__, artifacts, environment
from tldeploy.artifacts import Choice, Manifest
from tldeploy.backbones.network import load_network
from tldeploy.data.rows import Rows
from tldeploy.errors import QualityError
from tldeploy.exporting.graph import export_graph, metadata
from tldeploy.exporting.parity import TOLERANCE, Parity, measure_parity
from tldeploy.exporting.scorecard import GOLDEN_ROWS, choose, measure_variants
from tldeploy.exporting.source import Source
from tldeploy.exporting.variants import REFERENCE, VARIANTS, wanted
from tldeploy.progress import progress
from tldeploy.recipe import Export
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification

GOLDEN = "golden.json"


def export(settings: Export, tuned: Path, folder: Path, inputs: str) -> Manifest:
    """Write the variants that `settings` names into `folder`, an artifact of kind "export".

    tuned: the artifact of the tune stage. A variant that cannot be made soundly is left out, with the reason in the
    manifest's decisions. Raises QualityError when fp32 itself is out of tolerance.
    """
    parent = artifacts.load(tuned, "tune")
    task = load_task(parent.task, tuned, parent.labels)
    rows = Rows.load(tuned / "validation.jsonl")
    network = load_network(tuned)
    with artifacts.writing(folder) as beside:
        files = [beside / f"{REFERENCE}.onnx"]
        export_graph(network, task, files[0], settings.opset, metadata(task, parent.sha256, __version__))
        calibration = Rows.load(tuned / "calibration.jsonl")
        source = Source(files[0], network, task, calibration, rows, settings)
        names, left_out = wanted(source)
        details: dict[str, Any] = {}
        with progress("export: graphs", len(names)) as advance:
            for name in names:
                file = beside / f"{name}.onnx"
                try:
                    for key, said in VARIANTS[name].make(source, file).items():
                        details[key] = details.get(key, {}) | said
                    files.append(file)
                except QualityError as error:
                    file.unlink(missing_ok=True)
                    left_out.append(Choice(about=f"variant {name}", value="left out", reason=error.found))
                advance(1)
        parities = _parities(tuned, files, task, rows)
        entries = measure_variants(files, parities, task, rows, settings.max_drop)
        choice = choose(entries)
        chosen = next(entry for entry in entries if entry.name == choice.value)
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
            decisions=[choice, *left_out],
            environment=environment.describe(),
            parents={"tune": parent.sha256},
            details={"chosen": chosen.name, "variants": [entry.as_json() for entry in entries], **details},
        )
        return artifacts.seal(beside, manifest)


def _golden_rows(rows: Rows) -> list[str]:
    """The first rows as JSON carries them: texts as they are, image files in base64."""
    first = rows.inputs[:GOLDEN_ROWS]
    return [base64.b64encode(Path(row).read_bytes()).decode() for row in first] if rows.column == "image" else first


def _parities(tuned: Path, files: list[Path], task: Classification, rows: Rows) -> list[Parity]:
    batches = task.parity_batches(rows.inputs)
    reference = TorchRunner(tuned, task)
    parities = [measure_parity(reference, OnnxRunner(file, task), batches) for file in files]
    reference.close()
    if parities[0].max_abs_diff > TOLERANCE:
        found = f"probabilities differ from PyTorch's by {parities[0].max_abs_diff:.1e}, tolerance {TOLERANCE:.0e}"
        raise QualityError("trust the exported graph", found, "report this backbone as a bug of tldeploy")
    return parities
