"""The fixes that are safe, written one by one, each as a whole file or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tldeploy.artifacts import write_file
from tldeploy.triton.lint.check import Lint, lint
from tldeploy.triton.lint.models import Target
from tldeploy.triton.lint.rules import Finding
from tldeploy.triton.transaction import CONFIG_FILE


def mend(repository: Path, target: Target | None = None) -> Lint:
    """Fix what is safe to fix; what is left, and what was done. Raises StorageError when a file cannot be written."""
    target = target or Target()
    fixed: list[str] = []
    while True:
        found = lint(repository, target)
        fixable = next((finding for finding in found.findings if finding.edit), None)
        if fixable is None:
            return replace(found, fixed=tuple(fixed))
        _write(found.repository, fixable)
        assert fixable.edit is not None
        fixed.append(f"{fixable.file}: {fixable.edit.did} ({fixable.rule})")


def _write(repository: Path, finding: Finding) -> None:
    edit, path = finding.edit, repository / finding.model / CONFIG_FILE
    assert edit is not None
    text = path.read_bytes().decode("utf-8")
    write_file(path, text[: edit.start] + edit.text + text[edit.end :])
