"""The fixes that are safe, written one by one, each as a whole file or not at all.

What tldeploy published is left as it is: its manifest holds the hash of every file, so it is deployed again instead.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tldeploy.artifacts import MANIFEST, write_file
from tldeploy.triton.lint.check import Lint, lint
from tldeploy.triton.lint.models import Target
from tldeploy.triton.lint.rules import Finding
from tldeploy.triton.repository import models_of
from tldeploy.triton.transaction import CONFIG_FILE


def mend(repository: Path, target: Target | None = None) -> Lint:
    """Fix what is safe to fix; what is left, and what was done. Raises StorageError when a file cannot be written."""
    target = target or Target()
    fixed: list[str] = []
    while True:
        found = lint(repository, target)
        sealed = _sealed(found.repository)
        fixable = next((f for f in found.findings if f.edit and f.model not in sealed), None)
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


def _sealed(repository: Path) -> set[str]:
    """The Triton models that tldeploy published there."""
    names = {path.parent.parent for path in repository.glob(f"*/*/{MANIFEST}")}
    return {model for folder in names for model in models_of(folder)}
