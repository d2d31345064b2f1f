"""Packages of Debian and its kin: downloaded by apt, and opened without being installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tldeploy.errors import ArtifactError, MachineError

AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


def download_deb(package: str, folder: Path) -> Path:
    """Download one package, `name` or `name=version`, without what it depends on; the path of its .deb file.

    apt verifies the package by the signed lists it has; root is not needed. Raises MachineError when there is no apt,
    or no such package in its lists.
    """
    asked = f"download the Debian package {package}"
    program = shutil.which("apt-get")
    if program is None:
        fix = (
            "run `tldeploy fetch` on Debian or Ubuntu, or in a container of theirs, and copy the recipe's data/ folder"
        )
        raise MachineError(asked, "there is no apt-get here", fix)
    # In a folder of ours apt's own user may not write; it then warns, and writes as the one who called it.
    result = subprocess.run(
        [program, "download", "--quiet", "--", package],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    found = sorted(folder.glob("*.deb"))
    if result.returncode or len(found) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("E:")]
        reason = errors[0].removeprefix("E:").strip() if errors else f"apt-get ended with {result.returncode}"
        if "No space left" in result.stderr or "free space" in result.stderr:
            raise OSError(28, "No space left on device")
        fix = "check the network, and run again"
        if "Unable to locate" in reason or "no candidate" in reason.lower() or "No packages" in reason:
            fix = "bring apt's lists up to date with `apt-get update` (as root), check the name, and run again"
        raise MachineError(asked, reason, fix)
    return found[0]


def tar_of_deb(content: bytes, name: str) -> bytes:
    """The tar archive of the files that a .deb carries, decompressed unless Python's tarfile can do that itself.

    Raises ArtifactError for a damaged package, MachineError for one compressed with zstd where no program reads that.
    """
    asked, damaged = f"open {name}", "run again to download it anew"
    if program := shutil.which("dpkg-deb"):
        result = subprocess.run([program, "--fsys-tarfile", "-"], input=content, capture_output=True, check=False)
        if result.returncode:
            lines = result.stderr.decode(errors="replace").strip().splitlines() or ["dpkg-deb gives no reason"]
            raise ArtifactError(asked, f"it is damaged ({lines[-1]})", damaged)
        return result.stdout
    member = next((member for member in _ar_members(content) if member[0].startswith("data.tar")), None)
    if member is None:
        raise ArtifactError(asked, "it is damaged (it has no data.tar)", damaged)
    compression, archive = member
    if compression != "data.tar.zst":
        return archive
    program = shutil.which("zstd")
    if program is None:
        raise MachineError(asked, "it is compressed with zstd, which nothing here reads", "apt-get install zstd")
    result = subprocess.run([program, "--decompress", "--stdout"], input=archive, capture_output=True, check=False)
    if result.returncode:
        raise ArtifactError(asked, "it is damaged (zstd cannot read it)", damaged)
    return result.stdout


def _ar_members(content: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of an ar archive: after a magic line, headers of 60 bytes, each before its file (deb(5))."""
    members: list[tuple[str, bytes]] = []
    at = len(AR_MAGIC)
    if not content.startswith(AR_MAGIC):
        return members
    while at + AR_HEADER <= len(content):
        header = content[at : at + AR_HEADER]
        digits = header[48:58].strip()
        if not digits.isdigit() or at + AR_HEADER + int(digits) > len(content):
            break
        start, size = at + AR_HEADER, int(digits)
        members.append(
            (header[:16].decode("ascii", errors="replace").strip().rstrip("/"), content[start : start + size])
        )
        at = start + size + size % 2
    return members
