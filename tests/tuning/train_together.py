"""Train a tiny network, under torchrun or in this process; under torchrun the first process saves its weights.

torchrun --nproc-per-node 2 train_together.py <folder with a backbone> <file>
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tuning.tiny_part import text_network
from tldeploy.backbones.network import Network
from tldeploy.recipe import Tune
from tldeploy.tuning import ranks
from tldeploy.tuning.fine_tuning import train


def trained(folder: Path) -> Network:
    # 34 rows in batches of 8: the last batch has 2, and of two processes the second has none of them.
    network, part, validation = text_network(folder, rows=34, dropout=0.0)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each process draws its own
    settings = Tune(epochs=2, batch_size=8, learning_rate=1e-3, class_weights=True, label_smoothing=0.1)
    train(network, part, settings, "training", validation=validation)
    return network


if __name__ == "__main__":
    torch.set_num_threads(1)
    network = trained(Path(sys.argv[1]))
    if ranks.rank() == 0:
        save_file(network.state_dict(), sys.argv[2])
