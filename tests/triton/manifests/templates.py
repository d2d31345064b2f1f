"""Renders the chart's templates as Helm would, as far as they go: values, `if`, `if not`, toYaml, quote and required.

`python -m pip install helm-python-sdk` (75 MB) brings Helm itself; where it is, the tests hold both against each other.
"""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

_TAG = re.compile(r"\{\{-? *(.*?) *\}\}")
_BLOCK = re.compile(r"\{\{- (if not|if) \.(\S+) \}\}|\{\{- (end) \}\}")


def render(chart: Path, values: dict[str, Any] | None = None, release: str = "demo") -> dict[str, Any]:
    """File name to the object that it describes; what a value turns off is left out.

    values: instead of those of values.yaml, by their whole path: {"autoscaling.enabled": False}.
    """
    scope = {
        "Values": yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8")),
        "Chart": {"Name": yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))["name"]},
        "Release": {"Name": release, "Service": "Helm", "Namespace": "default"},
    }
    for path, value in (values or {}).items():
        *above, last = path.split(".")
        _found(scope, ".".join(["Values", *above]))[last] = value
    texts = {path.name: _rendered(path.read_text(encoding="utf-8"), scope) for path in chart.glob("templates/*.yaml")}
    return {name: yaml.safe_load(text) for name, text in texts.items() if text.strip()}


def _rendered(text: str, scope: dict[str, Any]) -> str:
    shown, lines = [True], []
    for line in text.splitlines():
        block = _BLOCK.fullmatch(line.strip())
        if block is None:
            if all(shown):
                lines.append(_TAG.sub(lambda tag: _value(tag[1], scope), line))
        elif block[3]:
            shown.pop()
        else:
            shown.append(bool(_found(scope, block[2])) != (block[1] == "if not"))
    assert shown == [True]
    return "\n".join(lines)


def _value(expression: str, scope: dict[str, Any]) -> str:
    if match := re.fullmatch(r"toYaml \.(\S+) \| nindent (\d+)", expression):
        text = yaml.safe_dump(_found(scope, match[1]), sort_keys=True).rstrip()
        return "".join(f"\n{' ' * int(match[2])}{line}" for line in text.splitlines())
    if match := re.fullmatch(r'required "(.*)" \.(\S+)', expression):
        assert _found(scope, match[2]), match[1]
        return str(_found(scope, match[2]))
    match = re.fullmatch(r"(quote )?\.(\S+)", expression)
    assert match, expression
    value = _found(scope, match[2])
    return f'"{value}"' if match[1] else str(value)


def _found(scope: dict[str, Any], path: str) -> Any:
    return reduce(lambda place, key: place[key], path.split("."), scope)
