from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tldeploy import errors
from tldeploy.cli import app
from tldeploy.recipe import Recipe, Section

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


NUMBERS = re.compile(r"^\|(?: --- \|)* ---: \|", re.MULTILINE)  # the rule of a table that has a column of figures


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch) -> Any:
    """bench/readme.py, as it is when it is started."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("readme")


def test_the_figures_are_the_recorded_ones() -> None:
    script = ROOT / "bench" / "readme.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(readme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what bench/readme.py writes, which it then takes for the project's."""
    for place in [*readme.FIGURES, *readme.PAGES]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    assert readme.main(check=True) == 0
    return tmp_path


def test_a_figure_that_was_changed_is_found_and_a_table_mended(
    readme: Any, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (copy / "README.md").read_text(encoding="utf-8")
    changed = text.replace("| fp32 | 90.4 |", "| fp32 | 80.4 |").replace(
        "it answers 1,324 right", "it answers 1,884 right"
    )
    (copy / "README.md").write_text(changed, encoding="utf-8")
    for check in (True, False):
        assert readme.main(check) == 1
        assert "it answers 1,324 right" in capsys.readouterr().err
        assert ("| fp32 | 90.4 |" in (copy / "README.md").read_text(encoding="utf-8")) != check


def test_a_page_that_is_gone_or_was_changed_is_found_and_written_anew(
    readme: Any, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, changed = copy / "bench/results/families.md", copy / f"bench/results/{readme.MACHINE}/fitting.md"
    gone.unlink()
    changed.write_text(changed.read_text(encoding="utf-8").replace("AMD EPYC", "this machine"), encoding="utf-8")
    assert readme.main(check=True) == 1
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(":")[0] for line in told) == sorted(str(p.relative_to(copy)) for p in (gone, changed))
    assert readme.main(check=False) == 0
    assert gone.read_bytes() == (ROOT / gone.relative_to(copy)).read_bytes()
    assert readme.main(check=True) == 0


def test_every_page_of_the_results_is_written_from_a_record(readme: Any) -> None:
    results = (ROOT / "bench" / "results").rglob("*")
    assert {str(file.relative_to(ROOT)) for file in results if file.suffix in {".md", ".svg"}} == set(readme.PAGES)


@pytest.mark.parametrize("place", ["README.md", "bench/README.md"])
def test_every_table_of_figures_is_written_from_a_record_or_said_not_to_be(readme: Any, place: str) -> None:
    text = (ROOT / place).read_text(encoding="utf-8")
    assert re.findall(r"<!-- figures: (.+) -->", text) == list(readme.FIGURES[place])
    by_hand = re.sub(r"<!-- figures: .*?<!-- end of figures -->", "", text, flags=re.DOTALL)
    before = [by_hand[: rule.start()].rpartition("\n\n")[0].rpartition("\n\n")[2] for rule in NUMBERS.finditer(by_hand)]
    assert all("not recorded" in paragraph for paragraph in before)


def test_every_verb_is_listed() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", README, flags=re.MULTILINE))
    assert listed >= set(app.commands)


def test_every_exit_code_is_listed() -> None:
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    codes = {found.exit_code for found in classes if issubclass(found, errors.TldeployError)}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert listed == codes | {0, errors.INTERRUPTED}


def test_every_section_of_a_recipe_is_described() -> None:
    fields = Recipe.model_fields
    sections = [name for name, field in fields.items() if isinstance(field.annotation, type)]
    described = [name for name in sections if issubclass(fields[name].annotation, Section)]  # type: ignore[arg-type]
    assert described == ["data", "backbone", "tune", "export", "deploy", "bench"]
    assert all(f"`{name}." in README for name in described)
