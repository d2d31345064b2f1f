from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.test_parquet import write_parquet
from tests.tiny_images import write_image_backbone, write_squares
from tests.tiny_project import write_backbone
from tldeploy import draft, pipeline
from tldeploy.data.rows import Splits, split_rows
from tldeploy.errors import ArtifactError, DataError, TldeployError, UsageError
from tldeploy.recipe import Recipe

HUB_ID = "google/vit-base-patch16-224"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put_images(folder: str, counts: dict[str, int], size: tuple[int, int] = (40, 30)) -> Path:
    """An image folder, all images of different pixels."""
    draw = np.random.default_rng(0)
    for label, count in counts.items():
        Path(folder, label).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, label, f"{number:02d}.png"))
    return Path(folder)


def put_backbone(config: dict[str, Any], preparation: dict[str, Any] | None = None) -> str:
    """What is looked at of a backbone before the first run; it has no weights."""
    Path("backbone").mkdir()
    Path("backbone/config.json").write_text(json.dumps(config))
    if preparation is not None:
        Path("backbone/preprocessor_config.json").write_text(json.dumps(preparation))
    return "backbone"


def drafted(path: Path) -> tuple[Recipe, Splits, str]:
    """The recipe, its rows, and its text with every comment on one line."""
    recipe, text = Recipe.load(path), path.read_text(encoding="utf-8")
    return recipe, split_rows(recipe.data, recipe.folder, recipe.task), text.replace("\n  # ", " ").replace("\n# ", " ")


RESNET = {"model_type": "resnet", "hidden_sizes": [256, 512, 1024, 2048], "num_channels": 3}
VIT = {"model_type": "vit", "hidden_size": 768, "num_channels": 3, "image_size": 224}
CROPPED = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}


def test_a_folder_of_images_becomes_a_recipe_that_can_be_tuned(here: Path) -> None:
    write_squares(here / "My squares", per_class=30)
    write_image_backbone(here / "backbone")
    path = draft.init("My squares/", "backbone")
    recipe, splits, text = drafted(path)
    assert path == Path("models/My-squares/recipe.yaml")
    assert (recipe.name, recipe.task) == ("My-squares", "image-classification")
    assert (recipe.data.file, recipe.backbone.source) == ("../../My squares", "../../backbone")
    assert (recipe.backbone.image_size, recipe.backbone.resize) == (32, "squash")
    assert (recipe.tune.epochs, recipe.tune.batch_size, recipe.tune.learning_rate) == (20, 8, 1e-3)
    assert (recipe.export.variants, recipe.data.broken) == (None, "refuse")
    assert '"blue" 30 (33.3%), "green" 30 (33.3%), "red" 30 (33.3%)' in text
    assert "90 images. No image occurs twice." in text
    assert "90 images were measured: JPEG 45, PNG 45; the median is 3" in text
    tuned = pipeline.tune(path.parent)
    assert tuned.manifest.labels == splits.labels == ["blue", "green", "red"]
    assert max(found["test"]["value"] for found in tuned.manifest.metrics.values()) > 0.8


