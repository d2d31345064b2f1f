"""Bad data of every kind, as a person meets it on the command line: named rows, one clear message, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_images import write_image_project
from tests.tiny_project import write_project
from tldeploy import pipeline
from tldeploy.cli import execute
from tldeploy.errors import DataError


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("texts") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_project(tmp_path_factory.mktemp("images") / "tiny")


def append(line: bytes) -> Callable[[Path], object]:
    def change(project: Path) -> None:
        with (project / "reviews.csv").open("ab") as stream:
            stream.write(line)

    return change


def keep_rows(count: int) -> Callable[[Path], object]:
    def change(project: Path) -> None:
        lines = (project / "reviews.csv").read_text(encoding="utf-8").splitlines()[: count + 1]
        (project / "reviews.csv").write_text("\n".join(lines), encoding="utf-8")

    return change


TEXTS = [
    ("another encoding", append(b"caf\xe9,positive\n"), "it is not utf-8: byte 0xe9 on line 402"),
    ("a row without a label", append(b"great zoom,\n"), "rows without a 'label': 1, the first on line 402"),
    ("a row with too many cells", append(b"great, zoom,positive\n"), "line 402 has 3 cells"),
    ("a class with one row", append(b"great zoom,postive\n"), "'postive' (1)"),
    (
        "a label with a line break",
        append(b'great zoom,"posi\ntive"\n' * 5),
        "a line break or another control character",
    ),
    ("too few rows", keep_rows(4), "labels with fewer than 4 rows"),
    ("no rows", keep_rows(0), "it has a header and no rows"),
    ("an empty file", lambda project: (project / "reviews.csv").write_text(""), "it is empty"),
    ("no file", lambda project: (project / "reviews.csv").unlink(), "there is no such file"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_texts(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object], said: str
) -> None:
    refused(shutil.copytree(texts, tmp_path / "tiny"), change, said, capsys)


def cut_off(project: Path) -> None:
    file = project / "squares" / "red" / "002.jpg"
    file.write_bytes(file.read_bytes()[:200])


def not_an_image(project: Path) -> None:
    (project / "squares" / "red" / "000.jpg").write_text("no image at all")


def empty_file(project: Path) -> None:
    (project / "squares" / "blue" / "001.png").write_bytes(b"")


def bomb(project: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(project / "squares" / "green" / "001.png")


def one_class(project: Path) -> None:
    for label in ("blue", "green"):
        shutil.rmtree(project / "squares" / label)


def as_table(line: str) -> Callable[[Path], object]:
    def change(project: Path) -> None:
        rows = [f"squares/{c}/{n:03d}.png,{c}" for c in ("blue", "green", "red") for n in range(1, 40, 2)]
        (project / "rows.csv").write_text("\n".join(["image,label", *rows, line]), encoding="utf-8")
        recipe = (project / "recipe.yaml").read_text(encoding="utf-8")
        (project / "recipe.yaml").write_text(recipe.replace("file: squares", "file: rows.csv"), encoding="utf-8")

    return change


IMAGES = [
    ("an image that is cut off", cut_off, "red/002.jpg: it is cut off"),
    ("a file that is no image", not_an_image, "000.jpg"),
    ("an empty file", empty_file, "001.png"),
    ("a decompression bomb", bomb, "million pixels"),
    ("a single class", one_class, "all rows have the label 'red'"),
    ("a path that leads nowhere", as_table("squares/red/999.png,red"), "line 62"),
    ("an image without a label", as_table("squares/red/000.jpg,"), "rows without a 'label': 1, the first on line 62"),
    ("no folder", lambda project: shutil.rmtree(project / "squares"), "squares"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in IMAGES], ids=[case[0] for case in IMAGES])
def test_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object], said: str
) -> None:
    refused(shutil.copytree(images, tmp_path / "tiny"), change, said, capsys)


def refused(project: Path, change: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    change(project)
    before = sorted(path.name for path in project.iterdir() if path.name != ".cache")
    code = execute(["tune", str(project)])
    told = capsys.readouterr().err
    assert code == DataError.exit_code, told
    assert said in told
    assert "\n  fix: " in told
    assert "Traceback" not in told
    assert sorted(path.name for path in project.iterdir() if path.name != ".cache") == before


def test_broken_images_are_left_out_and_named_where_the_recipe_says_so(images: Path, tmp_path: Path) -> None:
    project = shutil.copytree(images, tmp_path / "tiny")
    cut_off(project)
    not_an_image(project)
    recipe = (project / "recipe.yaml").read_text(encoding="utf-8")
    skipping = recipe.replace("file: squares", "file: squares\n  broken: skip")
    (project / "recipe.yaml").write_text(skipping.replace("tune:\n", "tune:\n  methods: [feature-extraction]\n"))
    found = {choice.about: choice for choice in pipeline.tune(project).manifest.decisions}
    assert found["rows left out"].value == 2
    assert all(name in found["rows left out"].reason for name in ("red/000.jpg", "red/002.jpg"))


def test_what_can_be_learnt_from_all_the_same_is_said(texts: Path, tmp_path: Path) -> None:
    project = shutil.copytree(texts, tmp_path / "tiny")
    append(b"great great great,positive\n" * 6 + b"great great great,negative\n" + b"caf\xc3\x83\xc2\xa9,neutral\n")(
        project
    )
    append(b"odd,odd\n" * 6)(project)
    recipe = (project / "recipe.yaml").read_text(encoding="utf-8")
    (project / "recipe.yaml").write_text(recipe.replace("tune:\n", "tune:\n  methods: [feature-extraction]\n"))
    outcome = pipeline.tune(project)
    found = {choice.about: choice.value for choice in outcome.manifest.decisions}
    rows = json.loads((outcome.folder / "findings.json").read_text(encoding="utf-8"))
    assert "findings.json" in outcome.manifest.files
    assert rows["mojibake"] == ["line 409"]
    assert len(rows["duplicates"]) == found["duplicates"]
    assert set(rows["contradicting labels"][0].split()) >= {"408", "('negative')", "('positive')"}
    assert found["contradicting labels"] == 1
    assert found["duplicates"] >= 6
    assert found["near-empty classes"] == 1
    assert found["mojibake"] == 1
    assert found["imbalance"] > 10
