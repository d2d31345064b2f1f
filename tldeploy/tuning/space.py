"""The space of a search: which settings of `tune` change, among which values, as Optuna knows them.

Every value is checked by `Tune` itself, and all that it refuses are named at once, before anything is trained.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from tldeploy.errors import RecipeError
from tldeploy.recipe import Range, Search, Tune

ASKED = "search the space of tune.search"


@dataclass(frozen=True)
class Space:
    """distributions: by setting. Optuna keeps plain values only: others stand in `coded`, by the text that it keeps."""

    base: Tune
    distributions: dict[str, BaseDistribution]
    coded: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, base: Tune, search: Search) -> Space:
        """Raises RecipeError that names every value that its setting cannot have."""
        distributions: dict[str, BaseDistribution] = {}
        coded: dict[str, dict[str, Any]] = {}
        mistakes: list[str] = []
        for name, values in search.space.items():
            try:
                if isinstance(values, Range):
                    distributions[name] = _range(base, name, values)
                else:
                    choices, coded[name] = _choices(base, name, values)
                    distributions[name] = CategoricalDistribution(choices)
            except ValueError as error:
                mistakes += [f"  tune.search.space.{name}: {line}" for line in str(error).splitlines()]
        if mistakes:
            count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
            raise RecipeError(ASKED, f"{count}\n" + "\n".join(mistakes), "mend the values named above")
        return cls(base, distributions, coded)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a trial's parameters stand for."""
        return {name: self.coded.get(name, {}).get(value, value) for name, value in params.items()}

    def settings(self, params: Mapping[str, Any]) -> Tune:
        """`tune` of a trial."""
        return _changed(self.base, self.values(params))

    def grid(self) -> list[dict[str, Any]]:
        """Every point of a space of values and of ranges with steps, as parameters of trials."""
        axes = [_points(distribution) for distribution in self.distributions.values()]
        return [dict(zip(self.distributions, point, strict=True)) for point in itertools.product(*axes)]


def _changed(base: Tune, values: Mapping[str, Any]) -> Tune:
    return Tune.model_validate({**base.model_dump(), **values})


def _checked(base: Tune, name: str, value: Any) -> Any:
    """The value as the setting takes it. Raises ValueError with the words of what is wrong."""
    try:
        return getattr(_changed(base, {name: value}), name)
    except ValidationError as error:
        wrong = error.errors()[0]["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise ValueError(f"found {value!r}, expected {wrong}") from None


def _choices(base: Tune, name: str, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The choices as Optuna keeps them, and what those that are no plain values stand for."""
    checked, mistakes = [], []
    for value in values:
        try:
            checked.append(_checked(base, name, value))
        except ValueError as error:
            mistakes.append(str(error))
    if any(value in checked[:at] for at, value in enumerate(checked)):
        mistakes.append(f"found {values!r}, expected each value once")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    coded = {json.dumps(value): value for value in checked if isinstance(value, list | dict)}
    return [json.dumps(value) if isinstance(value, list | dict) else value for value in checked], coded


def _range(base: Tune, name: str, values: Range) -> BaseDistribution:
    low, high = _checked(base, name, values.low), _checked(base, name, values.high)
    if type(low) is int:
        step = values.step or 1
        if step != int(step):
            raise ValueError(f"found the step {values.step!r}, expected a whole number, as {name} is one")
        high = low + (high - low) // int(step) * int(step)
        return IntDistribution(low, high, log=values.log, step=int(step))
    if type(low) is not float:
        raise ValueError("found a range, expected a list of values: the setting is no number")
    if values.step:  # in decimals: 0.1 + 0.2 is to be 0.3
        start, step_by = Decimal(str(low)), Decimal(str(values.step))
        high = float(start + (Decimal(str(high)) - start) // step_by * step_by)
    return FloatDistribution(low, high, log=values.log, step=values.step)


def _points(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    kind = int if isinstance(distribution, IntDistribution) else float
    low, high, step = (Decimal(str(getattr(distribution, name))) for name in ("low", "high", "step"))
    return [kind(low + at * step) for at in range(int((high - low) / step) + 1)]
