"""What a model repository needs of whoever runs it, read from its configurations and its Python steps.

1. `read_needs` lints the repository: what a server would refuse is not worth a manifest.
2. What clients call are the models that are no step of an ensemble.
3. A Python step needs the packages that its files import, in the versions that this tldeploy runs with, so that the
   answers are the same.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tldeploy.errors import ArtifactError, MachineError, QualityError
from tldeploy.triton.lint.check import lint
from tldeploy.triton.lint.models import Model, Target
from tldeploy.triton.lint.rules import Finding
from tldeploy.triton.placement import device_of, instances
from tldeploy.triton.repository import all_published
from tldeploy.triton.server_options import server_options
from tldeploy.triton.transaction import recover

# Where nothing tells: enough for a small encoder and the server itself.
CORES = 2
BASE_MEMORY_GIB = 1
# Loaded weights, and what a run needs beside them, against the size of the files.
MEMORY_FACTOR = 2
# No group's GPU is one too many: the server that a manifest is for is chosen by what the repository needs.
_EVERY_GPU = sys.maxsize
# What an image of Triton has for its Python steps.
_IN_THE_IMAGE = {"numpy", "triton_python_backend_utils"}
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Needs:
    """What a repository needs.

    name: for the cluster's objects.
    called: the models that clients call.
    packages: those of Python steps, by name, with their versions.
    gpus, cores: for each replica.
    open_threads: whether a model leaves its number of threads to onnxruntime.
    memory_gib: a first guess.
    builds_engines: whether TensorRT builds engines before a replica is ready.
    queue_delay_us: the longest that a model waits for a batch to fill.
    unserved: version folders that no configuration asks for.
    complete: whether every configuration names its backend, inputs and outputs, so that the server need not look.
    options: the server's flags that the recipes of what tldeploy published ask for.
    """

    repository: Path
    name: str
    called: tuple[str, ...]
    packages: dict[str, str]
    has_python: bool
    gpus: int
    cores: int
    open_threads: bool
    memory_gib: int
    builds_engines: bool
    queue_delay_us: int
    unserved: tuple[str, ...]
    complete: bool
    options: tuple[str, ...]


def read_needs(repository: Path) -> Needs:
    """Read a repository, tldeploy's or anybody's.

    Raises ArtifactError when there is no such folder or no model in it, UsageError when it is a model and not a
    repository, QualityError when a server would refuse a model of it, and MachineError when a Python step imports a
    package whose version is not known here.
    """
    repository = repository.resolve()
    recover(repository)
    models = [model for model in _sound(repository) if model.served]
    asked = _asked(repository)
    if not models:
        raise ArtifactError(asked, "no model is in it", "publish one with `tldeploy deploy`")
    steps = {step.model_name for model in models for step in model.known.ensemble_scheduling.step}
    called = tuple(model.name for model in models if model.name not in steps)
    gpus = max(map(_gpus, models))
    loaded_bytes = sum(_loaded_bytes(model, gpus) for model in models)
    return Needs(
        repository=repository,
        name=_cluster_name(called[0] if len(called) == 1 else repository.name),
        called=called,
        packages=_packages(models, asked),
        has_python=any(model.backend == "python" for model in models),
        gpus=gpus,
        cores=sum(map(_threads, models)) or CORES,
        open_threads=any(_leaves_threads_open(model) for model in models),
        memory_gib=BASE_MEMORY_GIB + math.ceil(MEMORY_FACTOR * loaded_bytes / 2**30),
        builds_engines=any(device_of(model) == "tensorrt" for model in models),
        queue_delay_us=max(model.known.dynamic_batching.max_queue_delay_microseconds for model in models),
        unserved=tuple(
            f"{model.name}/{version}" for model in models for version in model.on_disk if version not in model.served
        ),
        complete=all(map(_is_complete, models)),
        options=tuple(server_options(all_published(repository))),
    )


def _asked(repository: Path) -> str:
    return f"write manifests for {repository}"


def _sound(repository: Path) -> list[Model]:
    """Every model of the repository. What does not fit this machine is no matter: it will run on another."""
    asked = _asked(repository)
    if not repository.is_dir():
        fix = "name the folder that the server gets as --model-repository"
        raise ArtifactError(asked, "there is no such folder", fix)
    found = lint(repository, Target(gpus=_EVERY_GPU))
    errors = [finding for finding in found.findings if finding.severity == "error" and not _only_here(finding)]
    if errors:
        others = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        said = f"a server would refuse it: {errors[0].place}: {errors[0].found}{others}"
        raise QualityError(asked, said, f"see `tldeploy lint {repository}`")
    return [Model(repository / name) for name in found.models]


def _only_here(finding: Finding) -> bool:
    """Spaces in the path to the repository stay behind; in the name of a model they would not."""
    return finding.rule == "path-spaces" and " " not in finding.model


def _cluster_name(name: str) -> str:
    """As Kubernetes allows it for a service: lower-case letters, digits and dashes, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}".strip("-")


