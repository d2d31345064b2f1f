from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from tldeploy.errors import RecipeError
from tldeploy.tuning.adaptation.alignment import (
    BANDWIDTHS,
    DomainDiscriminator,
    adversarial_loss,
    coral_loss,
    dann_schedule,
    mmd_loss,
    reverse_gradient,
)

Pairwise = Callable[[Tensor, Tensor], Tensor]
PAIRWISE = pytest.mark.parametrize("loss", [coral_loss, mmd_loss])


def rows(seed: int, number: int = 24, width: int = 3) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mmd_by_sklearn(source: Tensor, target: Tensor, median: float) -> float:
    both, n = torch.cat([source, target]).detach().numpy(), len(source)
    kernel = sum(rbf_kernel(both, gamma=1 / (2 * factor * median)) for factor in BANDWIDTHS) / len(BANDWIDTHS)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


@PAIRWISE
def test_the_same_rows_are_no_distance_in_any_order(loss: Pairwise) -> None:
    same = rows(1)
    assert loss(same, same[torch.randperm(24)]).item() == pytest.approx(0, abs=1e-12)


@PAIRWISE
def test_it_grows_with_the_change_and_does_not_care_which_domain_is_which(loss: Pairwise) -> None:
    changed = [loss(rows(1), factor * rows(1)).item() for factor in (1.1, 1.5, 3.0)]
    assert 0 < changed[0] < changed[1] < changed[2]
    assert loss(rows(1), 2 * rows(2)).item() == pytest.approx(loss(2 * rows(2), rows(1)).item())


@PAIRWISE
def test_moving_both_domains_changes_nothing(loss: Pairwise) -> None:
    assert loss(rows(1) + 5, 2 * rows(2) + 5).item() == pytest.approx(loss(rows(1), 2 * rows(2)).item())


@PAIRWISE
def test_following_its_gradient_brings_the_domains_together(loss: Pairwise) -> None:
    source, target = rows(1), (3 * rows(2) + 0.5).requires_grad_()
    before = loss(source, target)
    (gradient,) = torch.autograd.grad(before, target)
    step = 0.1 * before.item() / gradient.square().sum().item()
    assert loss(source, target.detach() - step * gradient) < before


def test_the_gradient_of_coral_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda moved: coral_loss(rows(1, 5), moved), [rows(2, 6).requires_grad_()])


def test_the_gradient_of_mmd_is_that_of_finite_differences_with_the_median_held() -> None:
    source, target = rows(3, 7), (rows(4, 5) + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(mmd_loss(source, target), target)
    median = torch.pdist(torch.cat([source, target])).square().median().item()
    nudge = torch.zeros_like(target)
    nudge[2, 1] = 1e-5
    rise = mmd_by_sklearn(source, target + nudge, median) - mmd_by_sklearn(source, target - nudge, median)
    assert gradient[2, 1].item() == pytest.approx(rise / 2e-5, rel=1e-6)


@PAIRWISE
def test_half_precision_is_raised_and_one_row_is_refused(loss: Pairwise) -> None:
    found = loss(rows(1).bfloat16(), rows(2).bfloat16())
    assert found.dtype == torch.float32
    with pytest.raises(RecipeError, match="single row"):
        loss(rows(1), rows(2)[:1])


def test_coral_of_two_covariances_by_hand() -> None:
    """Source: variance 2 along each axis. Target: variance 8 along the first, none along the second."""
    source = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * math.sqrt(1.5)
    target = torch.tensor([[2.0, 7.0], [-2.0, 7.0]])
    assert coral_loss(source, target).item() == pytest.approx(((8 - 2) ** 2 + 2**2) / (4 * 2**2))


def test_coral_does_not_see_a_shift_and_mmd_does() -> None:
    assert coral_loss(rows(1), rows(1) + 1).item() == pytest.approx(0, abs=1e-12)
    assert mmd_loss(rows(1), rows(1) + 1) > 0.1


def test_mmd_is_sklearns_kernels_averaged() -> None:
    source, target = rows(3, 7), rows(4, 5) + 1
    median = torch.pdist(torch.cat([source, target])).square().median().item()
    assert mmd_loss(source, target).item() == pytest.approx(mmd_by_sklearn(source, target, median))


def test_mmd_falls_with_the_rows_when_the_domain_is_the_same() -> None:
    few = torch.stack([mmd_loss(*rows(seed, 40).chunk(2)) for seed in range(300)]).mean()
    many = torch.stack([mmd_loss(*rows(seed, 160).chunk(2)) for seed in range(300)]).mean()
    assert (few / many).item() == pytest.approx(4, rel=0.25)


def test_rows_that_are_all_alike_have_losses_and_gradients_without_nan() -> None:
    alike = torch.ones(4, 3, requires_grad=True)
    (coral_loss(alike, alike) + mmd_loss(alike, alike)).backward()
    assert alike.grad is not None
    assert alike.grad.abs().sum() == 0


def test_reversal_keeps_the_values_and_flips_the_gradient() -> None:
    features = rows(1).requires_grad_()
    out = reverse_gradient(features, 0.5)
    torch.testing.assert_close(out, features)
    (gradient,) = torch.autograd.grad((3 * out).sum(), features)
    torch.testing.assert_close(gradient, torch.full_like(gradient, -1.5))


def test_the_discriminator_learns_from_what_the_features_unlearn() -> None:
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(3, hidden=8).double()
    source, target = rows(1).requires_grad_(), (rows(2) + 1).requires_grad_()
    before = adversarial_loss(discriminator, source, target, strength=1.0)
    before.backward()  # type: ignore[no-untyped-call]
    assert source.grad is not None
    assert target.grad is not None
    with torch.no_grad():
        followed = adversarial_loss(discriminator, source - 0.5 * source.grad, target - 0.5 * target.grad, 1.0)
        for parameter in discriminator.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
        learnt = adversarial_loss(discriminator, source, target, strength=1.0)
    assert learnt < before < followed


def test_a_discriminator_that_knows_nothing_is_at_log_2_whatever_the_row_counts() -> None:
    knows_nothing = torch.nn.Sequential(DomainDiscriminator(3))
    for parameter in knows_nothing.parameters():
        torch.nn.init.zeros_(parameter)
    loss = adversarial_loss(knows_nothing, rows(1, 30).float(), rows(2, 5).float(), strength=1.0)
    assert loss.item() == pytest.approx(math.log(2))


def test_the_schedule_rises_from_nothing_to_full_strength() -> None:
    values = [dann_schedule(step / 10) for step in range(11)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[5] == pytest.approx(math.tanh(2.5))
    assert values[10] == pytest.approx(1, abs=1e-4)
