"""The model repository: an exported model published as three Triton models, and what is published there.

    <name>/            the ensemble that clients call, texts or image files in, probabilities out; <version>/ holds the
                       deploy artifact: tldeploy.json and golden.json
    <name>.tokenize/   texts: the tokenizing step (python backend): model.py, encoding.py, tokenizer.json, encoder.json
    <name>.decode/     images: the decoding step instead: model.py, pixels.py, encoder.json
    <name>.graph/      the chosen ONNX variant (onnxruntime backend): model.onnx; labels.txt. Over 2 GB, the weights
                       are in a file of their own, whose name model.onnx holds

All three have the same versions, and the ensemble pins its steps' version. The steps also serve the older versions that
are kept, as long as these have the same tensors and labels: one configuration describes all versions of a model, so
when the number of classes changes, the older ones stay on disk but are no longer served.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, file_sha256, fingerprint
from tldeploy.errors import ArtifactError, TldeployError, UsageError
from tldeploy.recipe import NAME, Deploy
from tldeploy.triton import config, options
from tldeploy.triton.canary.parts import canary_of, running
from tldeploy.triton.config import LABELS_FILE, Signature
from tldeploy.triton.lint.graph import external_files
from tldeploy.triton.steps import Step, step_of
from tldeploy.triton.transaction import CONFIG_FILE, LATER_CONFIG, Check, begin, commit, next_version, recover, versions

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from tldeploy.tasks.classification import Row

GOLDEN = "golden.json"
# A file where Python would make a folder: workers leave nothing beside what was published, least of all the half of a
# compiled module where the disk is full, which no later start could read.
NO_BYTECODE = "__pycache__"


@dataclass(frozen=True)
class Publication:
    """A model that is live in a repository. path: the ensemble's version folder, a deploy artifact."""

    name: str
    version: int
    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class _Names:
    """The three Triton models of a published name."""

    ensemble: str
    suffix: str

    @property
    def step(self) -> str:
        return f"{self.ensemble}.{self.suffix}"

    @property
    def graph(self) -> str:
        return f"{self.ensemble}.graph"

    @property
    def is_canary(self) -> bool:
        return self.ensemble == canary_of(self.ensemble.partition(".")[0])

    @property
    def in_order(self) -> tuple[str, str, str]:
        """What others need comes first."""
        return self.step, self.graph, self.ensemble


@dataclass(frozen=True)
class _Release:
    """A version about to be published. served: the versions that its steps will answer for, itself the last.

    meanwhile: those, and the one that the ensemble pins until it has changed.
    lengths: that rows are padded to, ascending; none where all rows have one shape, or the export does not say.
    """

    names: _Names
    step: Step
    export: Path
    manifest: Manifest
    signature: Signature
    version: int
    served: list[int]
    meanwhile: list[int]
    settings: Deploy
    lengths: list[int]
    lineage: Mapping[str, Any]
    checked: bool
    tuning: Mapping[str, Any] | None


def publish(
    export: Path,
    repository: Path,
    name: str,
    settings: Deploy,
    lineage: Mapping[str, Any] | None = None,
    check: Check | None = None,
    tuning: Mapping[str, Any] | None = None,
    *,
    as_canary: bool = False,
) -> Publication:
    """Publish the export artifact as the next version of `name`, and make it live, in running servers too.

    lineage: what lies behind the export, see lineage.py; the deploy artifact keeps it for `tldeploy trace`.
    check: what the staged version has to pass before it is live, see checking.py; the deploy artifact says whether.
    tuning: how the settings were found, see fitting/; the deploy artifact keeps it too.

    as_canary: publish it beside `name`, as `<name>.canary`; nothing is said of the share of requests that it gets.

    Raises ArtifactError when the export is damaged or cannot be batched, UsageError for a name or path that Triton
    cannot serve, StorageError when the disk is full or another publisher does not finish, ServerError when a running
    server refuses it, and what the check raises. Then, as when it is killed, the old version stays live.
    """
    _check_name(name)
    check_path(repository)
    manifest = artifacts.load(export, "export")
    step = step_of(manifest.task)
    repository, names = repository.resolve(), _Names(canary_of(name) if as_canary else name, step.suffix)
    signature = config.read_signature(_chosen(export, manifest))
    settings = decided(manifest, settings)
    with begin(repository) as staging:
        refuse_beside_a_canary(repository, name, f"publish {name}")
        version = next_version(repository, names.in_order)
        keep = kept_versions(repository, names.ensemble, version, settings.keep_versions)
        shape = _shape(signature, manifest)
        served = [old for old in keep[:-1] if _shape_of(repository / names.ensemble / str(old)) == shape] + [version]
        live = live_version(repository / names.ensemble)
        pinned = [live] if live and _shape_of(repository / names.ensemble / str(live)) == shape else []
        release = _Release(
            names,
            step,
            export,
            manifest,
            signature,
            version,
            served,
            meanwhile=sorted({*served, *pinned}),
            settings=settings,
            lengths=_lengths(manifest, settings),
            lineage=lineage or {},
            checked=check is not None,
            tuning=tuning,
        )
        _stage_step(staging / names.step, release)
        _stage_graph(staging / names.graph, release)
        _stage_ensemble(staging / names.ensemble, release)
        commit(repository, names.in_order, version, keep, check)
    return published(repository, names.ensemble)


