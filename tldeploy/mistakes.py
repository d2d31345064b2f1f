"""YAML text to a validated model, with every mistake in the text named at once.

1. The YAML is read with the line of every value kept; repeated keys, which YAML lets pass, are mistakes.
2. The values are validated; every mistake is collected, not only the first.
3. One RecipeError names them: line, setting, value found, what was expected, nearest right spelling.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tldeploy.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)
Mistake = tuple[int, str]


def validated(model: type[Model], text: str, asked: str) -> Model:
    """The model that the text declares. asked: what to say cannot be done, in the RecipeError for any mistake."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader) if node else None
        mistakes = [(line, f"{key}: given twice, expected once") for key, line in _repeated_keys(node)]
    except RecursionError:
        raise RecipeError(asked, "a part of it holds itself", "take the YAML alias (*) out") from None
    except yaml.YAMLError as error:
        raise RecipeError(asked, f"it is not YAML: {error}", "mend the place named above") from error
    if not isinstance(values, dict):
        raise RecipeError(asked, "it holds no settings", "write one with `tldeploy init`")
    try:
        declared = model.model_validate(values)
    except ValidationError as error:
        mistakes += [_mistake(model, detail, node) for detail in error.errors()]
    if mistakes:
        lines = "\n".join(f"  line {line}: {mistake}" for line, mistake in sorted(mistakes))
        found = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}\n{lines}"
        raise RecipeError(asked, found, "mend each line named above; README.md lists every setting")
    return declared


class _Loader(yaml.SafeLoader):
    """SafeLoader in which only true and false are booleans: class names such as `no` and `off` stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "yes or no",
    "bool_type": "yes or no",
    "float_parsing": "a number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "settings, as `name: value` lines",
    "model_type": "settings, as `name: value` lines",
    "model_attributes_type": "settings, as `name: value` lines",
}


def _mistake(model: type[BaseModel], detail: ErrorDetails, root: yaml.Node | None) -> Mistake:
    """The line of one pydantic error, and what it says of the setting there."""
    place, kind, found = detail["loc"], detail["type"], detail["input"]
    line = _line_of(root, place)
    setting = ".".join(str(part) for part in place) or "the recipe"
    if kind == "extra_forbidden":
        return (
            line,
            f"{setting}: unknown setting, found {found!r}{_nearest(str(place[-1]), _fields(model, place[:-1]))}",
        )
    if kind == "missing":
        return line, f"{setting}: missing, expected a value"
    if kind == "value_error":
        return line, f"{setting}: {detail['ctx']['error']}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return line, f"{setting}: found {found!r}, expected one of {', '.join(allowed)}{_nearest(str(found), allowed)}"
    if kind == "too_short":
        return line, f"{setting}: found {found!r}, expected at least {detail['ctx']['min_length']} of them"
    expected = _EXPECTED.get(kind) or detail["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return line, f"{setting}: found {found!r}, expected {expected}"


def _nearest(found: str, allowed: list[str]) -> str:
    if "cuda" in allowed and re.match("gpu|nvidia|cuda", found, re.IGNORECASE):
        return "; did you mean `cuda`?"
    close = difflib.get_close_matches(found, allowed, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def _fields(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The settings that the section at `place` of `model` knows."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            found = _section_in(model.model_fields[part].annotation)
            if found is None:
                return []
            model = found
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _line_of(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """The line (from 1) of the deepest part of `place` that the file has."""
    line = node.start_mark.line + 1 if node else 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            match = next(((key, value) for key, value in node.value if key.value == part), None)
            if match is None:
                return line
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _repeated_keys(node: yaml.Node | None, place: str = "") -> list[tuple[str, int]]:
    """YAML lets a later key silently win; here both are named."""
    if isinstance(node, yaml.SequenceNode):
        return [found for part in node.value for found in _repeated_keys(part, place)]
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    repeated = []
    for key, value in node.value:
        setting = f"{place}.{key.value}" if place else str(key.value)
        if key.value in seen:
            repeated.append((setting, key.start_mark.line + 1))
        seen.add(key.value)
        repeated += _repeated_keys(value, setting)
    return repeated
