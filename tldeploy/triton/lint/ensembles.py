"""Rules about ensembles: what the steps are, and whether the maps between them close.

They are those of Triton's core, which refuses the same ensembles when it loads them. Two dims agree when they are equal
or one is -1; with a batch axis on one side only, the complete shapes may agree instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tldeploy.triton.lint.models import Model, Port, words
from tldeploy.triton.lint.reading import nearest


@dataclass(frozen=True)
class _End:
    """One end of an ensemble tensor: the model that says what it is."""

    model: str
    port: Port
    batches: bool

    @property
    def complete(self) -> tuple[int, ...] | None:
        return (-1, *self.port.dims) if self.batches and self.port.dims is not None else self.port.dims


def check_ensemble(model: Model, models: Mapping[str, Model]) -> None:
    config = model.known
    steps = config.ensemble_scheduling.step
    if not steps or (config.platform not in {"", "ensemble"}) or config.backend:
        served_by = config.backend or config.platform
        found = f"it has steps, and is served by {served_by}" if steps else "it has no steps"
        fix = 'platform: "ensemble", no backend, and ensemble_scheduling with its steps'
        model.report("ensemble-steps", found, fix, "ensemble_scheduling", "step")
        return
    if config.instance_group:
        found = f"instance group should not be specified for ensemble '{model.name}'"
        model.report("ensemble-instances", found, "take it out; the steps have theirs", "instance_group")
    if _contains_itself(model.name, models, ()):
        found = "its steps lead back to itself"
        model.report("ensemble-cycle", found, "take the step out", "ensemble_scheduling", "step")
        return
    ends: dict[str, list[_End]] = {}
    for ports in (model.inputs, model.outputs):
        for port in ports:
            ends.setdefault(port.name, []).append(_End(model.name, port, model.batches))
    sound = [_step(model, index, models, ends) for index in range(len(steps))]
    for name, met in ends.items():
        _ends_agree(model, name, met)
    if all(sound):
        _flow(model)


def _contains_itself(name: str, models: Mapping[str, Model], above: tuple[str, ...]) -> bool:
    if name in above:
        return name == above[0]
    found = models.get(name)
    if found is None or found.config is None:
        return False
    steps = found.known.ensemble_scheduling.step
    return any(_contains_itself(step.model_name, models, (*above, name)) for step in steps)


def _step(model: Model, index: int, models: Mapping[str, Model], ends: dict[str, list[_End]]) -> bool:
    """Check one step by itself and note the ends of its tensors; whether its maps can be followed."""
    step, at = model.known.ensemble_scheduling.step[index], ("ensemble_scheduling", "step", index)
    inner = models.get(step.model_name)
    if step.model_namespace:
        return False  # of another repository, which is not known here
    if inner is None:
        taken_by = {model.name, *(each.model_name for each in model.known.ensemble_scheduling.step)}
        close = nearest(step.model_name, [name for name in models if name not in taken_by])
        found = f"step {index} is the model {step.model_name}, of which there is no folder in the repository"
        fix = f'model_name: "{close[0]}"' if close else "add the model, or take the step out"
        model.report("ensemble-model-missing", found, fix, *at, "model_name")
        return False
    if inner.config is None:
        return False  # its own findings say why
    pinned = step.model_version
    if pinned > 0 and pinned not in inner.served:
        found = f"step {index} pins version {pinned} of {inner.name}, which does not serve it"
        values = {"config.pbtxt": pinned, inner.name: inner.served}
        model.report("ensemble-version-absent", found, "pin one that is served", *at, "model_version", values=values)
    if inner.batches and inner.known.max_batch_size < model.known.max_batch_size:
        sizes = model.known.max_batch_size, inner.known.max_batch_size
        found = (
            f"ensemble {model.name} allows maximum batch size {sizes[0]}, but it contains model {inner.name} which "
            f"only allows maximum batch size to be {sizes[1]}"
        )
        values = {model.name: sizes[0], inner.name: sizes[1]}
        model.report("ensemble-batch", found, f"max_batch_size: {sizes[1]}", "max_batch_size", values=values)
    taken = _map(model, at, "input_map", step.input_map, inner, inner.inputs, ends)
    made = _map(model, at, "output_map", step.output_map, inner, inner.outputs, ends)
    for port in inner.inputs:
        if port.name not in step.input_map and not port.optional and taken:
            found = f"input {port.name} in model {inner.name} is not mapped to any ensemble tensors"
            fix = f'input_map {{ key: "{port.name}" value: "…" }}'
            model.report("ensemble-input-unmapped", found, fix, *at)
    return taken and made


def _map(
    model: Model,
    at: tuple[str, str, int],
    field: str,
    mapped: Mapping[str, str],
    inner: Model,
    ports: Sequence[Port],
    ends: dict[str, list[_End]],
) -> bool:
    """Note the ends that a map joins; False if it names what the model has not. A model without ports says nothing."""
    known, sound = {port.name: port for port in ports}, True
    for index, (name, tensor) in enumerate(sorted(mapped.items())):
        if name in known:
            ends.setdefault(tensor, []).append(_End(inner.name, known[name], inner.batches))
        elif known:
            sound, kind = False, field.removesuffix("_map")
            close = nearest(name, [*known])
            found = f"ensemble tensor {tensor} is mapped to non-existing {kind} {name} of model {inner.name}"
            fix = f'key: "{close[0]}"' if close else f"one of {', '.join(sorted(known))}"
            values = {"config.pbtxt": name, inner.name: ", ".join(sorted(known))}
            model.report("ensemble-map", found, fix, *at, field, index, values=values)
    return sound


def _ends_agree(model: Model, name: str, met: Sequence[_End]) -> None:
    at = ("ensemble_scheduling",)
    first = met[0]
    for other in met[1:]:
        if first.port.datatype != other.port.datatype:
            values = {first.model: first.port.datatype, other.model: other.port.datatype}
            found = f"ensemble tensor {name}: inconsistent data type"
            model.report("ensemble-datatype", found, "give both ends one type", *at, values=values)
        elif not _fit(first.port.dims, other.port.dims) and not _fit(first.complete, other.complete):
            values = {first.model: words(first.complete), other.model: words(other.complete)}
            found = f"ensemble tensor {name}: inconsistent shape"
            model.report("ensemble-dims", found, "give both ends the same dims", *at, values=values)


def _fit(ours: tuple[int, ...] | None, theirs: tuple[int, ...] | None) -> bool:
    if ours is None or theirs is None:
        return True
    return len(ours) == len(theirs) and all(a == b or -1 in {a, b} for a, b in zip(ours, theirs, strict=True))


def _flow(model: Model) -> None:
    """Every tensor that is taken is made by somebody, and every input is taken."""
    steps = model.known.ensemble_scheduling.step
    made = {tensor.name for tensor in model.known.input}
    made |= {tensor for step in steps for tensor in step.output_map.values()}
    taken = {tensor for step in steps for tensor in step.input_map.values()}
    for index, step in enumerate(steps):
        for name, tensor in sorted(step.input_map.items()):
            if tensor not in made:
                found = f"input {name} of step {step.model_name} takes '{tensor}', which nobody makes"
                model.report("ensemble-tensor-unmade", found, _made(made), "ensemble_scheduling", "step", index)
    for index, output in enumerate(model.known.output):
        if output.name not in made:
            found = f"output '{output.name}' of the ensemble is made by no step"
            model.report("ensemble-tensor-unmade", found, _made(made), "output", index, "name")
    for index, given in enumerate(model.known.input):
        if given.name not in taken:
            found = f"ensemble tensor '{given.name}' is unused in ensemble '{model.name}'"
            model.report("ensemble-tensor-unused", found, "map it, or take it out", "input", index, "name")


def _made(made: set[str]) -> str:
    return f"take one of {', '.join(sorted(made))}, or add an output_map that makes it"
