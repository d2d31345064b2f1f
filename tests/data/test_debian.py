from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tldeploy.data.debian import download_deb, tar_of_deb
from tldeploy.data.fetch import _member
from tldeploy.errors import ArtifactError, MachineError

CONTENT = b"a file of a package\n" * 50


def zstd(content: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd here")
    return subprocess.run(["zstd", "--stdout"], input=content, capture_output=True, check=True).stdout


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


def tar(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return stream.getvalue()


def make_deb(compression: str) -> bytes:
    files = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(tar("./control")),
        f"data.tar{compression}": COMPRESSIONS[compression](tar("./usr/share/tiny/rows.txt")),
    }
    members = (
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data for name, data in files.items()
    )
    return b"!<arch>\n" + b"".join(member + b"\n" * (len(member) % 2) for member in members)


@pytest.fixture(params=["with dpkg-deb", "without dpkg-deb"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH that has dpkg-deb, or one that has zstd and nothing else."""
    if request.param == "with dpkg-deb":
        if shutil.which("dpkg-deb") is None:
            pytest.skip("there is no dpkg-deb here")
        return
    only(tmp_path / "bin", "zstd", monkeypatch)


def only(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    if found := shutil.which(program):
        (folder / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture(params=COMPRESSIONS)
def deb(request: pytest.FixtureRequest) -> bytes:
    return make_deb(request.param)


def test_a_file_is_taken_out_of_a_package(deb: bytes, machine: None) -> None:
    assert _member(deb, "tiny_1.0_all.deb", ["tiny/rows.txt"]) == CONTENT


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("damaged", [b"", b"hello", make_deb("")[:100], make_deb(".gz")[:-40]])
def test_a_damaged_package_is_refused(damaged: bytes) -> None:
    with pytest.raises(ArtifactError, match="it is damaged"):
        tar_of_deb(damaged, "tiny_1.0_all.deb")


def test_zstd_without_a_program_that_reads_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = make_deb(".zst")
    only(tmp_path / "bin", "nothing", monkeypatch)
    with pytest.raises(MachineError, match="fix: apt-get install zstd"):
        tar_of_deb(deb, "tiny_1.0_all.deb")


def test_without_apt_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(tmp_path / "bin", "nothing", monkeypatch)
    with pytest.raises(MachineError, match="there is no apt-get here"):
        download_deb("tiny", tmp_path)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get here")
@pytest.mark.parametrize("package", ["no-such-package-anywhere", "--print-uris"])
def test_an_unknown_package_is_one_clear_error(tmp_path: Path, package: str) -> None:
    with pytest.raises(MachineError, match=f"cannot download the Debian package {package}") as raised:
        download_deb(package, tmp_path)
    assert "apt-get update" in raised.value.fix
    assert not list(tmp_path.iterdir())
