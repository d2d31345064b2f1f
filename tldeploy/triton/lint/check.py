"""All rules over a repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tldeploy.errors import ArtifactError, UsageError
from tldeploy.triton.lint.ensembles import check_ensemble
from tldeploy.triton.lint.files import check_files
from tldeploy.triton.lint.models import Model, Target
from tldeploy.triton.lint.rules import Finding
from tldeploy.triton.lint.running import check_running
from tldeploy.triton.lint.tensors import check_tensors
from tldeploy.triton.transaction import CONFIG_FILE, recover


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

    Raises ArtifactError when there is no such folder, UsageError when it is a model and not a repository.
    """
    target = target or Target()
    repository = _found(repository)
    models = {path.name: Model(path) for path in sorted(repository.iterdir()) if _is_model(path)}
    for model in models.values():
        if " " in str(repository / model.name):
            fix = "move the repository to a path without spaces"
            model.report("path-spaces", f"its path is {str(repository / model.name)!r}", fix, file="")
        if model.config is None:
            continue
        check_files(model, target)
        check_tensors(model)
        check_running(model, target)
    for model in models.values():
        if model.config is not None and model.is_ensemble:
            check_ensemble(model, models)
    findings = tuple(finding for model in models.values() for finding in _in_order(model))
    return Lint(repository, tuple(models), findings)


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
