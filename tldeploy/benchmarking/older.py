"""An older report that a run is compared with, and the answers that it was made from, where they are still there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tldeploy.benchmarking.report import SCHEMA_VERSION, Report
from tldeploy.errors import ArtifactError
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.metrics import Drop

SAMPLES = "samples.npz"
REPORT_JSON = "report.json"


@dataclass(frozen=True)
class Older:
    """truth: int64 [rows]; probabilities: float32 [rows, classes] of the reported engine; None without samples."""

    report: Report
    truth: NDArray[np.int64] | None
    probabilities: NDArray[np.float32] | None


def read_older(path: Path) -> Older:
    """A recorded report.json, with the samples.npz that lies beside it, or in the artifact that it is the copy of.

    All is read at once, as a run may be about to replace it. Raises ArtifactError for what is no report.
    """
    report, text = read_report(path, f"compare with {path}", "give the report.json of an earlier `tldeploy bench`")
    artifact = path.parent / "bench"
    copied = (artifact / REPORT_JSON).is_file() and (artifact / REPORT_JSON).read_bytes() == text
    samples = (artifact if copied else path.parent) / SAMPLES
    if not samples.is_file():
        return Older(report, None, None)
    with np.load(samples) as arrays:
        place = arrays["engines"].tolist().index(report["reported"]["engine"])
        return Older(report, arrays["truth"], arrays["probabilities"][place])


def read_report(path: Path, asked: str, fix: str) -> tuple[Report, bytes]:
    """A report.json, and its bytes. Raises ArtifactError, with what was asked and the fix, for what is no report."""
    try:
        text = path.read_bytes()
        report = json.loads(text)
    except OSError as error:
        raise ArtifactError(asked, f"it cannot be read ({error.strerror})", fix) from error
    except ValueError as error:
        raise ArtifactError(asked, "it is not JSON", fix) from error
    if not isinstance(report, dict) or not {"engines", "reported", "environment"} <= set(report):
        raise ArtifactError(asked, "it is not the report of a bench", fix)
    if report.get("schema_version", 0) > SCHEMA_VERSION:
        raise ArtifactError(asked, "a newer tldeploy wrote it", "use that version of tldeploy")
    return report, text


def paired_drop(older: Older, folder: Path, report: Report, task: Classification) -> Drop | None:
    """The loss of the task metric row by row; None unless both runs answered the same rows and kept their samples.

    folder: the artifact of the run that `report` is of.
    """
    same = report["rows_sha256"] == older.report.get("rows_sha256")
    if older.truth is None or older.probabilities is None or not same:
        return None
    with np.load(folder / SAMPLES) as arrays:
        place = arrays["engines"].tolist().index(report["reported"]["engine"])
        after = arrays["probabilities"][place]
    return task.drop(older.truth, task.decode(older.probabilities), task.decode(after))
