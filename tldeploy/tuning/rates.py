"""A learning rate for a recipe: a range test on its own rows, weights and settings (finder.py reads the curve)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tldeploy.artifacts import write_file
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import Network
from tldeploy.data.rows import split_rows
from tldeploy.progress import progress
from tldeploy.recipe import Recipe, Tune
from tldeploy.tuning import finder
from tldeploy.tuning.batches import LABELS, ROWS, SHARE, Batches
from tldeploy.tuning.device import device
from tldeploy.tuning.finder import Suggestion
from tldeploy.tuning.freezing import learners
from tldeploy.tuning.job import Part
from tldeploy.tuning.order import EpochBatches
from tldeploy.tuning.training import cross_entropy

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 140
HOPELESS = 10.0  # times the least loss so far: nothing is left to see
PLOT = "find-rate.html"
Curve = list[tuple[float, float]]


def find_rate(network: Network, part: Part, settings: Tune) -> Curve:
    """(rate, loss) of each step, while the rate rises evenly in log from LOWEST to HIGHEST; `network` is trained by it.

    Freezing, rates by layer, batches and the loss are the recipe's; its schedule, averaging and precision play no part.
    It ends early at a loss that is no number, or HOPELESS.
    """
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    loss_of = cross_entropy(part.classes, network.head.out_features, settings)
    network.to(place := device())
    torch.manual_seed(settings.seed)
    curve: Curve = []
    at_one = settings.model_copy(update={"learning_rate": 1.0, "gradual_unfreezing": None})
    order = EpochBatches(part.examples.lengths, part.classes, settings)
    batches, epoch = Batches(part, settings, order), 0
    with learners(network, settings) as learning, progress("find a learning rate", STEPS) as advance:
        optimizer = learning.optimizer(at_one)  # so that each group's rate is its share of the rate
        shares = [group["lr"] for group in optimizer.param_groups]
        while len(curve) < STEPS:
            batches.set_epoch(epoch)
            epoch += 1
            for batch in batches:
                if len(curve) == STEPS:
                    break
                beside = {name: batch.pop(name).to(place) for name in (LABELS, ROWS)}
                del batch[SHARE]
                network.train()
                learning.hold_batch_norm()
                loss = loss_of(network(**{name: value.to(place) for name, value in batch.items()}), beside)
                curve.append((float(rates[len(curve)]), float(loss.detach())))
                advance(1)
                if not curve[-1][1] <= HOPELESS * min(found for _, found in curve):
                    return curve
                for group, share in zip(optimizer.param_groups, shares, strict=True):
                    group["lr"] = share * curve[-1][0]
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # as Trainer does
                optimizer.step()
    return curve


def find_rate_of(recipe: Recipe) -> tuple[Suggestion, Path]:
    """Test the recipe's training rows; what the curve suggests, and the page with its plot, beside the recipe.

    Raises RecipeError where the curve suggests nothing; the page is written all the same.
    """
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    with tempfile.TemporaryDirectory() as scratch:
        network, task = load_pretrained(recipe, splits.labels, Path(scratch))
        part = Part(task.examples(splits.train.inputs, recipe.folder / ".cache"), splits.train.classes)
        curve = find_rate(network.fresh_copy(recipe.tune.seed), part, recipe.tune)
    page = recipe.folder / PLOT
    rates, losses = (np.array(values) for values in zip(*curve, strict=True))
    write_file(page, draw(curve, None))
    suggestion = finder.suggest(rates, losses)
    write_file(page, draw(curve, suggestion))
    return suggestion, page


def draw(curve: Curve, suggestion: Suggestion | None) -> str:
    """One HTML page that stands alone: each step's loss, the smoothed one, and the rate that they suggest."""
    import plotly.graph_objects as go

    rates = [rate for rate, _ in curve]
    losses = [loss for _, loss in curve]
    figure: Any = go.Figure(layout={"template": "none", "title": suggestion.reason if suggestion else "no suggestion"})
    figure.add_scatter(x=rates, y=losses, mode="markers", name="loss of a batch", marker={"size": 4})
    figure.add_scatter(x=rates, y=finder.smooth(np.array(losses)).tolist(), mode="lines", name="smoothed")
    if suggestion is not None:
        figure.add_vline(x=suggestion.rate, line_dash="dash", annotation_text=f"{suggestion.rate:.1e}")
    figure.update_xaxes(type="log", title="learning rate", tickformat=".0e")
    figure.update_yaxes(title="loss")
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page
