from __future__ import annotations

import pytest
from torch import nn
from transformers import AutoConfig, AutoModel

from tests.backbones.families import IMAGES, TEXT, inputs, make
from tldeploy.backbones.layers import FAMILIES, layer_map
from tldeploy.errors import ArtifactError, RecipeError

DEPTH = {family: depth for family, (_, depth) in {**TEXT, **IMAGES}.items()}


def test_every_family_of_the_table_is_tested() -> None:
    assert set(DEPTH) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(DEPTH))
def test_each_parameter_lies_in_one_group_and_the_depth_is_the_configs(family: str) -> None:
    model = make(family)
    layers = layer_map(model)
    grouped = [name for group in layers.groups for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert [name for name in layers.names if name.startswith("layer ")] == [f"layer {n}" for n in range(DEPTH[family])]
    assert not layers.is_derived
    assert all(group.parameters for group in layers.groups)


@pytest.mark.parametrize("family", sorted(DEPTH))
def test_groups_come_in_the_order_in_which_data_meets_them(family: str) -> None:
    """Seen by running the model: the first use of each group's modules, in the order of the groups."""
    model = make(family)
    layers = layer_map(model)
    met: list[str] = []

    def hook(name: str) -> None:
        if name not in met:
            met.append(name)

    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own and not isinstance(module, nn.Embedding):
            group = layers.group_of(own[0])
            module.register_forward_pre_hook(lambda *_, group=group: hook(group))
    model(**inputs(model))
    assert met == [name for name in layers.names if name in met]
    assert len(met) >= DEPTH[family]


@pytest.mark.parametrize(
    ("family", "parameter", "group"),
    [
        ("albert", "encoder.embedding_hidden_mapping_in.weight", "embeddings"),
        ("deberta-v2", "encoder.conv.conv.weight", "layer 0"),
        ("deberta-v2", "encoder.rel_embeddings.weight", "embeddings"),
        ("electra", "embeddings_project.weight", "embeddings"),
        ("mpnet", "encoder.relative_attention_bias.weight", "embeddings"),
        ("convnext", "encoder.stages.1.downsampling_layer.1.weight", "layer 1"),
        ("swin", "encoder.layers.1.downsample.reduction.weight", "layer 3"),
        ("mobilenet_v1", "layer.3.convolution.weight", "layer 1"),
        ("mobilenet_v2", "conv_1x1.convolution.weight", "final"),
        ("efficientnet", "encoder.top_conv.weight", "final"),
        ("vgg", "features.1.weight", "layer 0"),
        ("vgg", "features.4.weight", "layer 1"),
        ("vgg", "classifier.0.weight", "final"),
        ("vit", "embeddings.cls_token", "embeddings"),
    ],
)
def test_what_lies_outside_the_blocks_goes_where_it_is_used(family: str, parameter: str, group: str) -> None:
    assert layer_map(make(family)).group_of(parameter) == group


def test_a_pattern_is_a_group_or_a_glob_over_groups_or_over_parameters() -> None:
    layers = layer_map(make("bert"))
    by_name = {group.name: list(group.parameters) for group in layers.groups}
    assert layers.names == ("embeddings", "layer 0", "layer 1", "layer 2", "final")
    assert layers.matching("layer 1") == by_name["layer 1"]
    assert layers.matching("layer [01]") == by_name["layer 0"] + by_name["layer 1"]
    assert layers.matching("*.LayerNorm.bias") == [
        "embeddings.LayerNorm.bias",
        *(f"encoder.layer.{n}.{part}.LayerNorm.bias" for n in range(3) for part in ("attention.output", "output")),
    ]


@pytest.mark.parametrize(("pattern", "nearest"), [("layer1", "layer 1"), ("embedding", "embeddings"), ("zzz", None)])
def test_a_pattern_without_a_match_names_the_groups_and_the_nearest(pattern: str, nearest: str | None) -> None:
    with pytest.raises(RecipeError) as raised:
        layer_map(make("bert")).matching(pattern)
    assert "embeddings, layer 0, layer 1, layer 2, final" in raised.value.found
    assert raised.value.fix == (
        f"did you mean `{nearest}`?" if nearest else "name a group, or use * as in `layer *` or `*bias`"
    )


def test_an_unknown_architecture_is_mapped_by_its_longest_list_of_blocks() -> None:
    config = AutoConfig.for_model("deit", **IMAGES["vit"][0])
    model = AutoModel.from_config(config)
    layers = layer_map(model)
    assert layers.is_derived
    assert layers.names == ("embeddings", "layer 0", "layer 1", "layer 2", "final")
    grouped = [name for group in layers.groups for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert all("2" in name for name in layers.matching("layer 2"))


def test_a_known_family_whose_names_have_changed_is_mapped_by_its_structure() -> None:
    model = make("bert")
    model.add_module("adapter", nn.Linear(2, 2))
    layers = layer_map(model)
    assert layers.is_derived
    assert layers.group_of("adapter.weight") == "final"


def test_an_architecture_in_which_nothing_repeats_is_refused() -> None:
    model = make("bert")
    model.config.model_type = "martian"
    del model.encoder
    with pytest.raises(ArtifactError, match="nothing in it repeats by number"):
        layer_map(model)