def refuse_beside_a_canary(repository: Path, name: str, asked: str) -> None:
    """Raises UsageError while a canary of `name` answers a share of its requests."""
    if running(repository, name):
        fix = f"run `tldeploy canary {name} --promote` or `--drop` first"
        raise UsageError(asked, "a canary answers a share of its requests, compared with what is live now", fix)


def kept_versions(repository: Path, name: str, version: int, count: int) -> list[int]:
    """The versions that stay, ascending: the new one, the one live until now, and the newest of the others."""
    live = live_version(repository / name)
    older = sorted(versions(repository / name), key=lambda old: (old == live, old))
    return sorted([*older, version][-count:])


def is_current(
    export: Path,
    repository: Path,
    name: str,
    settings: Deploy,
    tuning: Mapping[str, Any] | None = None,
    checked: bool = False,
) -> bool:
    """Whether publishing would change nothing: the live version comes from this export and these settings, intact.

    tuning: as for `publish`. checked: it must also have passed a check when it was published.
    """
    try:
        live = published(repository, name)
        same = live.manifest.inputs == _inputs(artifacts.load(export, "export"), settings)
        same = same and live.manifest.details.get("tuning") == tuning
        same = same and live.manifest.details.get("checked", False) >= checked
        files: dict[str, str] = live.manifest.details["repository_files"]
        return same and all(file_sha256(repository / file) == sha256 for file, sha256 in files.items())
    except (TldeployError, OSError):
        return False


def published(repository: Path, name: str) -> Publication:
    """The live version of `name`. Raises ArtifactError when there is none, or when it is damaged."""
    repository = repository.resolve()
    recover(repository)
    if "/" in name or not (repository / name / CONFIG_FILE).is_file():
        known = ", ".join(model.name for model in all_published(repository)) or "none"
        found = f"it is not there (published: {known})"
        raise ArtifactError(f"find {name} in {repository}", found, "publish it with `tldeploy deploy`")
    version = config.read(repository / name / CONFIG_FILE).version_policy.specific.versions[-1]
    path = repository / name / str(version)
    return Publication(name, version, path, artifacts.load(path, "deploy"))


def all_published(repository: Path) -> list[Publication]:
    """Everything that tldeploy has published there; models from elsewhere are left alone.

    Raises ArtifactError when there is no such folder.
    """
    repository = repository.resolve()
    recover(repository)
    if not repository.is_dir():
        found = "there is no such folder"
        raise ArtifactError(f"read the model repository {repository}", found, "publish one with `tldeploy deploy`")
    names = {path.parent.parent.name for path in repository.glob(f"*/*/{artifacts.MANIFEST}")}
    return [published(repository, name) for name in sorted(names) if (repository / name / CONFIG_FILE).is_file()]


def live_version(ensemble: Path) -> int | None:
    """The version that the ensemble in that folder serves, damaged or not; None when its configuration says nothing."""
    try:
        return int(config.read(ensemble / CONFIG_FILE).version_policy.specific.versions[-1])
    except (ArtifactError, IndexError):
        return None


def models_of(ensemble: Path) -> set[str]:
    """The Triton models that tldeploy published with the ensemble in that folder, itself among them."""
    models = {ensemble.name}
    for version in versions(ensemble):
        with contextlib.suppress(ArtifactError):
            models |= set(artifacts.read(ensemble / str(version), "deploy").details["models"])
    return models


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        found = "its name may have letters, digits, - and _ only (the dot is used for its steps)"
        raise UsageError(f"publish {name!r}", found, "choose another name")


def check_path(repository: Path) -> None:
    """Raises UsageError for a path that Triton cannot serve."""
    if " " in str(repository.resolve()):
        found = "Triton's workers hang below a path with spaces"
        raise UsageError(f"use the repository {repository.resolve()}", found, "move it to a path without spaces")


def _chosen(export: Path, manifest: Manifest) -> Path:
    chosen = manifest.details["chosen"]
    file: str = next(variant["file"] for variant in manifest.details["variants"] if variant["name"] == chosen)
    return export / file


def decided(export: Manifest, settings: Deploy) -> Deploy:
    """The settings that the export artifact is published with: what they leave open is filled in by what it says."""
    target, session = export.details.get("target", "cpu"), export.details.get("session", {})
    return options.resolved(settings, target, export.details["chosen"], session.get("options"))


