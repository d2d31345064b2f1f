"""Training steps on batches of both domains, side by side: what self-training and the aligning losses share.

The loss is the method's. Batches are of rows of similar lengths; a domain that is shorter starts again in a new order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tldeploy.backbones.network import Network
from tldeploy.errors import QualityError
from tldeploy.progress import progress
from tldeploy.recipe import Tune
from tldeploy.tasks.classification import Examples, Tensors
from tldeploy.tuning import precision
from tldeploy.tuning.freezing import learners
from tldeploy.tuning.quantization_aware import rounding
from tldeploy.tuning.schedules import parameter_groups

BATCHES_A_BLOCK = 50
MOST_GRADIENT = 1.0

# Rows of the source, rows of the target, and how far training is, in [0, 1], to the loss.
Loss = Callable[[list[int], list[int], float], Tensor]


def train_jointly(
    network: Network,
    settings: Tune,
    source: Examples,
    target: Examples,
    steps: int,
    learning_rate: float,
    loss: Loss,
    what: str,
    beside: Sequence[nn.Module] = (),
    after_step: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train `network` in place by AdamW, with the rate warmed up and then lowered linearly to 0; what there is to say.

    Of the recipe's settings, those count that say which weights learn, how fast to one another, in what precision, and
    whether under rounding; schedules, averages, early stopping and gradual unfreezing are fine-tuning's.
    beside: modules that learn along, such as a discriminator. Dropout's draws follow settings.seed. The loss is called
    in the precision of the recipe. Raises QualityError when the weights stop being finite.
    """
    draw = np.random.default_rng(settings.seed)
    batches = [_endless(examples, settings.batch_size, draw) for examples in (source, target)]
    along = [
        (f"beside{at}.{name}", weight) for at, module in enumerate(beside) for name, weight in module.named_parameters()
    ]
    how, device = precision.arguments(settings), next(network.parameters()).device
    dtype = torch.float16 if how["fp16"] else torch.bfloat16
    lowered = torch.autocast(device.type, dtype, enabled=how["fp16"] or how["bf16"])
    scaler = torch.amp.GradScaler(device.type, enabled=how["fp16"])
    total = 0.0
    devices = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    with (
        precision.products(how),
        torch.random.fork_rng(devices),
        learners(network, settings) as which,
        rounding(network, settings),
        progress(what, steps) as advance,
    ):
        named = [*network.named_parameters(), *along]
        factors = {name: which.factors.get(name, 1.0) for name, _ in named}
        optimizer = torch.optim.AdamW(
            parameter_groups(named, factors, learning_rate, settings.weight_decay), fused=True
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _warm_then_linear(step, steps, settings.warmup)
        )
        learning = [parameter for _, parameter in named if parameter.requires_grad]
        torch.manual_seed(settings.seed)
        network.train()
        which.hold_batch_norm()
        for step in range(steps):
            with lowered:
                found = loss(next(batches[0]), next(batches[1]), step / steps)
            optimizer.zero_grad()
            scaler.scale(found).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(learning, MOST_GRADIENT)
            scaler.step(optimizer)
            scaler.update()
            rate.step()
            if after_step is not None:
                after_step()
            total += float(found.detach())
            advance(1)
    network.eval()
    if not all(bool(torch.isfinite(weight).all()) for weight in network.parameters()):
        raise QualityError(what, "training diverged: the weights are no longer finite", "lower tune.learning_rate")
    return {"steps": steps, "mean_loss": total / max(1, steps)}


def on_device(network: Network, inputs: Tensors | Mapping[str, Any]) -> dict[str, Tensor]:
    device = next(network.parameters()).device
    return {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}


def steps_of(examples: Examples, settings: Tune) -> int:
    """Of all epochs over these rows."""
    return -(-len(examples) // settings.batch_size) * settings.epochs


def in_random_batches(examples: Examples, size: int, draw: np.random.Generator) -> list[list[int]]:
    """All rows once, as indexes: rows of similar lengths together within blocks, the batches in random order."""
    order = draw.permutation(len(examples)).tolist()
    batches = []
    for start in range(0, len(order), BATCHES_A_BLOCK * size):
        block = order[start : start + BATCHES_A_BLOCK * size]
        if lengths := examples.lengths:
            block.sort(key=lambda row: lengths[row])
        batches += [block[at : at + size] for at in range(0, len(block), size)]
    return [batches[at] for at in draw.permutation(len(batches))]


def _endless(examples: Examples, size: int, draw: np.random.Generator) -> Iterator[list[int]]:
    while True:
        yield from in_random_batches(examples, size, draw)


def _warm_then_linear(step: int, steps: int, warmup: float) -> float:
    return min((step + 1) / max(1.0, warmup * steps), max(0.0, (steps - step) / (steps * (1 - warmup))))
