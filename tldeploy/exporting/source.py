"""What every variant is made from, and what is known of the machine and the network it is made for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from tldeploy import environment
from tldeploy.backbones.network import Network
from tldeploy.data.rows import Rows
from tldeploy.recipe import Export
from tldeploy.tasks.classification import Classification

VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}


@dataclass(frozen=True)
class Source:
    """graph: the fp32 graph. calibration: rows that were learnt from. validation: rows that choices are made by."""

    graph: Path
    network: Network
    task: Classification
    calibration: Rows
    validation: Rows
    settings: Export

    @cached_property
    def operators(self) -> Counter[str]:
        """How often each operator occurs."""
        return Counter(node.op_type for node in onnx.load(self.graph, load_external_data=False).graph.node)

    @property
    def attentions(self) -> int:
        """How many softmaxes there are before the one that makes the probabilities; each is an attention's."""
        return self.operators["Softmax"] - 1

    @property
    def is_convolutional(self) -> bool:
        return self.operators["Conv"] > self.operators["MatMul"]

    @property
    def has_vnni(self) -> bool:
        """Whether this CPU adds products of int8 without saturating: one that does not may need weights of 7 bits."""
        return not VNNI.isdisjoint(environment.describe()["instructions"])
