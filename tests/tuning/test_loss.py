from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tuning.tiny_part import text_network
from tldeploy.recipe import Tune
from tldeploy.tuning.batches import ROWS
from tldeploy.tuning.order import EpochBatches
from tldeploy.tuning.training import cross_entropy, train

TEXT = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def test_a_class_weighs_the_same_in_any_company() -> None:
    classes = np.array([0, 0, 0, 1])
    loss = cross_entropy(classes, 2, Tune(class_weights=True))
    logits = torch.tensor([[0.2, -0.1], [0.4, 0.3], [-0.5, 0.0], [0.1, 0.9]])
    labels = torch.from_numpy(classes)
    plain = nn.functional.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])
    torch.testing.assert_close(loss(logits, {"labels": labels}), (plain * weights).mean())
    torch.testing.assert_close(loss(logits[3:], {"labels": labels[3:]}), plain[3] * 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_shares_the_label_out_among_all_classes(smoothing: float) -> None:
    classes = np.array([0, 2, 1, 2])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = cross_entropy(classes, 3, Tune(label_smoothing=smoothing))(logits, {"labels": torch.from_numpy(classes)})
    wanted = np.full((4, 3), smoothing / 3)
    wanted[range(4), classes] += 1 - smoothing
    by_hand = -(wanted * torch.log_softmax(logits, dim=1).numpy()).sum(axis=1).mean()
    assert float(found) == pytest.approx(by_hand, rel=1e-6)
    torch.testing.assert_close(found, nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, torch.from_numpy(classes)))


def test_training_is_by_the_smoothed_loss(folder: Path) -> None:
    network, part, _ = text_network(folder, dropout=0.0)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    settings = Tune(**{**TEXT, "epochs": 1, "label_smoothing": 0.3})
    rows = [key.row for key in next(iter(EpochBatches(part.examples.lengths, part.classes, settings)))]
    with torch.no_grad():
        batch = {name: torch.from_numpy(values) for name, values in part.examples.batch(rows).items()}
        logits = network(**batch)
    labels = torch.from_numpy(part.classes[rows])
    expected, plain = (nn.functional.cross_entropy(logits, labels, label_smoothing=share) for share in (0.3, 0.0))
    found = train(network, part, settings, "test").curves["training loss"][0][1]
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(plain), rel=1e-3)


def test_a_loss_is_given_the_rows_numbers(folder: Path) -> None:
    seen: list[int] = []
    network, part, _ = text_network(folder)

    def loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.extend(batch[ROWS].tolist())
        assert batch["labels"].tolist() == part.classes[batch[ROWS].numpy()].tolist()
        return nn.functional.cross_entropy(logits, batch["labels"])

    train(network, part, Tune(**{**TEXT, "epochs": 1}), "test", loss=loss)
    assert sorted(seen) == list(range(36))
