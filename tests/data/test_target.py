from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_images import write_squares
from tests.tuning.adaptation.domains import write_rows
from tldeploy.data.target import Target, read_target
from tldeploy.errors import DataError
from tldeploy.recipe import Adapt, Data, TaskName

LABELS = ["bad", "good"]
ROWS = [(f"text {number}", LABELS[number % 2]) for number in range(40)]
DATA = Data(file="source.csv")


def read(folder: Path, task: TaskName = "text-classification", data: Data = DATA, **adapt: object) -> Target:
    return read_target(Adapt.model_validate({"file": "target.csv", **adapt}), data, LABELS, folder, task)


def test_the_share_is_held_out_and_every_row_is_in_one_part(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    target = read(tmp_path, test=0.25)
    assert target.test is not None
    assert len(target.test) == 10
    assert sorted([*target.unlabelled, *target.test.inputs]) == sorted(text for text, _ in ROWS)
    stands = {text: f"target.csv: line {line}" for line, (text, _) in enumerate(ROWS, start=2)}
    assert target.rows.places == [stands[text] for text in target.unlabelled]
    assert target.test.places == [stands[text] for text in target.test.inputs]
    assert [LABELS[number] for number in target.test.classes] == [dict(ROWS)[text] for text in target.test.inputs]


def test_labels_do_not_decide_which_rows_are_learnt_from(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    before = read(tmp_path)
    write_rows(tmp_path / "target.csv", [(text, LABELS[len(text) % 2]) for text, _ in ROWS])
    assert read(tmp_path).unlabelled == before.unlabelled


def test_another_seed_holds_other_rows_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    assert read(tmp_path).unlabelled == read(tmp_path).unlabelled
    assert read(tmp_path).unlabelled != read(tmp_path, data=Data(file="source.csv", seed=1)).unlabelled


def test_the_oracles_rows_are_those_learnt_from_and_only_there_if_asked_for(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    assert read(tmp_path).oracle is None
    target = read(tmp_path, oracle=True)
    assert target.oracle is not None
    assert target.oracle.inputs == target.unlabelled
    assert [LABELS[number] for number in target.oracle.classes] == [dict(ROWS)[text] for text in target.unlabelled]


def test_without_labels_every_row_is_learnt_from(tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text("text,other\n" + "".join(f"tweet {n},1\n" for n in range(9)) + " ,1\n")
    target = read(tmp_path)
    assert target.unlabelled == [f"tweet {number}" for number in range(9)]
    assert target.places == [f"target.csv: line {number}" for number in range(2, 11)]
    assert (target.test, target.oracle) == (None, None)
    assert target.left_out == [("line 11", "its text is empty")]


def test_a_labelled_file_of_its_own_checks_what_was_learnt_without_labels(tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text("text\n" + "".join(f"tweet {n}\n" for n in range(9)))
    write_rows(tmp_path / "checked.csv", ROWS[:4])
    target = read(tmp_path, test="checked.csv")
    assert len(target.unlabelled) == 9
    assert target.test is not None
    assert target.test.inputs == [text for text, _ in ROWS[:4]]
    assert target.test.classes.tolist() == [0, 1, 0, 1]


def test_an_oracle_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text("text\n" + "".join(f"tweet {n}\n" for n in range(9)))
    with pytest.raises(DataError, match=r"adapt\.oracle is true, and .* has no labels"):
        read(tmp_path, oracle=True)


def test_a_label_column_that_the_recipe_names_has_to_be_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    with pytest.raises(DataError, match="find the column 'stars'"):
        read(tmp_path, label="stars")


def test_a_label_that_the_source_does_not_have_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", [*ROWS, ("odd", "ugly")])
    with pytest.raises(DataError, match="the label 'ugly' on line 42 is not among those of the training rows: bad, go"):
        read(tmp_path, oracle=True)


def test_columns_and_bins_are_the_targets_own_or_the_sources(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "target.csv", [(text, "1" if label == "good" else "-1") for text, label in ROWS], ("post", "n")
    )
    data = Data(file="source.csv", label="n", bins={"bad": "< 0", "good": "> 0"})
    target = read(tmp_path, data=data, text="post")
    assert target.test is not None
    assert [LABELS[number] for number in target.test.classes] == [dict(ROWS)[text] for text in target.test.inputs]
    write_rows(tmp_path / "target.csv", ROWS)
    assert read(tmp_path, data=data, label="label", bins={}).test is not None


def test_held_out_rows_may_have_a_file_of_their_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS)
    write_rows(tmp_path / "checked.csv", [("new", "good")])
    target = read(tmp_path, test="checked.csv")
    assert target.unlabelled == [text for text, _ in ROWS]
    assert target.test is not None
    assert (target.test.inputs, target.test.places) == (["new"], ["checked.csv: line 2"])


def test_too_few_rows_to_learn_from_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "target.csv", ROWS[:6])
    with pytest.raises(DataError, match="3 rows are left to learn from"):
        read(tmp_path)


def test_a_folder_of_images_has_labels_if_its_subfolders_are_classes(tmp_path: Path) -> None:
    write_squares(tmp_path / "classes", per_class=6)
    adapt = Adapt(file="classes", test=0.5)
    labels = ["blue", "green", "red"]
    target = read_target(adapt, DATA, labels, tmp_path, "image-classification")
    assert target.test is not None
    assert [labels[number] for number in target.test.classes] == [Path(path).parent.name for path in target.test.inputs]
    (tmp_path / "new").mkdir()
    (tmp_path / "classes" / "red").rename(tmp_path / "new" / "unlabelled")
    target = read_target(Adapt(file="new"), DATA, labels, tmp_path, "image-classification")
    assert (len(target.unlabelled), target.column, target.test) == (6, "image", None)
    assert target.places[0] == "new: unlabelled/000.jpg"


def test_images_inside_a_parquet_file_need_no_labels(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    write_squares(tmp_path / "squares", per_class=6)
    images = [path.read_bytes() for path in sorted((tmp_path / "squares").rglob("*.png"))]
    pa.parquet.write_table(pa.table({"image": images}), tmp_path / "new.parquet")
    target = read_target(Adapt(file="new.parquet"), DATA, ["blue", "green", "red"], tmp_path, "image-classification")
    assert [Path(path).read_bytes() for path in target.unlabelled] == images
    assert target.test is None


def test_the_named_label_column_may_be_in_the_held_out_file_alone(tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text("text\n" + "".join(f"tweet {n}\n" for n in range(9)))
    write_rows(tmp_path / "checked.csv", ROWS[:4], ("text", "stars"))
    target = read(tmp_path, test="checked.csv", label="stars")
    assert (len(target.unlabelled), target.test is not None and len(target.test)) == (9, 4)
