from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_project import write_backbone, write_reviews
from tldeploy import draft
from tldeploy.data.rows import Splits, split_rows
from tldeploy.errors import ArtifactError, DataError, TldeployError, UsageError
from tldeploy.recipe import Recipe

HUB_ID = "bert-base-uncased"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, lines: list[str], encoding: str = "utf-8") -> Path:
    path = Path(name)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def drafted(path: Path) -> tuple[Recipe, Splits, str]:
    recipe = Recipe.load(path)
    return recipe, split_rows(recipe.data, recipe.folder), path.read_text(encoding="utf-8")


def sizes(splits: Splits) -> dict[str, int]:
    classes = np.concatenate([part.classes for part in (splits.train, splits.validation, splits.test)])
    return Counter(splits.labels[number] for number in classes)


def written_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_reviews_and_a_local_backbone_become_a_recipe_with_its_reasons(here: Path) -> None:
    write_reviews(here / "My reviews.csv", 400)
    write_backbone(here / "backbone")
    path = draft.init("My reviews.csv", "backbone")
    recipe, splits, text = drafted(path)
    assert path == Path("models/My-reviews/recipe.yaml")
    assert (recipe.name, recipe.data.text, recipe.data.label) == ("My-reviews", "text", "label")
    assert (recipe.data.file, recipe.backbone.source) == ("../../My reviews.csv", "../../backbone")
    assert (recipe.data.bins, recipe.data.test, recipe.data.validation) == (None, 0.3, 0.2)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [224, 56, 120]
    assert 'each text gets one of 3 classes: "negative" 134 (33.5%), "neutral" 133 (33.2%)' in text
    assert "120 of 400 rows are never learnt from" in text
    assert recipe.deploy.repository == "../../triton_repo"
    assert recipe.backbone.max_length == 16
    assert (recipe.tune.epochs, recipe.tune.batch_size, recipe.tune.learning_rate) == (8, 8, 1e-4)
    assert "a narrow encoder (32 hidden units)" in text


