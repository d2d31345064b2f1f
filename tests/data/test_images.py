from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.data.test_parquet import write_parquet
from tldeploy.data.images import LabelledImages, Skipped, read_images
from tldeploy.errors import DataError
from tldeploy.tasks.pixels import decode


def picture(seed: int, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of images, one nested, among files that are none."""
    root = tmp_path / "pets"
    for name, seed in {"dog/b.PNG": 1, "dog/a.png": 2, "cat/old/c.webp": 3, "cat/z.jpeg": 4}.items():
        put(root / name, picture(seed, {".webp": "WEBP", ".jpeg": "JPEG"}.get(Path(name).suffix, "PNG")))
    for name in ("cat/notes.txt", "cat/.z.jpeg", "dog/Thumbs.db", ".cache/x.png", "__MACOSX/cat/z.jpeg", "README.md"):
        put(root / name, b"no image")
    return root


def read(place: Path, **options: Any) -> LabelledImages:
    return read_images(place, "image", "label", cache=place.parent / "cache", **options)


def said_of(place: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        read(place, **options)
    return str(raised.value)


def test_a_folder_has_a_class_per_subfolder_in_a_settled_order(folder: Path) -> None:
    images = read(folder)
    assert images.places == ["cat/old/c.webp", "cat/z.jpeg", "dog/a.png", "dog/b.PNG"]
    assert images.labels == ["cat", "cat", "dog", "dog"]
    assert images.paths == [folder / place for place in images.places]
    assert images.digests == [hashlib.sha256(path.read_bytes()).hexdigest() for path in images.paths]
    assert (images.skipped, images.ignored) == ([], 6)


def test_copies_have_one_digest_wherever_they_lie(folder: Path) -> None:
    put(folder / "dog" / "copy.png", (folder / "dog" / "a.png").read_bytes())
    digests = read(folder).digests
    assert (len(digests), len(set(digests))) == (5, 4)


def test_a_folder_that_shows_no_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    put(folder / "loose.png", picture(9))
    assert "1 images lie in no class folder: loose.png" in said_of(folder)
    (tmp_path / "bare").mkdir()
    assert "no subfolder holds an image" in said_of(tmp_path / "bare")


def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "Test/cat/b.png"):
        put(tmp_path / "pets" / name, picture(1))
    assert "its subfolders are splits, not classes: Test, train" in said_of(tmp_path / "pets")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "image,label\ndog/a.png,d\n\ncat/z.jpeg,c\n"),
        ("rows.tsv", "label\timage\nd\tdog/a.png\n\nc\tcat/z.jpeg\n"),
        ("rows.jsonl", '\n{"image": "dog/a.png", "label": "d"}\n\n{"image": "cat/z.jpeg", "label": "c"}\n'),
    ],
)
def test_paths_in_a_table_are_relative_to_it(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    images = read(folder / name)
    assert images.paths == [folder / "dog" / "a.png", folder / "cat" / "z.jpeg"]
    assert (images.labels, images.places) == (["d", "c"], ["line 2", "line 4"])


def test_empty_labels_are_left_for_the_splits_to_judge(folder: Path) -> None:
    (folder / "rows.csv").write_text("image,label\ndog/a.png,\n", encoding="utf-8")
    assert read(folder / "rows.csv").labels == [""]


COLUMNS = {
    "bytes": pa.array,
    "records": lambda contents: pa.array([{"bytes": content, "path": "x.png"} for content in contents]),
}


@pytest.mark.parametrize("form", COLUMNS)
def test_images_inside_parquet_are_unpacked_once(tmp_path: Path, form: str) -> None:
    contents = [picture(1), picture(2, "JPEG"), picture(1), picture(3, "TIFF")]
    columns = {"image": COLUMNS[form](contents), "label": [1, 0, 1, -1]}
    images = read(write_parquet(tmp_path / "rows.parquet", columns, {"label": ["cat", "dog"]}))
    assert [path.read_bytes() for path in images.paths] == contents
    assert [path.name for path in images.paths] == [
        f"{digest}{ending}" for digest, ending in zip(images.digests, [".png", ".jpg", ".png", ".tiff"], strict=True)
    ]
    assert images.labels == ["dog", "cat", "dog", ""]
    assert images.places == ["row 1", "row 2", "row 3", "row 4"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    written = images.paths[0].stat().st_mtime_ns
    assert read(tmp_path / "rows.parquet") == images
    assert images.paths[0].stat().st_mtime_ns == written


def test_parquet_may_name_files_and_plain_numbers_stay_as_they_are(folder: Path) -> None:
    records = [{"bytes": None, "path": "dog/a.png"}, {"bytes": None, "path": "cat/z.jpeg"}]
    by_record = read(write_parquet(folder / "records.parquet", {"image": records, "label": [3, 4]}))
    by_path = read(write_parquet(folder / "paths.pq", {"image": ["dog/a.png", "cat/z.jpeg"], "label": [3, 4]}))
    assert by_record.paths == by_path.paths == [folder / "dog" / "a.png", folder / "cat" / "z.jpeg"]
    assert by_record.labels == by_path.labels == ["3", "4"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"picture": [b""], "label": ["a"]}, "cannot find the column 'image' in"),
        ({"image": [b""], "kind": ["a"]}, "its columns are image, kind\n  fix: set data.label"),
        ({"image": [5], "label": ["a"]}, "its cells are ints, not bytes, paths, or records"),
        ({"image": [b""], "label": [["a"]]}, "cannot use the column 'label' of"),
    ],
)
def test_parquet_columns_that_hold_no_images_or_labels_are_refused(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    assert said in said_of(write_parquet(tmp_path / "rows.parquet", columns))


def test_broken_images_are_all_named_or_left_out_and_listed(folder: Path) -> None:
    whole = picture(5)
    put(folder / "cat" / "cut.png", whole[: len(whole) // 2])
    put(folder / "dog" / "text.png", b"hello")
    said = said_of(folder)
    assert said.startswith(f"cannot use 2 of the 6 images of {folder}: cat/cut.png: it is cut off; dog/text.png: it is")
    assert "data.broken: skip" in said
    images = read(folder, broken="skip")
    assert images.places == ["cat/old/c.webp", "cat/z.jpeg", "dog/a.png", "dog/b.PNG"]
    assert images.skipped[0] == Skipped("cat/cut.png", "it is cut off")
    assert [one.place for one in images.skipped] == ["cat/cut.png", "dog/text.png"]


def test_rows_that_lead_to_no_image_are_named_with_their_line(folder: Path) -> None:
    (folder / "rows.csv").write_text("image,label\ndog/a.png,d\ngone.png,d\n ,c\ndog,d\n", encoding="utf-8")
    said = said_of(folder / "rows.csv")
    assert "line 3 (gone.png): there is no such file; line 4: no image is named; line 5 (dog): reading it is" in said
    assert read(folder / "rows.csv", broken="skip").places == ["line 2"]


def test_many_broken_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / "pets" / "cat" / f"{number:02}.png", b"")
    said = said_of(tmp_path / "pets")
    assert "cat/07.png: it is empty; and 12 more" in said
    assert "cat/08.png" not in said
    assert "not one image can be used" in said_of(tmp_path / "pets", broken="skip")


def test_more_images_than_are_checked_at_once_keep_their_order(tmp_path: Path) -> None:
    contents = [picture(seed) for seed in range(300)]
    columns = {"image": contents, "label": [str(seed) for seed in range(300)]}
    images = read(write_parquet(tmp_path / "rows.parquet", columns))
    assert images.labels == columns["label"]
    assert [path.read_bytes() for path in images.paths] == contents
    assert decode(contents[299]).size == (8, 8)


def test_an_absent_place_is_an_error(tmp_path: Path) -> None:
    assert "there is no such file" in said_of(tmp_path / "absent")
    assert "there is no such file" in said_of(tmp_path / "absent.parquet")
