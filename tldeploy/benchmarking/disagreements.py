"""The rows on which an engine's label is not the reference's: what a graph or a number format changed, to be looked at.

First come those that the reported engine gets wrong and the reference right, then the others; within each those where
the probability of the true label moved most.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy.data.rows import Rows
from tldeploy.measuring.scenarios import SingleStream
from tldeploy.tasks.pixels import decode

MOST_SHOWN = 30
MOST_CHARACTERS = 240
THUMBNAIL_PIXELS = 96


def disagreements(
    rows: Rows, single: SingleStream, labels: Sequence[str], reference: str, reported: str
) -> dict[str, Any]:
    """How many rows they are, and the first MOST_SHOWN of them with every engine's answer.

    rows: those that were measured; row: a place among them, from 0.
    """
    probabilities, truth = single.probabilities, rows.classes
    answers = probabilities.argmax(axis=2)
    place, told = single.engines.index(reference), single.engines.index(reported)
    differing = np.flatnonzero((answers != answers[place]).any(axis=0))
    of_truth = np.take_along_axis(probabilities, truth[None, :, None], axis=2)[:, :, 0]
    moved = np.abs(of_truth - of_truth[place]).max(axis=0)
    lost = (answers[told] != truth) & (answers[place] == truth)
    order = sorted(differing.tolist(), key=lambda row: (not lost[row], -moved[row], row))
    return {
        "reference": reference,
        "rows": len(differing),
        "lost": int(lost.sum()),
        "shown": [
            {
                "row": row,
                **_input(rows, row),
                "truth": labels[truth[row]],
                "answers": [
                    {"engine": engine, "label": labels[answer], "probability": float(found[answer])}
                    for engine, answer, found in zip(
                        single.engines, answers[:, row].tolist(), probabilities[:, row], strict=True
                    )
                ],
            }
            for row in order[:MOST_SHOWN]
        ],
    }


def _input(rows: Rows, row: int) -> dict[str, Any]:
    """An excerpt of a text; the name of an image, and a small copy of it as a data URI."""
    given = rows.inputs[row]
    if rows.column == "image":
        return {"input": Path(given).name, "thumbnail": _thumbnail(Path(given))}
    return {"input": given if len(given) <= MOST_CHARACTERS else f"{given[:MOST_CHARACTERS].rstrip()} …"}


def _thumbnail(path: Path) -> str:
    image = decode(path.read_bytes())
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode('ascii')}"
