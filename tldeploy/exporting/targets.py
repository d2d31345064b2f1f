"""What a graph is meant to run on, and whether this machine has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tldeploy.devices import lacking
from tldeploy.errors import MachineError
from tldeploy.recipe.serving import ON, Target
from tldeploy.runtime.session import PROVIDERS, Provider, open_session


@dataclass(frozen=True)
class Place:
    """Where the variants are run to be measured.

    why_not_there: why it is not where they will be served; their answers are the same here, their speed is not.
    """

    target: Target
    provider: Provider
    why_not_there: str | None = None


def place_for(target: Target, graph: Path, *, there: bool = False) -> Place:
    """The target's own provider if this machine can run `graph` on it, else the CPU; with `there`, MachineError.

    A session is opened only where no piece of the machine is missing: else onnxruntime prints errors of its own.
    """
    import onnxruntime

    provider = PROVIDERS[target]
    why_not = None
    if lack := lacking(ON[target], ["onnxruntime"]):
        why_not = lack.found
    elif provider not in onnxruntime.get_available_providers():
        why_not = f"this onnxruntime has no {provider}"
    elif target != "cpu":
        try:
            open_session(graph, provider)
        except MachineError as error:
            why_not = f"{provider} does not start here: {error.found}"
    if why_not is not None and there:
        raise MachineError(f"measure the graphs on {target}", why_not, "see `tldeploy doctor`, or give --target alone")
    return Place(target, provider) if why_not is None else Place(target, PROVIDERS["cpu"], why_not)
