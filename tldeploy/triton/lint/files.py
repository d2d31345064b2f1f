"""Rules about files: folders, versions, backends, model files and what they need of the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tldeploy.triton.lint.graph import Graph
from tldeploy.triton.lint.models import BACKENDS, PLATFORMS, Model, Target
from tldeploy.triton.lint.reading import nearest
from tldeploy.triton.lint.rules import Edit

_LIKE_A_VERSION = re.compile(r"(v|ver|version)?[-_.]?\d[\d.]*|latest", re.IGNORECASE)


def check_files(model: Model, target: Target) -> None:
    _name(model)
    _backend(model)
    _versions(model)
    _paths(model)
    if model.backend or model.is_ensemble:
        _model_files(model)
    _graphs(model, target)


def _name(model: Model) -> None:
    name = model.known.name
    if name and name != model.name:
        spot = model.layout.spot("name")
        edit = Edit(spot.value, spot.end, f'"{model.name}"', f"name is now {model.name}") if spot else None
        found = f"unexpected directory name '{model.name}' for model '{name}', directory name must equal model name"
        fix = f'name: "{model.name}"'
        values = {"config.pbtxt": name, "folder": model.name}
        model.report("name-differs", found, fix, "name", values=values, edit=edit)


def _backend(model: Model) -> None:
    config = model.known
    if config.platform and config.platform not in PLATFORMS and not config.backend:
        close = nearest(config.platform, [*PLATFORMS])
        found = f"unexpected platform type '{config.platform}'"
        fix = f'platform: "{close[0]}"' if close else f"one of {', '.join(PLATFORMS)}, or a `backend`"
        model.report("platform-unknown", found, fix, "platform")
        return
    if model.is_ensemble:
        return
    if not model.backend:
        rule = "backend-missing" if model.text is not None else "config-missing"
        if rule == "config-missing" or model.on_disk:
            nothing = "there are neither versions nor a config.pbtxt"
            found = "no model file tells the backend" if model.on_disk else nothing
            model.report(rule, found, 'name it, as in backend: "onnxruntime"')
        return
    library = f"libtriton_{model.backend}.so"
    if model.backend in BACKENDS or any(model.folder.rglob(library)):
        return
    close = nearest(model.backend, [*BACKENDS])
    rule = "backend-misspelt" if close else "backend-unknown"
    found = f"Triton ships no backend named {model.backend}"
    fix = f'backend: "{close[0]}"' if close else "see that the server has it in its backend directory"
    model.report(rule, found, fix, "backend")


def _versions(model: Model) -> None:
    for folder in sorted(model.folder.iterdir()):
        if not folder.is_dir() or not _LIKE_A_VERSION.fullmatch(folder.name):
            continue
        if not folder.name.isdecimal() or folder.name.startswith("0"):
            found = "the server ignores it: versions are whole numbers from 1, without leading zeros"
            model.report("version-name", found, "rename the folder", file=folder.name)
    if not model.on_disk:
        if model.text is None:
            return  # config-missing says it
        kept = "; git keeps no empty folder, so put a file in an ensemble's" if model.is_ensemble else ""
        model.report("version-missing", "there is no version folder", f"make {model.name}/1{kept}", file="1")
        return
    for index, version in enumerate(model.asked_versions):
        if version not in model.on_disk:
            found = f"version_policy asks for version {version}, which is not there"
            values = {"config.pbtxt": model.asked_versions, "folders": model.on_disk}
            fix = "name versions that are there"
            model.report("version-absent", found, fix, "version_policy", "specific", "versions", index, values=values)


def _paths(model: Model) -> None:
    fix = "put the file into the repository, and name it there"
    for name, base, at in _named_files(model):
        if name and model.leads_out(base / name):
            model.report("path-leaves", f"{name} leads out of the model repository", fix, *at)
    for path in (model.folder, *sorted(model.folder.rglob("*"))):
        if path.is_symlink() and model.leads_out(path):
            place = "." if path == model.folder else path.relative_to(model.folder).as_posix()
            model.report("path-leaves", f"it is a link to {path.readlink()}, out of the repository", fix, file=place)


def _named_files(model: Model) -> Iterator[tuple[str, Path, tuple[str | int, ...]]]:
    """Every file that the configuration names, the folder that the name is relative to, and the field."""
    config = model.known
    for version in model.served[-1:]:
        yield config.default_model_filename, model.folder / str(version), ("default_model_filename",)
        for name in config.cc_model_filenames.values():
            yield name, model.folder / str(version), ("cc_model_filenames",)
    for index, output in enumerate(config.output):
        yield output.label_filename, model.folder, ("output", index, "label_filename")
    for index, sample in enumerate(config.model_warmup):
        for tensor in sample.inputs.values():
            yield tensor.input_data_file, model.folder / "warmup", ("model_warmup", index)


def _model_files(model: Model) -> None:
    for version in model.served:
        file = model.model_file(version)
        if file and not file.exists() and not model.leads_out(file):
            there = sorted(path.name for path in file.parent.iterdir())
            found = f"unable to find '{version}/{file.name}' for model '{model.name}'"
            fix = f"put it there, or name another with default_model_filename (there: {', '.join(there) or 'nothing'})"
            model.report("model-file-missing", found, fix, file=f"{version}/{file.name}")


def _graphs(model: Model, target: Target) -> None:
    for version, graph in model.graphs.items():
        file = model.model_file(version)
        assert file is not None
        place = f"{version}/{file.name}"
        if not isinstance(graph, Graph):
            model.report("model-corrupt", graph, "export it again, and copy all of it", file=place)
            continue
        for name, wrong in graph.lost.items():
            fix = "copy the file with the weights beside the graph"
            model.report("external-data-missing", f"{name}: {wrong}", fix, file=place)
        asked, known = (graph.opset, graph.ir_version), (target.opset, target.ir_version)
        if asked[0] > known[0] or asked[1] > known[1]:
            found = "the graph is newer than the server's onnxruntime reads"
            values = {file.name: "opset {}, IR {}".format(*asked), "server": "opset {}, IR {}".format(*known)}
            fix = f"export with opset {target.opset} and IR version {target.ir_version}, or use a newer server"
            model.report("opset-newer", found, fix, file=place, values=values)
