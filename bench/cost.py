"""What two economies of training are worth: features computed once, and batches of similar lengths.

1. A head on a frozen backbone: features computed once and kept, against the backbone run again in every epoch.
2. Fine-tuning on texts: batches of similar lengths padded to their longest, against every text padded to 128 tokens.

Each pair is run one after the other, in turns, on one thread. Other work shares the machine, so that ratios are of the
processor's time (of this process), with the wall clock's beside them.

.venv/bin/tldeploy fetch models/fashion-resnet50     # and models/review-sentiment, once
.venv/bin/python bench/cost.py bench/results/<machine> [cached-features] [grouped-lengths]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures.cost import page
from torch import nn

from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.backbones.load import load_pretrained
from tldeploy.backbones.network import Network
from tldeploy.data.rows import split_rows
from tldeploy.recipe import Recipe, Tune
from tldeploy.tasks.classification import Classification
from tldeploy.tuning.features import extract_features
from tldeploy.tuning.order import EpochBatches

ROOT = Path(__file__).parent.parent
PAIRS, BATCH = 3, 16
IMAGES, IMAGE_SIZE, EPOCHS = 96, 48, 30
LONGEST = 128  # tokens


def opened(recipe: Recipe, folder: Path) -> tuple[Network, Classification, list[str], torch.Tensor]:
    """The pretrained network of a recipe, its task, and its training rows with their classes."""
    splits = split_rows(recipe.data, recipe.folder, recipe.task)
    network, task = load_pretrained(recipe, splits.labels, folder)
    return network, task, splits.train.inputs, torch.from_numpy(splits.train.classes)


def cached_features() -> dict[str, Any]:
    """EPOCHS of a linear head by AdamW on the same images in the same order; only where features come from differs."""
    recipe = Recipe.load(ROOT / "models" / "fashion-resnet50")
    small = recipe.backbone.model_copy(update={"image_size": IMAGE_SIZE})
    with tempfile.TemporaryDirectory() as folder:
        network, task, rows, classes = opened(recipe.model_copy(update={"backbone": small}), Path(folder))
    taken = np.random.default_rng(0).permutation(len(rows))[:IMAGES].tolist()
    examples, classes = task.examples([rows[at] for at in taken]), classes[taken]

    def learn(features_of: Callable[[list[int]], torch.Tensor]) -> None:
        head = nn.Linear(network.head.in_features, len(task.labels))
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(IMAGES)
            for start in range(0, IMAGES, BATCH):
                batch = order[start : start + BATCH].tolist()
                loss = nn.functional.cross_entropy(head(features_of(batch)), classes[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    def once() -> None:
        features = torch.from_numpy(extract_features(network, examples, "features"))
        learn(lambda batch: features[batch])

    def every_epoch() -> None:
        network.eval()

        @torch.no_grad()
        def features_of(batch: list[int]) -> torch.Tensor:
            return network.features(pixels=torch.from_numpy(examples.batch(batch)["pixels"]))

        learn(features_of)

    about = f"ResNet-50 of half width, {IMAGES} images at {IMAGE_SIZE} pixels, {EPOCHS} epochs of a linear head"
    return {"what": "features once, against every epoch", "about": about, **in_turns(once, every_epoch)}


def grouped_lengths() -> dict[str, Any]:
    """A whole epoch of fine-tuning each way: the batches that `tune` makes, against shuffled rows padded to LONGEST."""
    recipe = Recipe.load(ROOT / "models" / "review-sentiment")
    with tempfile.TemporaryDirectory() as folder:
        network, task, texts, classes = opened(recipe, Path(folder))
    examples = task.examples(texts)
    assert examples.lengths is not None
    grouped = EpochBatches(examples.lengths, classes.numpy(), Tune(batch_size=BATCH)).whole(0)
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    shuffled = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def learn(batches: Sequence[Sequence[int]], pad_to: int | None) -> None:
        twin = network.fresh_copy(0).train()
        optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-4, fused=True)
        for batch in batches:
            inputs = {name: torch.from_numpy(values) for name, values in examples.batch(batch).items()}
            if pad_to is not None:
                inputs = {name: nn.functional.pad(ids, (0, pad_to - ids.shape[1])) for name, ids in inputs.items()}
            nn.functional.cross_entropy(twin(**inputs), classes[list(batch)]).backward()
            optimizer.step()
            optimizer.zero_grad()

    longest = [max(examples.lengths[row] for row in batch) for batch in grouped]
    about = (
        f"MiniLM-L6, a whole epoch of {len(grouped)} steps of {BATCH} over {len(texts):,} sentences (mean "
        f"{np.mean(examples.lengths):.0f} tokens, longest {max(examples.lengths)}); padding gives "
        f"{LONGEST / np.mean(longest):.1f} times the tokens"
    )
    found = in_turns(lambda: learn(grouped, None), lambda: learn(shuffled, LONGEST))
    return {"what": f"batches of similar lengths, against all padded to {LONGEST}", "about": about, **found}


def in_turns(cheap: Callable[[], None], dear: Callable[[], None]) -> dict[str, Any]:
    """Seconds of each run, both ways in turns, and the ratio dear / cheap of each pair."""
    seconds: dict[str, list[dict[str, float]]] = {"cheap": [], "dear": []}
    for _ in range(PAIRS):
        for name, work in (("cheap", cheap), ("dear", dear)):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            taken = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
            seconds[name].append(taken)
            print(name, taken, file=sys.stderr)
    ratios = {
        clock: [dear[clock] / cheap[clock] for cheap, dear in zip(seconds["cheap"], seconds["dear"], strict=True)]
        for clock in ("processor_s", "wall_s")
    }
    return {"seconds": seconds, "ratios": ratios}


MEASUREMENTS = {"cached-features": cached_features, "grouped-lengths": grouped_lengths}


def main(out: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "cost.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    for name in names or MEASUREMENTS:
        results[name] = MEASUREMENTS[name]()
        report = {"threads": 1, "environment": environment.describe(), "results": results}
        write_file(file, json.dumps(report, indent=1) + "\n")
        write_file(out / "cost.md", page(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