def test_every_setting_has_a_comment_above_it(here: Path) -> None:
    write_reviews(here / "reviews.csv", 60)
    lines = draft.init("reviews.csv", HUB_ID).read_text(encoding="utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    bare = [lines[n] for n in settings if not lines[n - 1].lstrip().startswith("#")]
    assert bare == ["data:", "backbone:", "tune:", "export:", "deploy:"]


STARS = ["review|stars|verified"] + [f"text number {i} of many; good, or not|{i % 5 + 1}|yes" for i in range(100)]
SCORES = ["id\tcomment\tscore"] + [f"{i}\tthis is comment {i}\t{(i - 50) / 7.3}" for i in range(100)]
PRICES = ["what it is;price"] + [f"the thing with number {i};{i * i}" for i in range(90)]
TOPICS = ["Class Index,Title,Description"] + [
    f"{i % 4 + 1},Title {i % 50},A longer description which has the number {i}" for i in range(80)
]
CODES = ["sentence,label"] + [f"sentence number {i},{i % 3}" for i in range(60)]
WORDS = ["body,lang,sentiment"] + [
    f"the body {i},{'en' if i % 2 else 'de'},{'no' if i % 3 else 'on'}" for i in range(60)
]


@pytest.mark.parametrize(
    ("name", "lines", "columns", "classes"),
    [
        ("stars.csv", STARS, ("review", "stars", "|"), {"negative": 40, "neutral": 20, "positive": 40}),
        ("scores.tsv", SCORES, ("comment", "score", None), {"negative": 50, "positive": 50}),
        ("prices.csv", PRICES, ("what it is", "price", ";"), {"low": 30, "middle": 31, "high": 29}),
        ("topics.csv", TOPICS, ("Description", "Class Index", None), {"1": 20, "2": 20, "3": 20, "4": 20}),
        ("codes.csv", CODES, ("sentence", "label", None), {"0": 20, "1": 20, "2": 20}),
        ("words.csv", WORDS, ("body", "sentiment", None), {"no": 40, "on": 20}),
    ],
)
def test_columns_delimiter_and_classes_are_found(
    name: str, lines: list[str], columns: tuple[str, str, str | None], classes: dict[str, int]
) -> None:
    recipe, splits, _ = drafted(draft.init(put(name, lines), HUB_ID))
    assert (recipe.data.text, recipe.data.label, recipe.data.delimiter) == columns
    assert sizes(splits) == classes


def test_stars_are_cut_around_three() -> None:
    recipe, _, text = drafted(draft.init(put("stars.csv", STARS), HUB_ID))
    assert recipe.data.bins == {"negative": "<= 2", "neutral": "3 .. 3", "positive": ">= 4"}
    assert "'stars' is a number from 1 to 5, cut around the middle of its scale" in text


def test_json_lines_are_read() -> None:
    lines = [json.dumps({"q": f"where is my order {i}?", "intent": ["find", "cancel"][i % 2]}) for i in range(40)]
    recipe, splits, _ = drafted(draft.init(put("asked.jsonl", lines), HUB_ID))
    assert (recipe.data.text, recipe.data.label, sizes(splits)) == ("q", "intent", {"find": 20, "cancel": 20})


@pytest.mark.parametrize(("encoding", "found"), [("utf-8-sig", "utf-8"), ("cp1252", "cp1252"), ("utf-16", "utf-16")])
def test_the_encoding_is_found_and_said(encoding: str, found: str) -> None:
    lines = ["text,label", *(f"Das Café “Köln” ist gut {i},{'ab'[i % 2]}" for i in range(40))]
    recipe, splits, text = drafted(draft.init(put("rows.csv", lines, encoding), HUB_ID))
    assert recipe.data.encoding == found
    assert ("the file is not UTF-8" in text) == (found != "utf-8")
    assert all(row.startswith("Das Café “Köln” ist gut") for row in splits.train.inputs)


def test_what_cp1252_lacks_is_read_as_latin_1() -> None:
    lines = ["text,label", *(f"caf\xe9 \x81 {i},{'ab'[i % 2]}" for i in range(40))]
    assert drafted(draft.init(put("rows.csv", lines, "latin-1"), HUB_ID))[0].data.encoding == "latin-1"


def test_repeated_and_contradicting_texts_are_counted() -> None:
    rows = [f"text number {i},{'ab'[i % 2]}" for i in range(60)]
    again = ["text number 0,a", "text number 0,a", "text number 1,a"]
    text = drafted(draft.init(put("rows.csv", ["text,label", *rows, *again, " ,a"]), HUB_ID))[2]
    assert "64 rows with 2 columns, of which 1 have no text and are left out" in text
    assert "# duplicates: 3 (of 63 rows, so many repeat the text of another" in text
    assert "# contradicting labels: 1 (so many texts stand there with different labels" in text


@pytest.mark.parametrize(("words", "length"), [(2, 16), (20, 32), (100, 144), (1000, 512)])
def test_without_a_tokenizer_max_length_is_estimated_from_words(words: int, length: int) -> None:
    """1.4 tokens a word and two special ones, up to the next multiple of 8."""
    lines = ["text,label", *(f"{' '.join(['word'] * (words - 1))} n{i},{'ab'[i % 2]}" for i in range(40))]
    recipe, _, text = drafted(draft.init(put("rows.csv", lines), HUB_ID))
    assert recipe.backbone.max_length == length
    assert ("longer texts are cut off there" in text) == (words == 1000)


def test_max_length_ends_where_the_backbones_positions_end(here: Path) -> None:
    write_backbone(here / "backbone")
    lines = ["text,label", *(f"{'good ' * 90}{i},{'ab'[i % 2]}" for i in range(40))]
    recipe, _, text = drafted(draft.init(put("rows.csv", lines), here / "backbone"))
    assert recipe.backbone.max_length == 64
    assert "93 tokens" in text.replace("\n  # ", " ")


def test_many_rows_get_smaller_shares_and_a_bounded_bench(here: Path) -> None:
    write_reviews(here / "reviews.csv", 12_000)
    recipe, splits, _ = drafted(draft.init("reviews.csv", HUB_ID))
    assert (recipe.data.test, recipe.data.validation, len(splits.test)) == (0.1, 0.1, 1200)
    assert (recipe.bench.rows, recipe.tune.epochs, recipe.tune.learning_rate) == (1000, 3, 3e-5)


def test_many_small_classes_get_shares_that_hold_one_row_of_each() -> None:
    lines = ["text,label", *(f"text number {i},class {i % 40}" for i in range(280))]
    recipe, splits, _ = drafted(draft.init(put("rows.csv", lines), HUB_ID))
    assert (recipe.data.test, recipe.data.validation, len(splits.labels)) == (0.3, 0.21, 40)


def test_elsewhere_than_models_the_repository_is_beside_the_recipe(here: Path) -> None:
    write_reviews(here / "reviews.csv", 60)
    path = draft.init("reviews.csv", HUB_ID, name="mine", out=here / "jobs" / "one")
    recipe = drafted(path)[0]
    assert (recipe.name, recipe.data.file) == ("mine", "../../reviews.csv")
    assert (recipe.deploy.repository, recipe.backbone.source) == ("triton_repo", HUB_ID)


def test_paths_lead_to_the_files_from_a_linked_models_folder_too(here: Path) -> None:
    write_reviews(here / "reviews.csv", 60)
    (here / "big" / "disk" / "models").mkdir(parents=True)
    (here / "models").symlink_to(here / "big" / "disk" / "models")
    recipe, splits, _ = drafted(draft.init("reviews.csv", HUB_ID))
    assert (recipe.data.file, len(splits.train) > 0) == ("../../../../reviews.csv", True)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
printable = names.filter(str.isprintable)  # of a class; others are refused


@settings(max_examples=60, deadline=None)
@given(names, names, printable)
def test_any_name_of_a_column_or_class_survives_the_yaml(
    tmp_path_factory: pytest.TempPathFactory, text: str, label: str, named: str
) -> None:
    text, label = f"t{text}", f"l{label}"
    folder = tmp_path_factory.mktemp("odd")
    records = [{text: f"a text {i}", label: f"x{named}" if i % 2 else "other"} for i in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    path = draft.init(folder / "rows.jsonl", HUB_ID, out=folder / "out", text=text, label=label)
    recipe, splits, _ = drafted(path)
    assert (recipe.data.text, recipe.data.label) == (text, label)
    assert set(splits.labels) == {f"x{named}".strip(), "other"}


@pytest.mark.parametrize("column", ["no", "1", "null", "a: b", "# it", 'say "so"', "é\u2028", "- x", "1e3", "{a}", "~"])
def test_names_that_mean_something_in_yaml_are_quoted(column: str) -> None:
    records = [{column: f"a text {i}", "label": "ab"[i % 2]} for i in range(20)]
    recipe = drafted(draft.init(put("rows.jsonl", list(map(json.dumps, records))), HUB_ID))[0]
    assert recipe.data.text == column


ROWS = ["text,label", *(f"some text {i},{'ab'[i % 2]}" for i in range(20))]
HALF = [json.dumps({"text": f"cut off {i} \ud83d", "label": i % 2}) for i in range(20)]


@pytest.mark.parametrize(
    ("name", "content", "options", "kind", "said"),
    [
        ("rows.csv", "", {}, DataError, "it is empty"),
        ("rows.csv", "text,label\n", {}, DataError, "it has a header and no rows"),
        ("rows.xlsx", b"PK\3\4\0\0\x80\xff", {}, DataError, "it is no text file"),
        ("rows.json", "[]", {}, DataError, "it is JSON, not JSON lines"),
        ("rows.csv", "\n".join(ROWS), {"text": "body"}, DataError, "its columns are text, label"),
        ("rows.csv", "\n".join(ROWS), {"label": "stars"}, DataError, "its columns are text, label"),
        ("rows.csv", "\n".join(ROWS), {"text": "label", "label": "label"}, UsageError, "both are 'label'"),
        ("rows.csv", "\n".join(ROWS), {"name": "../up"}, UsageError, "letters, digits, - and _ only"),
        ("rows.csv", "\n".join(ROWS), {"out": "rows.csv/here"}, UsageError, "a part of that path is a file"),
        ("rows.csv", "\n".join(ROWS), {"backbone": "no/such/folder"}, UsageError, "no name that the hub could have"),
        ("rows.csv", "\n".join(ROWS), {"backbone": "."}, ArtifactError, "its config.json cannot be read"),
        ("数据.csv", "\n".join(ROWS), {}, UsageError, "give a name with --name"),
        ("rows.csv", "\n".join([*ROWS, "more,"]), {}, DataError, "rows without a 'label': 1, the first on line 22"),
        ("rows.csv", "\n".join([*ROWS, "more"]), {}, DataError, "line 22 has 1 cells"),
        ("rows.csv", "\n".join(ROWS).replace(",b", ",a"), {}, DataError, "'label' (1 value)"),
        ("rows.csv", "\n".join(ROWS).replace(",b", ",a"), {"label": "label"}, DataError, "all rows have the label 'a'"),
        ("rows.csv", "\n".join(row.partition(",")[0] for row in ROWS), {}, DataError, "there is no other column"),
        (
            "rows.csv",
            "id,label\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(9)),
            {},
            DataError,
            "no column holds",
        ),
        ("rows.csv", "\n".join([*ROWS[1:]]), {}, DataError, "its first line looks like a row"),
        ("rows.jsonl", "\n".join(HALF), {}, DataError, "holds half of a character"),
    ],
)
def test_what_cannot_become_a_recipe_is_refused_and_nothing_is_written(
    here: Path, name: str, content: str | bytes, options: dict[str, str], kind: type[TldeployError], said: str
) -> None:
    (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(kind) as raised:
        draft.init(name, **({"backbone": HUB_ID} | options))
    assert said in str(raised.value)
    assert written_below(here) == [name]


@pytest.mark.parametrize("file", ["model_index.json", "config.json"])
def test_a_diffusion_model_is_no_backbone(here: Path, file: str) -> None:
    put("rows.csv", ROWS)
    (here / "unet").mkdir()
    (here / "unet" / file).write_text('{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0"}')
    with pytest.raises(ArtifactError, match="it is a checkpoint of diffusers"):
        draft.init("rows.csv", "unet")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"cannot read absent\.csv: there is no such file"):
        draft.init("absent.csv", HUB_ID)


def test_a_recipe_that_is_there_is_kept(here: Path) -> None:
    write_reviews(here / "reviews.csv", 60)
    path = draft.init("reviews.csv", HUB_ID)
    path.write_text("mine")
    with pytest.raises(UsageError, match="there is a recipe already"):
        draft.init("reviews.csv", HUB_ID)
    assert path.read_text() == "mine"