def _inputs(export: Manifest, settings: Deploy) -> str:
    """Everything that determines what is published."""
    step, programs = step_of(export.task), (config.__file__, options.__file__, __file__)
    ours = [file_sha256(path) for path in (step.encoder, step.program, *map(Path, programs))]
    return fingerprint([export.sha256, decided(export, settings).model_dump(exclude={"repository", "p99_ms"}), ours])


def _lengths(export: Manifest, settings: Deploy) -> list[int]:
    """For TensorRT also the longest that a row may have: its engine is built for a range; see options.warm_graph."""
    lengths = set(map(int, export.details.get("padded_lengths", ())))
    if settings.device == "tensorrt" and "max_length" in export.preprocessing:
        lengths.add(export.preprocessing["max_length"])
    return sorted(lengths)


def _shape(signature: Signature, export: Manifest) -> str:
    """What all versions under one configuration must have in common."""
    return fingerprint([asdict(signature), export.labels])


def _shape_of(path: Path) -> str | None:
    try:
        shape: str = artifacts.load(path, "deploy").details["shape"]
    except ArtifactError:
        return None
    return shape


def _stage_step(model: Path, release: _Release) -> None:
    folder, step = model / str(release.version), release.step
    folder.mkdir(parents=True)
    shutil.copyfile(step.program, folder / "model.py")
    shutil.copyfile(step.encoder, folder / step.encoder.name)
    for file in step.files:
        shutil.copyfile(release.export / file, folder / file)
    (folder / NO_BYTECODE).touch()
    _write_configs(
        model,
        release,
        lambda served: config.step_config(model.name, step.input, release.signature.inputs, served, release.settings),
    )


def _stage_graph(model: Path, release: _Release) -> None:
    folder = model / str(release.version)
    folder.mkdir(parents=True)
    chosen = _chosen(release.export, release.manifest)
    shutil.copyfile(chosen, folder / "model.onnx")
    for name in external_files(chosen):
        if name not in release.manifest.files:
            found = f"its weights are in {name}, which is not part of the export"
            raise ArtifactError(f"publish {chosen.name}", found, "run `tldeploy export` again")
        shutil.copyfile(release.export / name, folder / name)
    (model / LABELS_FILE).write_text("".join(f"{label}\n" for label in release.manifest.labels), encoding="utf-8")
    _write_configs(
        model,
        release,
        lambda served: config.graph_config(model.name, release.signature, served, release.settings, release.lengths),
    )


def _stage_ensemble(model: Path, release: _Release) -> None:
    """Staged last: its deploy artifact holds the hashes of all that was staged."""
    names, exported, settings = release.names, release.manifest, release.settings
    folder = model / str(release.version)
    folder.mkdir(parents=True)
    steps, given = (names.step, names.graph), release.step.input
    described = config.ensemble_config(model.name, steps, given, release.signature, release.version, settings)
    if names.is_canary:
        described.ClearField("response_cache")  # it begins at version 1 each time, and would answer for the last one
    (model / CONFIG_FILE).write_text(config.to_text(described), encoding="utf-8")
    shutil.copyfile(release.export / GOLDEN, folder / GOLDEN)
    deploy = Manifest(
        kind="deploy",
        name=names.ensemble,
        inputs=_inputs(exported, settings),
        task=exported.task,
        labels=exported.labels,
        preprocessing=exported.preprocessing,
        parents={"export": exported.sha256},
        details={
            "version": release.version,
            "variant": exported.details["chosen"],
            "models": list(names.in_order),
            "settings": settings.model_dump(exclude={"repository"}),
            "lengths": release.lengths,
            "shape": _shape(release.signature, exported),
            "lineage": dict(release.lineage),
            "tuning": release.tuning,
            "checked": release.checked,
            "repository_files": staged_files(model.parent),
        },
    )
    artifacts.seal(folder, deploy)


def staged_files(staging: Path) -> dict[str, str]:
    """sha256 of every staged file, by the place where it will lie in the repository."""
    files = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):  # a later configuration comes later
        final = path.with_name(CONFIG_FILE) if path.name == LATER_CONFIG else path
        files[final.relative_to(staging).as_posix()] = file_sha256(path)
    return files


def _write_configs(model: Path, release: _Release, described: Callable[[list[int]], ModelConfig]) -> None:
    """A step's configuration until the ensemble has changed, and the one after that, where it is another."""
    (model / CONFIG_FILE).write_text(config.to_text(described(release.meanwhile)), encoding="utf-8")
    if release.meanwhile != release.served:
        (model / LATER_CONFIG).write_text(config.to_text(described(release.served)), encoding="utf-8")


def golden(publication: Publication) -> tuple[list[Row], list[list[float]]]:
    """Rows, and the probabilities that onnxruntime gave for each alone when the model was exported."""
    stored = json.loads((publication.path / GOLDEN).read_text(encoding="utf-8"))
    rows: list[Row] = stored["rows"]
    if step_of(publication.manifest.task).input == "image":
        rows = [base64.b64decode(row) for row in stored["rows"]]
    return rows, stored["probabilities"]
