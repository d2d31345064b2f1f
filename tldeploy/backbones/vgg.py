"""VGG (Simonyan and Zisserman, 2015) as a PreTrainedModel, which transformers lacks.

The names of the parameters are torchvision's, so that a checkpoint of torchvision loads as it is; training, saving and
exporting treat it like any other model. The layer that gives the 1,000 classes of ImageNet is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling

# The convolutions of each stage; every stage ends with a max-pool.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
GRID = 7  # what the dense layers read, whatever the size of the image


class VGGConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """depths, hidden_sizes: convolutions and channels of each stage.

    classifier: the two dense layers before the classes are there, and their output is the pooled feature vector.
    """

    model_type = "vgg"

    def __init__(
        self,
        depths: Sequence[int] = DEPTHS["vgg16"],
        hidden_sizes: Sequence[int] = (64, 128, 256, 512, 512),
        batch_norm: bool = False,
        classifier: bool = True,
        classifier_size: int = 4096,
        dropout: float = 0.5,
        num_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        self.depths = list(depths)
        self.hidden_sizes = list(hidden_sizes)
        self.batch_norm = batch_norm
        self.classifier = classifier
        self.classifier_size = classifier_size
        self.dropout = dropout
        self.num_channels = num_channels
        super().__init__(**kwargs)

    @classmethod
    def named(cls, name: str, **settings: Any) -> VGGConfig:
        """The configuration that torchvision calls `name`: vgg11, vgg13, vgg16, vgg19, or one of them with _bn."""
        return cls(depths=DEPTHS[name.removesuffix("_bn")], batch_norm=name.endswith("_bn"), **settings)


class VGGModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """pixel_values, float32 [batch, channels, height, width], to a feature map and a pooled vector of each image."""

    config_class = VGGConfig
    base_model_prefix = "vgg"
    main_input_name = "pixel_values"

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config)
        self._keys_to_ignore_on_load_unexpected = [r"classifier\.6\."]  # the classes of ImageNet
        self.features = nn.Sequential(*_convolutions(config))
        self.classifier = _dense_layers(config) if config.classifier else None
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """last_hidden_state [batch, channels, height / 32, width / 32], pooler_output [batch, features]."""
        hidden = self.features(pixel_values)
        if self.classifier is None:
            pooled = hidden.mean(dim=(2, 3))
        else:
            pooled = self.classifier(_average_to_grid(hidden).flatten(1))
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The random start of torchvision. What a checkpoint gave is left alone."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.Conv2d):
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, 0, 0.01)


def _convolutions(config: VGGConfig) -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = config.num_channels
    for depth, size in zip(config.depths, config.hidden_sizes, strict=True):
        for _ in range(depth):
            modules.append(nn.Conv2d(channels, size, kernel_size=3, padding=1))
            modules += [nn.BatchNorm2d(size)] if config.batch_norm else []
            modules.append(nn.ReLU())
            channels = size
        modules.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return modules


def _dense_layers(config: VGGConfig) -> nn.Sequential:
    """torchvision's classifier up to its last ReLU; the dropout after that is the head's business."""
    return nn.Sequential(
        nn.Linear(config.hidden_sizes[-1] * GRID * GRID, config.classifier_size),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.classifier_size, config.classifier_size),
        nn.ReLU(),
    )


def _average_to_grid(hidden: Tensor) -> Tensor:
    """AdaptiveAvgPool2d(7) as two matrix products, because the exporter refuses sizes that 7 does not divide."""
    height, width = hidden.shape[2:]
    if (height, width) == (GRID, GRID):
        return hidden
    return _averages(height).to(hidden) @ hidden @ _averages(width).to(hidden).T


def _averages(size: int) -> Tensor:
    """float32 [7, size]: row i averages the cells from floor(i size / 7) up to ceil((i + 1) size / 7)."""
    matrix = torch.zeros(GRID, size)
    for row in range(GRID):
        start, end = row * size // GRID, -(-(row + 1) * size // GRID)
        matrix[row, start:end] = 1 / (end - start)
    return matrix
