"""Every rule with its severity, and what a finding is.

error: the server refuses the model, or it does not do what its configuration says. warning: it works, but slowly, or
not on the machine that `lint` was told of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]

RULES: dict[str, tuple[Severity, str]] = {
    # files.py
    "path-spaces": ("error", "Triton's Python workers hang below a path with spaces"),
    "config-missing": ("error", "no config.pbtxt, and nothing that the server could complete one from"),
    "name-differs": ("error", "`name` is not the folder's name"),
    "version-missing": ("error", "no version folder: a whole number from 1, without leading zeros"),
    "version-name": ("warning", "a folder that looks like a version, but is not named by a whole number from 1"),
    "version-absent": ("error", "version_policy names a version that is not there"),
    "backend-missing": ("error", "neither backend nor platform is named, and no model file says which"),
    "backend-misspelt": ("error", "nearly the name of a known backend"),
    "backend-unknown": ("warning", "a backend that Triton does not ship"),
    "platform-unknown": ("error", "a platform that Triton does not know"),
    "path-leaves": ("error", "a name or a link that leads out of the model repository"),
    "model-file-missing": ("error", "the version folder lacks the model file"),
    "model-corrupt": ("error", "the model file is empty, or no ONNX model"),
    "external-data-missing": ("error", "weights in another file, which is missing or too short"),
    "opset-newer": ("error", "opset or IR version newer than the server's onnxruntime reads"),
    # reading.py
    "config-text": ("error", "config.pbtxt is no protobuf text"),
    "braces": ("error", "braces or brackets that do not close"),
    "unknown-field": ("error", "a field that Triton's configuration has not; the server refuses the whole file"),
    "unknown-value": ("error", "a value that the field's type has not"),
    "field-twice": ("error", "a field given twice"),
    "two-schedulers": ("error", "more than one of dynamic_batching, sequence_batching and ensemble_scheduling"),
    # tensors.py
    "tensor-declaration": ("error", "an input or output without name, data_type or dims, or with a dim of 0"),
    "tensor-twice": ("error", "two inputs, or two outputs, of one name"),
    "tensor-unexpected": ("error", "a tensor that the graph has not"),
    "tensor-missing": ("error", "an input of the graph that the configuration lacks"),
    "datatype": ("error", "the configuration's datatype is not the graph's"),
    "datatype-unsupported": ("error", "a type of the graph that Triton cannot carry"),
    "batch-axis": ("error", "max_batch_size > 0, but the graph's first dim is not open"),
    "dims": ("error", "the configuration's dims are not the graph's"),
    "label-file-missing": ("error", "label_filename names a file that is not there"),
    "label-count": ("error", "not as many labels as the output has values"),
    # running.py
    "batching-off": ("error", "dynamic_batching does nothing without max_batch_size"),
    "max-batch-negative": ("error", "max_batch_size is below 0"),
    "preferred-batch-size": ("error", "preferred_batch_size above max_batch_size, or below 1"),
    "instance-count": ("error", "an instance group of no instances"),
    "gpu-absent": ("warning", "KIND_GPU, and no GPU here"),
    "gpu-number": ("error", "gpus names one that the server has not"),
    "threads-oversubscribed": ("warning", "the instances' threads together are more than the cores"),
    "graph-level": ("warning", "optimization.graph.level: 2 turns every optimization off; only -1 and 1 mean others"),
    "warmup-input": ("error", "a warm-up sample that is no valid request"),
    "warmup-random-ids": ("warning", "random_data for integers reads past a vocabulary, which crashes the worker"),
    # ensembles.py
    "ensemble-steps": ("error", "an ensemble without steps, or steps in what is no ensemble"),
    "ensemble-instances": ("error", "instance_group in an ensemble"),
    "ensemble-cycle": ("error", "an ensemble that contains itself"),
    "ensemble-model-missing": ("error", "a step's model is not in the repository"),
    "ensemble-version-absent": ("error", "a step pins a version that its model does not serve"),
    "ensemble-batch": ("error", "the ensemble allows larger batches than a step"),
    "ensemble-map": ("error", "a step's map names a tensor that its model has not"),
    "ensemble-input-unmapped": ("error", "an input of a step's model that is not mapped"),
    "ensemble-tensor-unmade": ("error", "a tensor that no step makes"),
    "ensemble-tensor-unused": ("error", "an input of the ensemble that no step takes"),
    "ensemble-datatype": ("error", "the two ends of an ensemble tensor have other datatypes"),
    "ensemble-dims": ("error", "the two ends of an ensemble tensor have other dims"),
}


@dataclass(frozen=True)
class Edit:
    """A mend of a configuration's text: characters from `start` to `end` become `text`. did: in the past tense."""

    start: int
    end: int
    text: str
    did: str


@dataclass(frozen=True)
class Finding:
    """One broken rule. file: relative to the repository. line: from 1, where known.

    values: the values that disagree, by where they stand. edit: the fix, where it is safe.
    """

    rule: str
    model: str
    file: str
    line: int | None
    found: str
    fix: str
    values: Mapping[str, str] = field(default_factory=dict)
    edit: Edit | None = None

    @property
    def severity(self) -> Severity:
        return RULES[self.rule][0]

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def as_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "severity": self.severity,
            "model": self.model,
            "file": self.file,
            "line": self.line,
            "found": self.found,
            "values": dict(self.values),
            "fix": self.fix,
            "fixable": self.edit is not None,
        }
