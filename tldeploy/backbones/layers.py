"""The layer map: every parameter of a backbone in one group, the groups in order from input to output.

One map serves all that treats layers differently: freezing, gradual unfreezing, layer-wise learning rates, and what
the quantizer leaves out. A group is "embeddings" ("stem" where convolutions read pixels), "layer 0" to "layer n", or
"final": what comes after the last layer, such as norms and poolers.

1. FAMILIES says for each known architecture which parameters belong where.
2. An architecture that is not there gets a map from its structure: its longest list of numbered blocks.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

from tldeploy.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

EMBEDDINGS, STEM, FINAL = "embeddings", "stem", "final"
# Which layer: the numbers in the pattern say it, outermost first.
LAYER = "layer"
# The numbers count halves: 0 and 1 are the first layer.
HALF = "half of a layer"
# The numbers name a stage, or none the whole network: part of its first layer, part of its last.
OPENS, CLOSES = "part of the first layer", "part of the last layer"

Key = tuple[int, ...]


@dataclass(frozen=True)
class LayerGroup:
    """The names of the parameters of one group, in the model's order."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class LayerMap:
    """The groups of one backbone, from input to output.

    family: the model_type of its config. is_derived: the map comes from the structure, not from FAMILIES.
    """

    family: str
    groups: tuple[LayerGroup, ...]
    is_derived: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)

    def group_of(self, parameter: str) -> str:
        """The name of the group that `parameter` lies in. Raises KeyError for a name that the model does not have."""
        return self._group_of[parameter]

    def matching(self, pattern: str) -> list[str]:
        """The parameters that `pattern` means: a group's name, or a glob over those, or a glob over parameters.

        `layer 1` is one group, `layer *` all layers, `*LayerNorm*` parameters wherever they lie. Raises RecipeError
        when nothing matches.
        """
        groups = [group for group in self.groups if group.name == pattern]
        groups = groups or [group for group in self.groups if fnmatchcase(group.name, pattern)]
        if groups:
            return [name for group in groups for name in group.parameters]
        if names := [name for name in self._group_of if fnmatchcase(name, pattern)]:
            return names
        close = difflib.get_close_matches(pattern, [*self.names, *self._group_of], n=1, cutoff=0.5)
        found = f"no group or parameter of this {self.family} matches; its groups are {', '.join(self.names)}"
        fix = f"did you mean `{close[0]}`?" if close else "name a group, or use * as in `layer *` or `*bias`"
        raise RecipeError(f"take the layers `{pattern}`", found, fix)

    @cached_property
    def _group_of(self) -> dict[str, str]:
        return {name: group.name for group in self.groups for name in group.parameters}


# Patterns are matched from the start of a parameter's name; the first that matches counts.
_BERT = {r"embeddings": EMBEDDINGS, r"encoder\.layer\.(\d+)\.": LAYER, r"pooler\.": FINAL}
_CONVNEXT = {
    r"embeddings\.": STEM,
    r"encoder\.stages\.(\d+)\.downsampling_layer\.": OPENS,
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.": LAYER,
    r"layernorm\.": FINAL,
}
_EFFICIENTNET = {r"embeddings\.": STEM, r"encoder\.blocks\.(\d+)\.": LAYER, r"encoder\.top_": FINAL}
_RESNET = {r"embedder\.": STEM, r"encoder\.stages\.(\d+)\.layers\.(\d+)\.": LAYER}

FAMILIES: dict[str, dict[str, str]] = {
    "albert": {
        r"embeddings\.|encoder\.embedding_hidden_mapping_in\.": EMBEDDINGS,
        r"encoder\.albert_layer_groups\.(\d+)\.": LAYER,  # one group of weights serves many layers
        r"pooler\.": FINAL,
    },
    "bert": _BERT,
    "camembert": _BERT,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "deberta": {r"encoder\.rel_embeddings\.": EMBEDDINGS, **_BERT},
    "deberta-v2": {
        r"encoder\.(?:rel_embeddings|LayerNorm)\.": EMBEDDINGS,  # the norm is of the relative embeddings
        r"encoder\.conv\.": OPENS,  # it runs beside layer 0
        **_BERT,
    },
    "dinov2": {**_BERT, r"layernorm\.": FINAL},
    "distilbert": {r"embeddings\.": EMBEDDINGS, r"transformer\.layer\.(\d+)\.": LAYER},
    "efficientnet": _EFFICIENTNET,
    "efficientnet-lite": _EFFICIENTNET,
    "electra": _BERT,
    "mobilenet_v1": {r"conv_stem\.": STEM, r"layer\.(\d+)\.": HALF},  # depthwise, then pointwise
    "mobilenet_v2": {r"conv_stem\.": STEM, r"layer\.(\d+)\.": LAYER, r"conv_1x1\.": FINAL},
    "modernbert": {r"embeddings\.": EMBEDDINGS, r"layers\.(\d+)\.": LAYER, r"final_norm\.": FINAL},
    "mpnet": {r"encoder\.relative_attention_bias\.": EMBEDDINGS, **_BERT},
    "regnet": _RESNET,
    "resnet": _RESNET,
    "resnet-caffe": _RESNET,
    "roberta": _BERT,
    "swin": {
        r"embeddings\.": EMBEDDINGS,
        r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.": LAYER,
        r"encoder\.layers\.(\d+)\.downsample\.": CLOSES,
        r"layernorm\.": FINAL,
    },
    "vgg": {r"features\.(\d+)\.": LAYER, r"classifier\.": FINAL},
    "vit": {r"embeddings\.": EMBEDDINGS, r"layers\.(\d+)\.": LAYER, r"(?:layernorm|pooler)\.": FINAL},
    "xlm-roberta": _BERT,
}


