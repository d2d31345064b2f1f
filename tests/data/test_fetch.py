from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_project import PACKED_TABLE, write_index
from tldeploy import artifacts
from tldeploy.data.fetch import fetch_files
from tldeploy.errors import ArtifactError, MachineError
from tldeploy.recipe import Fetch, FetchedFile, Table


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path / "index", monkeypatch)


def wanted(**changes: str) -> Fetch:
    settings = {
        "member": "inner.tar.gz!table.txt",
        "sha256": hashlib.sha256(PACKED_TABLE).hexdigest(),
        "to": "deep/rows.csv",
    } | changes
    table = Table(columns=["id", "rating", "text"], encoding="latin-1")
    return Fetch(package="tiny-data==1.0", files=[FetchedFile(**settings, table=table)])


def test_a_table_inside_an_archive_inside_a_wheel_becomes_utf8_csv(tmp_path: Path, index: None) -> None:
    manifest = fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    assert (tmp_path / "data" / "deep" / "rows.csv").read_text(encoding="utf-8") == (
        'id,rating,text\n1,0.5,"café, good"\n2,-1,bad\n'
    )
    assert artifacts.load(tmp_path / "data", "fetch") == manifest
    assert list(manifest.files) == ["deep/rows.csv"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"member": "inner.tar.gz!absent.txt"}, "it has 0 such files"),
        ({"member": "tiny_data-1.0.dist-info/METADATA!x"}, "it is damaged"),
    ],
)
def test_what_is_not_as_declared_is_refused_and_nothing_is_written(
    tmp_path: Path, index: None, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        fetch_files([wanted(**changes)], tmp_path / "data", "tiny", "abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_a_package_that_cannot_be_had_is_one_clear_error(tmp_path: Path, index: None) -> None:
    absent = Fetch(package="absent-package==1.0", files=wanted().files)
    with pytest.raises(MachineError, match=r"cannot download absent-package==1\.0"):
        fetch_files([absent], tmp_path / "data", "tiny", "abc")
    assert not (tmp_path / "data").exists()


def test_a_persons_own_files_are_never_replaced(tmp_path: Path, index: None) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("precious")
    with pytest.raises(ArtifactError, match=r"it holds files that were not fetched: mine\.csv"):
        fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    assert (tmp_path / "data" / "mine.csv").read_text() == "precious"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_persons_own_files_are_safe_beside_damaged_ones(tmp_path: Path, index: None, damaged: bool) -> None:
    fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    (tmp_path / "data" / "mine.csv").write_text("precious")
    if damaged:
        (tmp_path / "data" / "deep" / "rows.csv").write_text("damaged")
    with pytest.raises(ArtifactError, match=r"it holds files that were not fetched: mine\.csv"):
        fetch_files([wanted()], tmp_path / "data", "tiny", "abc", force=True)
    assert (tmp_path / "data" / "mine.csv").read_text() == "precious"


def test_a_correction_by_hand_is_replaced_only_by_force(tmp_path: Path, index: None) -> None:
    first = fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    corrected = tmp_path / "data" / "deep" / "rows.csv"
    corrected.write_text("corrected")
    with pytest.raises(ArtifactError, match=r"deep/rows\.csv has changed"):
        fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    assert corrected.read_text() == "corrected"
    assert fetch_files([wanted()], tmp_path / "data", "tiny", "abc", force=True) == first


def test_a_missing_file_is_fetched_again(tmp_path: Path, index: None) -> None:
    first = fetch_files([wanted()], tmp_path / "data", "tiny", "abc")
    (tmp_path / "data" / "deep" / "rows.csv").unlink()
    assert fetch_files([wanted()], tmp_path / "data", "tiny", "abc") == first


def test_pip_is_run_by_this_interpreter() -> None:
    version = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=True)
    assert version.stdout.startswith(b"pip ")
