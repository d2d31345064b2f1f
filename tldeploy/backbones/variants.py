"""Architectures that differ from one of transformers in a single part, and that real checkpoints have.

- resnet-caffe: ResNet as Caffe ran it. Its max-pool pads at the bottom and on the right only.
- efficientnet-lite: EfficientNet without squeeze-and-excitation, so that it quantizes well (its config sets ReLU6).
"""

from __future__ import annotations

from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel, ResNetConfig, ResNetModel


class CaffeResNetConfig(ResNetConfig):  # type: ignore[no-untyped-call]
    model_type = "resnet-caffe"


class CaffeResNetModel(ResNetModel):  # type: ignore[no-untyped-call]
    config_class = CaffeResNetConfig

    def __init__(self, config: CaffeResNetConfig) -> None:
        super().__init__(config)
        # Caffe rounds the size up instead of padding, which is a border of one at the bottom and on the right.
        self.embedder.pooler = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


class EfficientNetLiteConfig(EfficientNetConfig):  # type: ignore[no-untyped-call]
    model_type = "efficientnet-lite"


class EfficientNetLiteModel(EfficientNetModel):  # type: ignore[no-untyped-call]
    config_class = EfficientNetLiteConfig

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        for block in self.encoder.blocks:
            block.squeeze_excite = nn.Identity()
