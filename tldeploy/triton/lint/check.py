"""All rules over a repository."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tldeploy.artifacts import MANIFEST
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.triton.lint.ensembles import check_ensemble
from tldeploy.triton.lint.files import check_files
from tldeploy.triton.lint.models import Model, Target
from tldeploy.triton.lint.rules import Finding
from tldeploy.triton.lint.running import check_running
from tldeploy.triton.lint.tensors import check_tensors
from tldeploy.triton.repository import models_of
from tldeploy.triton.transaction import CONFIG_FILE, recover

PUBLISH_AGAIN = "publish the model again with `tldeploy deploy --force`"


@dataclass(frozen=True)
class Lint:
    """models: the names of what was looked at. fixed: what `--fix` did, in words."""

    repository: Path
    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    fixed: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


def lint(repository: Path, target: Target | None = None) -> Lint:
    """Look at every model of a repository, for the server `target` (by default: Triton 26.09 on this machine).

    What tldeploy published is to stay as it is, for its manifest holds the hash of every file: where others edit a
    configuration, it is published again.

    Raises ArtifactError when there is no such folder or no model in it, UsageError when it is a model and not a
    repository.
    """
    target = target or Target()
    repository = _found(repository)
    models = {path.name: Model(path) for path in sorted(repository.iterdir()) if _is_model(path)}
    if not models:
        fix = "publish one with `tldeploy deploy`, or name the folder that has the models' folders"
        raise ArtifactError(f"lint {repository}", "no model is in it", fix)
    published = _published(repository)
    for model in models.values():
        if " " in str(repository / model.name):
            fix = "move the repository to a path without spaces"
            model.report("path-spaces", f"its path is {str(repository / model.name)!r}", fix, file="")
        if model.config is None:
            continue
        if model.text is None and model.name in published:
            model.report("config-missing", "the one that it was published with is gone", PUBLISH_AGAIN)
            continue
        check_files(model, target)
        check_tensors(model)
        check_running(model, target)
    for model in models.values():
        if model.config is not None and model.is_ensemble:
            check_ensemble(model, models)
    findings = [finding for model in models.values() for finding in _in_order(model)]
    findings = [_published_again(finding) if finding.model in published else finding for finding in findings]
    return Lint(repository, tuple(models), tuple(findings))


def _published(repository: Path) -> set[str]:
    """The Triton models that tldeploy published there."""
    ensembles = {path.parent.parent for path in repository.glob(f"*/*/{MANIFEST}")}
    return {model for ensemble in ensembles for model in models_of(ensemble)}


def _published_again(finding: Finding) -> Finding:
    if finding.edit or finding.rule == "ensemble-model-missing":
        return replace(finding, fix=PUBLISH_AGAIN, edit=None)
    return finding


def _found(repository: Path) -> Path:
    repository = repository.resolve()
    recover(repository)
    if not repository.is_dir():
        fix = "name the folder that the server gets as --model-repository"
        raise ArtifactError(f"lint {repository}", "there is no such folder", fix)
    if (repository / CONFIG_FILE).is_file():
        raise UsageError(f"lint {repository}", "it is a model, not a repository", f"lint {repository.parent}")
    return repository


def _is_model(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _in_order(model: Model) -> list[Finding]:
    return sorted(model.findings, key=lambda finding: (finding.file, finding.line or 0))
