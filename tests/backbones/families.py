"""Tiny backbones with random weights, one of every family: made from a config, so nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from tldeploy.backbones.checkpoints import register_families

_TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
_PATCHES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [4, 8, 12], "depths": [1, 3, 2]}
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 1.0, "hidden_dim": 320, "image_size": 64}
_V2 = {"position_buckets": 4, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
_SPECIAL_IDS = {f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}

# model_type to the settings of a tiny one, and the layers that those settings make.
TEXT: dict[str, tuple[dict[str, Any], int]] = {
    "albert": ({**_TEXT, "embedding_size": 8, "num_hidden_groups": 1}, 1),
    "bert": (_TEXT, 3),
    "camembert": (_TEXT, 3),
    "deberta": ({**_TEXT, **_DISENTANGLED}, 3),
    "deberta-v2": ({**_TEXT, **_DISENTANGLED, **_V2}, 3),
    "distilbert": (
        {"vocab_size": 40, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 20},
        3,
    ),
    "electra": ({**_TEXT, "embedding_size": 8}, 3),
    "modernbert": ({**_TEXT, **_SPECIAL_IDS}, 3),
    "mpnet": (_TEXT, 3),
    "roberta": (_TEXT, 3),
    "xlm-roberta": (_TEXT, 3),
}
IMAGES: dict[str, tuple[dict[str, Any], int]] = {
    "convnext": ({**_STAGES, "num_stages": 3}, 6),
    "convnextv2": ({**_STAGES, "num_stages": 3}, 6),
    "dinov2": (_PATCHES, 3),
    "efficientnet": (_EFFICIENT, 16),
    "efficientnet-lite": (_EFFICIENT, 16),
    "mobilenet_v1": ({"depth_multiplier": 0.25}, 13),
    "mobilenet_v2": ({"depth_multiplier": 0.25}, 16),
    "regnet": ({**_STAGES, "embedding_size": 4, "groups_width": 4}, 6),
    "resnet": ({**_STAGES, "embedding_size": 4, "layer_type": "basic"}, 6),
    "resnet-caffe": ({"hidden_sizes": [8, 16], "depths": [1, 2], "embedding_size": 4}, 3),
    "swin": (
        {
            "embed_dim": 8,
            "depths": [1, 3, 2],
            "num_heads": [2] * 3,
            "image_size": 32,
            "patch_size": 2,
            "window_size": 4,
        },
        6,
    ),
    "vgg": ({**_STAGES, "batch_norm": True, "classifier_size": 10}, 6),
    "vit": ({**_PATCHES, "intermediate_size": 24}, 3),
}


def make(family: str, **settings: Any) -> PreTrainedModel:
    """A model of this family in evaluation mode, the same each time."""
    register_families()
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **({**TEXT, **IMAGES}[family][0] | settings))
    model: PreTrainedModel = AutoModel.from_config(config)
    return model.eval()


def inputs(model: PreTrainedModel, batch: int = 1) -> dict[str, torch.Tensor]:
    """What the model reads: token ids, or images of the size that its config says (64 if it says none)."""
    if model.config.model_type in TEXT:
        return {"input_ids": torch.arange(5, 13).repeat(batch, 1)}
    size = getattr(model.config, "image_size", 64)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))}
