"""Losses that make a network's features alike in two domains. Target rows need no labels.

| loss | what it compares | added to the loss on source rows |
| --- | --- | --- |
| coral_loss | covariances of the features | times about 1 |
| mmd_loss | means of the features in a kernel's space, so every moment | times about 1 |
| adversarial_loss | what a trained discriminator can tell | its strength by dann_schedule |

Features are float [rows, width]. Half precision is raised to float32; call them
outside of autocast, which would lower the products again. All are means over rows: they do not grow with the batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tldeploy.errors import RecipeError

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of the two unbiased covariances, over 4 width²; a scalar. Each needs two rows or more.

    Source: Sun & Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV workshops 2016.
    """
    source, target = _raised(source), _raised(target)
    _need_two_rows(source, target)
    gap = _covariance(source) - _covariance(target)
    return gap.square().sum() / (4 * source.shape[1] ** 2)


def mmd_loss(source: Tensor, target: Tensor) -> Tensor:
    """Squared maximum mean discrepancy under a mean of five Gaussian kernels; a scalar, at least 0.

    Each kernel is exp(-d² / (2 b m)), with m the median of d² over all pairs of these rows (no gradient flows into it)
    and b out of BANDWIDTHS. It is the biased estimate (a row is paired with itself too): never below 0, 0 for the same
    rows, and for two samples of n rows from one domain about 2 (1 - mean kernel) / n.
    Sources: Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012; Long et al., Learning Transferable Features with
    Deep Adaptation Networks, ICML 2015.
    """
    source, target = _raised(source), _raised(target)
    _need_two_rows(source, target)
    rows = torch.cat([source, target])
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    median = apart.detach()[above[0], above[1]].median().clamp_min(torch.finfo(rows.dtype).tiny)
    kernel = torch.stack([torch.exp(-apart / (2 * factor * median)) for factor in BANDWIDTHS]).mean(dim=0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


class GradientReversal(torch.autograd.Function):
    """The identity forward; backward, the gradient times -strength. Source: Ganin et al., see `adversarial_loss`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """The same features, through which a loss that falls for what comes after rises for what came before."""
    reversed_: Tensor = GradientReversal.apply(features, strength)  # type: ignore[no-untyped-call]
    return reversed_


class DomainDiscriminator(nn.Module):
    """Features, float [rows, width], to the logit that a row is of the target domain, float [rows]."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)
        return logits.squeeze(-1)


def adversarial_loss(discriminator: nn.Module, source: Tensor, target: Tensor, strength: float) -> Tensor:
    """How badly the discriminator tells the domains apart, in nats, both domains counting the same; a scalar.

    The discriminator learns from it at full strength, what made the features unlearns at `strength`. log 2 is a
    discriminator that knows nothing. Source: Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17,
    2016.
    """
    logits = discriminator(reverse_gradient(torch.cat([source, target]), strength)).float()
    of_source, of_target = logits[: len(source)], logits[len(source) :]
    return (nn.functional.softplus(of_source).mean() + nn.functional.softplus(-of_target).mean()) / 2


def dann_schedule(progress: float) -> float:
    """The strength of reversal at `progress` of training, in [0, 1]: 0 at first, 0.99 by half of it.

    2 / (1 + exp(-10 progress)) - 1, of Ganin et al. 2016: a discriminator that has learnt nothing yet teaches nothing.
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred.T @ centred / (len(features) - 1)


def _raised(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _need_two_rows(source: Tensor, target: Tensor) -> None:
    if min(len(source), len(target)) < 2:
        found = "a batch has a single row, which has no spread to compare"
        raise RecipeError(
            "align two domains", found, "set a batch size of 2 or more, and leave smaller last batches out"
        )
