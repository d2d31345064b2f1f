from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tldeploy.benchmarking.disagreements import MOST_CHARACTERS, MOST_SHOWN, disagreements
from tldeploy.data.rows import Rows
from tldeploy.measuring.scenarios import SingleStream

LABELS = ["no", "yes"]


def run(yes: list[list[float]]) -> SingleStream:
    """yes: the probability of it, by engine and row."""
    given = np.array(yes, dtype=np.float32)
    names = ("torch eager", "served", "other")[: len(yes)]
    probabilities = np.stack([1 - given, given], axis=2)
    return SingleStream(names, np.ones(given.shape), probabilities, np.zeros(given.shape[1], dtype=np.int64), ())


def texts(*classes: int) -> Rows:
    return Rows([f"row {number}" for number in range(len(classes))], np.array(classes))


def test_lost_rows_come_first_then_those_whose_true_label_moved_most() -> None:
    reference = [0.9, 0.6, 0.9, 0.4, 0.9]
    served = [0.9, 0.4, 0.8, 0.6, 0.1]
    other = [0.9, 0.6, 0.1, 0.4, 0.9]
    found = disagreements(texts(1, 1, 1, 1, 1), run([reference, served, other]), LABELS, "torch eager", "served")
    assert (found["rows"], found["lost"]) == (4, 2)
    assert [shown["row"] for shown in found["shown"]] == [4, 1, 2, 3], "4 and 1 are lost, 3 was won"
    first = found["shown"][0]
    assert (first["input"], first["truth"]) == ("row 4", "yes")
    assert [(answer["engine"], answer["label"]) for answer in first["answers"]] == [
        ("torch eager", "yes"),
        ("served", "no"),
        ("other", "yes"),
    ]
    assert [round(answer["probability"], 6) for answer in first["answers"]] == [0.9, 0.9, 0.9]


def test_all_are_counted_and_some_are_shown() -> None:
    rows = 2 * MOST_SHOWN
    found = disagreements(texts(*[1] * rows), run([[0.9] * rows, [0.1] * rows]), LABELS, "torch eager", "served")
    assert (found["rows"], len(found["shown"])) == (rows, MOST_SHOWN)


def test_engines_that_agree_leave_nothing_to_show() -> None:
    found = disagreements(texts(1, 0), run([[0.9, 0.2], [0.6, 0.4]]), LABELS, "torch eager", "served")
    assert found == {"reference": "torch eager", "rows": 0, "lost": 0, "shown": []}


def test_a_long_text_is_cut() -> None:
    rows = Rows(["word " * 200], np.array([1]))
    found = disagreements(rows, run([[0.9], [0.1]]), LABELS, "torch eager", "served")
    excerpt = found["shown"][0]["input"]
    assert len(excerpt) <= MOST_CHARACTERS + 2
    assert excerpt.endswith("word …")


def test_an_image_is_shown_small(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (250, 0, 0)).save(tmp_path / "shoe.png")
    rows = Rows([str(tmp_path / "shoe.png")], np.array([1]), "image")
    shown = disagreements(rows, run([[0.9], [0.1]]), LABELS, "torch eager", "served")["shown"][0]
    assert shown["input"] == "shoe.png"
    kind, _, content = shown["thumbnail"].partition(";base64,")
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (96, 48)
        assert image.getpixel((10, 10))[0] > 230  # type: ignore[index]