def test_every_setting_has_a_comment_above_it() -> None:
    put_images("photos", {"cat": 20, "dog": 5})
    lines = draft.init("photos", put_backbone(RESNET, CROPPED)).read_text(encoding="utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    bare = [lines[n] for n in settings if not lines[n - 1].lstrip().startswith("#")]
    assert bare == ["data:", "backbone:", "tune:", "export:", "deploy:"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_a_column_of_image_files_is_of_images(suffix: str) -> None:
    put_images("photos", {"a": 8, "b": 8})
    rows = [{"id": n, "picture": f"photos/{'ab'[n % 2]}/{n // 2:02d}.png", "kind": "xy"[n % 2]} for n in range(16)]
    path = Path(f"rows{suffix}")
    if suffix == ".parquet":
        write_parquet(path, {name: [row[name] for row in rows] for name in rows[0]})
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        path.write_text("\n".join(delimiter.join(map(str, row)) for row in [rows[0], *(r.values() for r in rows)]))
    recipe, splits, text = drafted(draft.init(path, HUB_ID))
    assert (recipe.task, recipe.data.image, recipe.data.label) == ("image-classification", "picture", "kind")
    assert (splits.labels, len(splits.train) + len(splits.validation) + len(splits.test)) == (["x", "y"], 16)
    assert "the column 'picture' holds images" in text
    assert "16 rows with 3 columns. No image occurs twice." in text


def test_images_inside_parquet_are_found_with_the_names_of_their_classes(here: Path) -> None:
    put_images("photos", {"a": 8, "b": 8})
    cells = [{"bytes": Path(f"photos/{'ab'[n % 2]}/{n // 2:02d}.png").read_bytes(), "path": None} for n in range(16)]
    columns = {"image": cells, "label": [n % 2 for n in range(16)]}
    path = write_parquet(here / "rows.parquet", columns, class_names={"label": ["cat", "dog"]})
    recipe, splits, _ = drafted(draft.init(path, HUB_ID))
    assert (recipe.data.image, recipe.data.label, splits.labels) == ("image", "label", ["cat", "dog"])


def test_texts_in_parquet_open_too(here: Path) -> None:
    texts = [f"a review of some length, the {n}th" for n in range(40)]
    path = write_parquet(here / "rows.parquet", {"body": texts, "stars": [n % 5 + 1 for n in range(40)]})
    recipe, splits, _ = drafted(draft.init(path, "bert-base-uncased"))
    assert (recipe.task, recipe.data.text, recipe.data.label) == ("text-classification", "body", "stars")
    assert splits.labels == ["negative", "neutral", "positive"]


@pytest.mark.parametrize(
    ("folders", "test", "validation"),
    [
        (("train", "val", "test"), "../../photos/test", "../../photos/val"),
        (("Train", "Test"), "../../photos/Test", 0.2),
        (("training", "validation"), 0.3, "../../photos/validation"),
    ],
)
def test_folders_of_splits_stay_as_they_are(
    folders: tuple[str, ...], test: str | float, validation: str | float
) -> None:
    for folder in folders:
        put_images(f"photos/{folder}", {"cat": 6, "dog": 6}, (8, 8))
    recipe, splits, text = drafted(draft.init("photos", HUB_ID))
    assert (recipe.data.file, recipe.data.test) == (f"../../photos/{folders[0]}", test)
    assert (recipe.data.validation, recipe.name) == (validation, "photos")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 12 * len(folders)
    assert f"{12 * len(folders)} images." in text


def test_a_class_named_as_a_split_is_still_a_class() -> None:
    put_images("photos", {"test": 6, "train": 6, "car": 6}, (8, 8))
    assert drafted(draft.init("photos", HUB_ID))[1].labels == ["car", "test", "train"]


def test_naming_the_column_of_texts_makes_it_a_text_task() -> None:
    put_images("photos", {"a": 8, "b": 8})
    rows = [f"photos/{'ab'[n % 2]}/{n // 2:02d}.png,a caption of words {n},{'ab'[n % 2]}" for n in range(16)]
    Path("rows.csv").write_text("\n".join(["file,caption,label", *rows]))
    assert Recipe.load(draft.init("rows.csv", HUB_ID, name="images")).task == "image-classification"
    named = Recipe.load(draft.init("rows.csv", "bert-base-uncased", name="texts", text="caption"))
    assert (named.task, named.data.text) == ("text-classification", "caption")
    named = Recipe.load(draft.init("rows.csv", HUB_ID, name="named", image="file", label="label"))
    assert (named.task, named.data.image) == ("image-classification", "file")


def test_a_few_broken_images_are_left_out_and_named() -> None:
    folder = put_images("photos", {"cat": 10, "dog": 10})
    whole = (folder / "cat/00.png").read_bytes()
    (folder / "cat/00.png").write_bytes(whole[:200])
    (folder / "dog/a\nb: c.png").write_bytes(b"")
    path = draft.init(folder, HUB_ID)
    recipe, splits, text = drafted(path)
    assert (recipe.data.broken, len(splits.left_out)) == ("skip", 2)
    assert "21 images, of which 2 cannot be read and are left out." in text
    assert "  # cat/00.png: it is cut off\n" in path.read_text(encoding="utf-8")
    assert '  # "dog/a\\nb: c.png: it is empty"\n' in path.read_text(encoding="utf-8")


def test_mostly_broken_images_are_refused(here: Path) -> None:
    folder = put_images("photos", {"cat": 6, "dog": 6})
    for file in [*folder.rglob("*.png")][:8]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot use 8 of the 12 images of .*photos"):
        draft.init(folder, HUB_ID)
    assert not (here / "models").exists()


def test_repeated_images_are_counted() -> None:
    folder = put_images("photos", {"cat": 10, "dog": 10})
    (folder / "dog/again.png").write_bytes((folder / "cat/00.png").read_bytes())
    text = drafted(draft.init(folder, HUB_ID))[2]
    assert "duplicates: 1 (of 21 rows, so many repeat the image of another" in text
    assert "contradicting labels: 1 (so many images stand there with different labels" in text


@pytest.mark.parametrize(
    ("size", "image_size", "said"),
    [
        ((28, 28), 64, "it was trained at 224 pixels, but half of the images have no side above 28"),
        ((64, 48), 128, "enlarged to 128 they show all they have, at 33% of the computation"),
        ((300, 200), 224, "pixels of each side, as it was trained"),
    ],
)
def test_small_images_are_enlarged_no_more_than_helps(size: tuple[int, int], image_size: int, said: str) -> None:
    put_images("photos", {"cat": 5, "dog": 5}, size)
    recipe, _, text = drafted(draft.init("photos", put_backbone(RESNET, CROPPED)))
    assert recipe.backbone.image_size == image_size
    assert said in text


def test_a_vision_transformer_keeps_its_size() -> None:
    put_images("photos", {"cat": 5, "dog": 5}, (28, 28))
    recipe, _, text = drafted(draft.init("photos", put_backbone(VIT)))
    assert (recipe.backbone.image_size, recipe.tune.learning_rate) == (224, 5e-5)
    assert recipe.export.variants is None, "they are chosen to suit the network"
    assert "a vit may fit no other size" in text


@pytest.mark.parametrize(
    ("size", "preparation", "resize", "said"),
    [
        ((40, 30), CROPPED, "crop", "1.3 times the shorter, and 57% of it is seen"),
        ((80, 30), CROPPED, "squash", "cutting out the middle, 71% of it would not be seen"),
        ((40, 30), {"size": {"height": 224, "width": 224}}, "squash", "as it was trained"),
    ],
)
def test_long_images_are_squashed_others_prepared_as_the_backbone_was(
    size: tuple[int, int], preparation: dict[str, Any], resize: str, said: str
) -> None:
    put_images("photos", {"cat": 5, "dog": 5}, size)
    recipe, _, text = drafted(draft.init("photos", put_backbone(RESNET, preparation)))
    assert recipe.backbone.resize == resize
    assert said in text


@pytest.mark.parametrize(
    ("backbone", "image_size"),
    [("microsoft/resnet-50", 96), (HUB_ID, None)],
)
def test_of_a_backbone_on_the_hub_the_name_tells(backbone: str, image_size: int | None) -> None:
    put_images("photos", {"cat": 5, "dog": 5})
    recipe = drafted(draft.init("photos", backbone))[0]
    assert (recipe.backbone.source, recipe.export.variants) == (backbone, None)
    assert (recipe.backbone.image_size, recipe.backbone.resize) == (image_size, None)


def test_a_file_of_tensors_is_a_backbone(here: Path) -> None:
    from safetensors.torch import save_file

    from tests.backbones.families import make

    put_images("photos", {"cat": 5, "dog": 5})
    save_file(make("vgg", batch_norm=False).state_dict(), here / "net.safetensors")
    recipe, _, text = drafted(draft.init("photos", "net.safetensors"))
    assert (recipe.backbone.source, recipe.export.variants) == ("../../net.safetensors", None)
    assert "by their names and shapes a vgg" in text
    assert (recipe.backbone.image_size, recipe.backbone.resize, recipe.tune.learning_rate) == (96, "crop", 3e-5)


@pytest.mark.parametrize(("rare", "is_weighted"), [(7, False), (6, True)])
def test_uneven_classes_are_weighted(rare: int, is_weighted: bool) -> None:
    put_images("photos", {"cat": 20, "dog": rare}, (8, 8))
    recipe, splits, text = drafted(draft.init("photos", HUB_ID))
    assert recipe.tune.class_weights == is_weighted
    if is_weighted:
        counts = Counter(splits.labels[number] for number in splits.train.classes)
        assert f'"cat" has {counts["cat"]} training rows and "dog" {counts["dog"]}: weighted' in text


def test_a_class_with_few_rows_gets_every_method_that_there_is_for_them() -> None:
    from tldeploy.tuning.tune import METHODS

    put_images("photos", {"cat": 20, "dog": 20}, (8, 8))
    put_images("more", {"cat": 40, "dog": 40}, (8, 8))
    three = ["feature-extraction", "few-shot", "fine-tuning"]
    assert drafted(draft.init("photos", HUB_ID))[0].tune.methods == [name for name in three if name in METHODS]
    assert drafted(draft.init("more", HUB_ID))[0].tune.methods == ["feature-extraction", "fine-tuning"]


def test_digits_are_not_mirrored() -> None:
    put_images("digits", {str(digit): 4 for digit in range(10)}, (8, 8))
    recipe, _, text = drafted(draft.init("digits", HUB_ID))
    assert recipe.tune.augmentation == "none"
    assert "look like digits or letters" in text


@pytest.mark.parametrize(("size", "strength"), [((100, 80), "strong"), ((40, 30), "light")])
def test_few_images_are_augmented_strongly_unless_they_are_small(size: tuple[int, int], strength: str) -> None:
    put_images("photos", {"cat": 5, "dog": 5}, size)
    assert drafted(draft.init("photos", HUB_ID))[0].tune.augmentation == strength


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"label": "kind"}, UsageError, "it is a folder, where the files are the images and the subfolders"),
        ({"image": "x", "text": "y"}, UsageError, "leave out --text and --image, or name a table"),
        ({"data": "rows.csv", "text": "file", "image": "file"}, UsageError, "both --text and --image are given"),
        ({"data": "rows.csv", "image": "label", "label": "label"}, UsageError, "give --image and --label different"),
        ({"data": "rows.csv", "image": "body"}, DataError, "its columns are file, label"),
        ({"data": "rows.csv"}, DataError, "the column 'file' names images that are not there, such as gone/0.png"),
        ({"data": "photos/cat"}, DataError, "images lie in no class folder"),
        ({"out": "photos/job"}, UsageError, "it would lie among the images of photos"),
        ({"backbone": "absent.safetensors"}, UsageError, "it is no folder, no file, and no name that the hub"),
        ({"backbone": "no/such/folder"}, UsageError, "it is no folder, no file, and no name that the hub"),
        ({"backbone": "rows.csv"}, ArtifactError, "it ends in .csv"),
        ({"backbone": "photos"}, ArtifactError, "its config.json cannot be read"),
        ({"backbone": "bert"}, ArtifactError, "it reads texts (bert), and the rows are images"),
    ],
)
def test_what_cannot_become_a_recipe_is_refused_and_nothing_is_written(
    here: Path, options: dict[str, str], kind: type[TldeployError], said: str
) -> None:
    put_images("photos", {"cat": 4, "dog": 4}, (8, 8))
    Path("rows.csv").write_text("file,label\n" + "".join(f"gone/{n}.png,{'ab'[n % 2]}\n" for n in range(20)))
    write_backbone(here / "bert", layers=1)
    before = sorted(here.rglob("*"))
    with pytest.raises(kind) as raised:
        draft.init(**({"data": "photos", "backbone": HUB_ID} | options))
    assert said in str(raised.value)
    assert sorted(here.rglob("*")) == before


def test_an_image_backbone_is_refused_for_texts() -> None:
    Path("rows.csv").write_text("text,label\n" + "".join(f"some text {n},{'ab'[n % 2]}\n" for n in range(20)))
    with pytest.raises(ArtifactError, match=r"it reads images \(resnet\), and the rows are texts"):
        draft.init("rows.csv", put_backbone(RESNET))
