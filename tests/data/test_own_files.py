from __future__ import annotations

from pathlib import Path

from tests.tiny_images import write_squares
from tldeploy.data.own_files import own_files
from tldeploy.recipe import Recipe


def test_an_image_that_a_table_names_counts_as_a_file_of_the_recipes_own(tmp_path: Path) -> None:
    write_squares(tmp_path / "squares", per_class=1)
    text = "{name: x, task: image-classification, data: {file: rows.csv}, backbone: {source: some/hub-id}}"
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = Recipe.load(tmp_path)
    image = next((tmp_path / "squares" / "red").iterdir())
    (tmp_path / "rows.csv").write_text(f"image,label\nsquares/red/{image.name},red\nsquares/gone.png,red\n")
    before = own_files(recipe)
    assert set(before) == {"rows.csv"}
    assert set(before["rows.csv"]) == {".", f"squares/red/{image.name}"}
    image.write_bytes(image.read_bytes() + b"\0")
    after = own_files(recipe)
    assert after["rows.csv"]["."] == before["rows.csv"]["."]
    assert after != before
