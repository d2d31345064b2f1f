"""A recorded report that is compared with another, and the answers behind it, where they are still there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tldeploy.benchmarking import SCHEMA_VERSION
from tldeploy.benchmarking.report import Report
from tldeploy.errors import ArtifactError
from tldeploy.tasks.metrics import Drop, weighted_f1_drop

SAMPLES = "samples.npz"
REPORT_JSON = "report.json"


@dataclass(frozen=True)
class Older:
    """truth: int64 [rows]; answers: int64 [rows] by engine, the most probable classes. None, and empty, without
    samples."""

    report: Report
    truth: NDArray[np.int64] | None = None
    answers: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


def read_older(path: Path) -> Older:
    """A recorded report.json, with the samples.npz that lies beside it, or in the artifact that it is the copy of.

    All is read at once, as a run may be about to replace it. Raises ArtifactError for what is no report.
    """
    report, text = read_report(path, f"compare with {path}", "give the report.json of an earlier `tldeploy bench`")
    artifact = path.parent / "bench"
    copied = (artifact / REPORT_JSON).is_file() and (artifact / REPORT_JSON).read_bytes() == text
    samples = (artifact if copied else path.parent) / SAMPLES
    if not samples.is_file():
        return Older(report)
    try:
        with samples.open("rb") as file, np.load(file) as arrays:
            answers = arrays["probabilities"].argmax(axis=2)
            return Older(report, arrays["truth"], dict(zip(arrays["engines"].tolist(), answers, strict=True)))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        fix = "give the one that the bench wrote, or remove it: then accuracy is compared by its intervals"
        raise ArtifactError(f"compare with {path}", f"{samples} is damaged ({error})", fix) from error


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
    if not isinstance(version := report.get("schema_version", 0), int):
        raise ArtifactError(asked, f"its schema_version is {version!r}, no number", fix)
    if version > SCHEMA_VERSION:
        raise ArtifactError(asked, "a newer tldeploy wrote it", "use that version of tldeploy")
    return report, text


def paired_drop(old: Older, new: Older, engine: str) -> Drop | None:
    """What an engine lost of the task metric, row by row; None unless both runs answered the same rows and kept their
    samples."""
    rows = old.report.get("rows_sha256")
    if rows is None or rows != new.report.get("rows_sha256"):
        return None
    if old.truth is None or engine not in old.answers or engine not in new.answers:
        return None
    return weighted_f1_drop(old.truth, old.answers[engine], new.answers[engine], len(old.report["labels"]))
