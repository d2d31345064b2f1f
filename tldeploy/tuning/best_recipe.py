"""The best trial of a search as a recipe of its own, `search/best/recipe.yaml`: tuning it gives the trial's figure.

It is the searched recipe with the values found in place, one method, and paths that are right from its own folder.
What it fetches lies fetched beside the searched recipe. A file that a person has changed is left alone.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tldeploy.artifacts import fingerprint, write_file
from tldeploy.errors import storage_errors
from tldeploy.progress import say
from tldeploy.recipe import RECIPE_FILE, Range, Recipe, Search

SEAL = "# sha256 of the lines below, by which a search knows its own file: "
UNUSED = ("search", "few_shot", "distillation")  # by the one method of the recipe


def write_best(recipe: Recipe, found: Mapping[str, Any], about: str, folder: Path) -> Path:
    """Write it below `folder` and return its path. about: what the search found, in words."""
    place = _free(folder)
    with storage_errors(folder):
        place.parent.mkdir(parents=True, exist_ok=True)
    text = _text(recipe, found, about, place.parent)
    Recipe.parse(text, place)
    write_file(place, f"{SEAL}{fingerprint(text)}\n{text}")
    return place


def _free(folder: Path) -> Path:
    """best/recipe.yaml, or in best-2/ and so on where somebody has changed the one before."""
    place, number = folder / "best" / RECIPE_FILE, 1
    while os.path.lexists(place) and not _is_own(place):
        number += 1
        other = folder / f"best-{number}" / RECIPE_FILE
        say(f"search: {place} has been changed by hand and is left as it is; see {other}")
        place = other
    return place


def _is_own(place: Path) -> bool:
    try:
        seal, _, text = place.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return seal == f"{SEAL}{fingerprint(text)}"


def _text(recipe: Recipe, found: Mapping[str, Any], about: str, folder: Path) -> str:
    search = recipe.tune.search
    assert search is not None
    values = _values(recipe, search, found, folder)
    title = f"Found by `tldeploy search {recipe.folder}`: {about}"
    lines = textwrap.wrap(title, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    for section, settings in values.items():
        if settings == {}:
            continue
        if not isinstance(settings, dict):
            lines.append(_yaml({section: settings}))
            continue
        lines += ["", f"{section}:"]
        for name, value in settings.items():
            line = textwrap.indent(_yaml({name: value}), "  ")
            tried = f"  # found among {_words(search, name)}" if section == "tune" and name in found else ""
            lines.append(line + tried)
    return "\n".join(lines) + "\n"


def _values(recipe: Recipe, search: Search, found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Every setting that the recipe gives, section by section."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True, exclude={"fetch"})
    values["name"] = f"{recipe.name}-best"
    tune = {name: value for name, value in values.pop("tune", {}).items() if name not in {*found, *UNUSED}}
    tune |= {"methods": [search.method], "keep": search.method, **found}
    values = {**{name: values[name] for name in ("name", "task", "data", "backbone")}, "tune": tune, **values}
    values["deploy"] = {**values.get("deploy", {}), "repository": recipe.deploy.repository}
    for section, name, is_path in _paths(recipe):
        if is_path:
            values[section][name] = _from(folder, recipe, values[section][name])
    return values


def _paths(recipe: Recipe) -> list[tuple[str, str, bool]]:
    """The settings that may hold a path, and whether they do."""
    data, adapt = recipe.data, recipe.adapt
    found = [
        ("data", "file", True),
        ("data", "test", isinstance(data.test, str)),
        ("data", "validation", isinstance(data.validation, str)),
        ("backbone", "source", recipe.path(recipe.backbone.source).exists()),
        ("deploy", "repository", True),
    ]
    if adapt is not None:
        found += [("adapt", "file", True), ("adapt", "test", isinstance(adapt.test, str))]
    return found


def _from(folder: Path, recipe: Recipe, path: str) -> str:
    """The recipe's path as it is from `folder`."""
    if Path(path).is_absolute():
        return path
    return Path(os.path.relpath(recipe.path(path).resolve(), folder.resolve())).as_posix()


def _yaml(setting: Mapping[str, Any]) -> str:
    """One setting; a list or mapping in one line."""
    ((name, value),) = setting.items()
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return f"{name}: {text.removesuffix(chr(10)).removesuffix('...').rstrip()}"


def _words(search: Search, name: str) -> str:
    values = search.space[name]
    if isinstance(values, Range):
        return f"{values.low:g} … {values.high:g}"
    return ", ".join(str(value) for value in values)