def _packages(models: Sequence[Model], asked: str) -> dict[str, str]:
    """Of all Python steps, name to version. A step that brings an environment of its own needs none."""
    needed: dict[str, str] = {}
    for model in models:
        if model.backend == "python" and "EXECUTION_ENV_PATH" not in model.known.parameters:
            for version in model.served:
                needed |= dict.fromkeys(_imports(model.folder / str(version), asked), model.name)
    distributions = metadata.packages_distributions() if needed else {}
    packages = {}
    for name, model_name in sorted(needed.items()):
        if name not in distributions:
            found = f"{model_name} imports {name}, which is not installed here, so its version is not known"
            raise MachineError(asked, found, f"pip install the package that has {name}, in the version to serve with")
        package = distributions[name][0]
        packages[package.lower()] = metadata.version(package).partition("+")[0]
    return packages


def _imports(folder: Path, asked: str) -> set[str]:
    """The modules that the files of a version import, without those of Python, of the server, and its own."""
    files = sorted(folder.rglob("*.py"))
    own = {path.stem for path in (*files, *folder.iterdir())}
    return (
        {name for file in files for name in _imported_by(file, asked)} - own - _IN_THE_IMAGE - sys.stdlib_module_names
    )


def _imported_by(file: Path, asked: str) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ArtifactError(asked, f"{file} is no Python that this version reads: {error}", "mend the file") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _gpus(model: Model) -> int:
    """Groups on GPUs take those that they name, else every GPU that there is: one is enough."""
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    groups = [group for group in model.known.instance_group if group.kind == ModelInstanceGroup.KIND_GPU]
    return max((1 + max(group.gpus, default=0) for group in groups), default=0)


def _instances(model: Model, gpus: int = 0) -> int:
    from google.protobuf.json_format import MessageToDict

    groups = [MessageToDict(group, preserving_proto_field_name=True) for group in model.known.instance_group]
    return instances(groups, gpus)


def _threads(model: Model) -> int:
    """The cores that an ONNX model keeps busy; 0 where nothing tells."""
    parameters = model.known.parameters
    said = parameters["intra_op_thread_count"].string_value if "intra_op_thread_count" in parameters else ""
    busy = model.backend == "onnxruntime" and not _gpus(model) and said.isdecimal()
    return _instances(model) * int(said) if busy else 0


def _leaves_threads_open(model: Model) -> bool:
    return model.backend == "onnxruntime" and not _gpus(model) and not _threads(model)


def _loaded_bytes(model: Model, gpus: int) -> int:
    """Every instance loads every served version. gpus: of a replica."""
    folders = [model.folder / str(version) for version in model.served]
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    return size * _instances(model, gpus)


def _is_complete(model: Model) -> bool:
    config = model.known
    return bool((config.backend or config.platform) and config.input and config.output)