def layer_map(model: PreTrainedModel) -> LayerMap:
    """Group all parameters of a backbone, as AutoModel gives it.

    Raises ArtifactError for an architecture that is not in FAMILIES and has no numbered blocks either.
    """
    family = str(model.config.model_type)
    parameters = dict(model.named_parameters())
    groups = _by_table(FAMILIES[family], parameters) if family in FAMILIES else None
    if groups is not None:
        return LayerMap(family, groups, is_derived=False)
    return LayerMap(family, _by_structure(family, list(parameters)), is_derived=True)


def _by_table(table: dict[str, str], parameters: Mapping[str, Tensor]) -> tuple[LayerGroup, ...] | None:
    """The groups by a family's patterns; None when a parameter fits none (another version of the architecture)."""
    places: dict[str, tuple[str, Key]] = {}
    for name in parameters:
        found = next(((place, match) for pattern, place in table.items() if (match := re.match(pattern, name))), None)
        if found is None:
            return None
        place, match = found
        numbers = tuple(int(number) for number in match.groups())
        places[name] = (LAYER, (numbers[0] // 2,)) if place == HALF else (place, numbers)
    layers = _with_a_matrix({name: key for name, (place, key) in places.items() if place == LAYER}, parameters)
    keys = sorted(set(layers.values()))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, (place, stage) in places.items():
        if place in {EMBEDDINGS, STEM, FINAL}:
            groups[place].append(name)
            continue
        in_stage = [key for key in keys if key[: len(stage)] == stage]
        key = layers[name] if place == LAYER else in_stage[0] if place == OPENS else in_stage[-1]
        groups[f"layer {keys.index(key)}"].append(name)
    return _in_order(groups, len(keys))


def _with_a_matrix(layers: dict[str, Key], parameters: Mapping[str, Tensor]) -> dict[str, Key]:
    """A number that has vectors only is the norm of the convolution before it, as in VGG: one layer with it."""
    whole = sorted({key for name, key in layers.items() if parameters[name].ndim > 1})
    return {name: max((key for key in whole if key <= own), default=own) for name, own in layers.items()}


def _by_structure(family: str, names: Sequence[str]) -> tuple[LayerGroup, ...]:
    """The longest list of numbered blocks gives the layers; what the model holds before and after it, the rest."""
    members: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        for prefix, number in _numbers(name):
            members[prefix].add(number)
    block_of = {
        name: next((place for place in _numbers(name) if len(members[place[0]]) > 1), ("", -1)) for name in names
    }
    lists = dict.fromkeys(prefix for prefix, _ in block_of.values() if prefix in members)
    if not lists:
        found = f"the architecture {family} is not in the table, and nothing in it repeats by number"
        raise ArtifactError("map the layers of the backbone", found, "use an architecture built of numbered blocks")
    longest = max(lists, key=lambda prefix: len(members[prefix]))
    numbers = sorted(members[longest])
    positions = [position for position, name in enumerate(names) if block_of[name][0] == longest]
    groups: defaultdict[str, list[str]] = defaultdict(list)
    layer = 0
    before = names[: positions[0]]
    entry = EMBEDDINGS if any("embed" in name for name in before) else STEM
    for position, name in enumerate(names):
        prefix, number = block_of[name]
        if prefix == longest:
            layer = numbers.index(number)
        outside = entry if position < positions[0] else FINAL if position > positions[-1] else None
        groups[outside or f"layer {layer}"].append(name)
    return _in_order(groups, len(numbers))


def _numbers(name: str) -> Iterable[tuple[str, int]]:
    """Each number that ends a part of the name, with what stands before it, outermost first."""
    return ((name[: match.start()], int(match[0])) for match in re.finditer(r"\d+(?=\.)", name))


def _in_order(groups: Mapping[str, list[str]], layers: int) -> tuple[LayerGroup, ...]:
    names = (EMBEDDINGS, STEM, *(f"layer {number}" for number in range(layers)), FINAL)
    return tuple(LayerGroup(name, tuple(groups[name])) for name in names if name in groups)
