"""LoRA: low-rank adapters beside the frozen layers of the backbone learn, and are merged into its weights afterwards.

1. `add_adapters` puts an adapter beside each target layer. Only adapters and the head learn.
2. `merge` adds what they learnt to the weights: the network comes out as it went in, with no layer more.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from tldeploy.backbones.network import Network
from tldeploy.errors import RecipeError
from tldeploy.recipe import Lora
from tldeploy.tuning.fine_tuning import learn, measured
from tldeploy.tuning.job import Job, Tuned

if TYPE_CHECKING:
    from peft import LoraModel

SHOWN = 12


def lora(job: Job) -> Tuned:
    """The method. Raises RecipeError when no layer of the backbone is a target."""
    network = job.network.fresh_copy(job.settings.seed)
    adapters = add_adapters(network, job.settings.lora, job.settings.seed)
    trainable = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    # What will be rounded is the sum of a weight and its adapter, which no layer holds while they are apart.
    apart = job.settings.model_copy(update={"quantization_aware": False})
    trained = learn(job, network, "lora", settings=apart)
    merge(network, adapters)
    share = trainable / sum(weight.numel() for weight in network.parameters())
    return measured(job, network, trained, {"trainable_parameters": trainable, "trainable_share": round(share, 4)})


def add_adapters(network: Network, settings: Lora, seed: int) -> LoraModel:
    """Put adapters into the network's backbone, which gives the same outputs as before; the seed fixes their weights.

    Every other weight of the backbone stops learning. Raises RecipeError when `settings.targets` names no layer.
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.lora import LoraLayer

    names = target_layers(network.backbone, settings.targets)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapters = LoraModel(network.backbone, config, "default")
    for layer in adapters.modules():
        if isinstance(layer, LoraLayer) and isinstance(beside := layer.get_base_layer(), nn.Conv2d):
            for name in ("kernel_size", "stride", "dilation"):  # MobileNets ask their convolutions for these
                setattr(layer, name, getattr(beside, name))
    return adapters


def target_layers(backbone: nn.Module, targets: Sequence[str] = ()) -> list[str]:
    """The names of the layers that get an adapter.

    Those whose names end with one of `targets`; by default all linear layers, and in a backbone that is mostly
    convolutions these too. Grouped convolutions can have none.
    """
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [
        name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    possible = [*linear, *convolutions]
    if targets:
        chosen = [name for name in possible if any(f".{name}".endswith(f".{target}") for target in targets)]
    else:
        chosen = possible if len(convolutions) > len(linear) else linear
    if not chosen:
        ends = sorted({name.rpartition(".")[2] for name in possible})
        known = f"its layers end with {', '.join(ends[:SHOWN])}" if ends else "it has no linear layer or convolution"
        asked = f"put adapters beside the layers {', '.join(targets) or 'of the backbone'}"
        fix = "set tune.lora.targets to some of those ends, or leave it out" if ends else "use fine-tuning"
        raise RecipeError(asked, f"the backbone has none of that name; {known}" if ends else known, fix)
    return chosen


def merge(network: Network, adapters: LoraModel) -> None:
    """Add what the adapters learnt to the weights beside them, and take them out."""
    network.backbone = adapters.merge_and_unload(progressbar=False)  # type: ignore[assignment]  # typed as any Module
    network.requires_grad_(True)
    network.eval()
