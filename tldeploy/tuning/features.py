"""Feature extraction: the frozen backbone runs once over all rows, and a linear head is fitted on what it gave.

Features are kept in memory-mapped files, keyed by the weights, the network's settings and the encoded rows, so that
a second run costs only the head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tldeploy.arrays import read_array, writing_array
from tldeploy.artifacts import fingerprint
from tldeploy.backbones.network import Network
from tldeploy.errors import DataError
from tldeploy.progress import progress
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.metrics import Classes
from tldeploy.tuning.device import device
from tldeploy.tuning.job import Job, Logits, Tuned

BATCH = 32
REGULARISATION = (0.01, 0.1, 1.0, 10.0)
FOLDS = 5


def feature_extraction(job: Job) -> Tuned:
    """The method: features of all rows by the frozen backbone, and a head fitted on the training rows' features."""
    network = job.network.fresh_copy(job.settings.seed)
    cache = FeatureCache(job.cache, job.weights)
    parts = {"training": job.train, "validation": job.validation, "test": job.test}
    features = {name: cache.features(network, part.examples, name) for name, part in parts.items()}
    inverse_regularisation = fit_head(network, features["training"], job.train.classes, job.settings.seed)
    validation, test = (head_logits(network, features[name]) for name in ("validation", "test"))
    return Tuned(network.eval(), validation, test, {"inverse_regularisation": inverse_regularisation})


def in_batches(examples: Examples, size: int = BATCH) -> list[list[int]]:
    """Indexes of all rows in batches of similar lengths."""
    order = list(range(len(examples)))
    if lengths := examples.lengths:
        order.sort(key=lambda row: lengths[row])
    return [order[start : start + size] for start in range(0, len(order), size)]


def extract_features(
    network: Network, examples: Examples, what: str, into: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """float32 [rows, features], in the order of the examples. into: an array to fill, for instance a mapped file."""
    home = next(network.parameters()).device
    features = np.empty((len(examples), network.head.in_features), dtype=np.float32) if into is None else into
    network.to(device()).eval()
    with torch.inference_mode(), progress(what, len(examples)) as advance:
        for rows in in_batches(examples):
            inputs = {name: torch.from_numpy(values).to(device()) for name, values in examples.batch(rows).items()}
            features[rows] = network.features(**inputs).float().cpu().numpy()
            advance(len(rows))
    network.to(home)
    return features


@dataclass(frozen=True)
class FeatureCache:
    """Features of a frozen backbone on disk. `weights` identifies the backbone's weights in each file's key."""

    folder: Path
    weights: str

    def features(self, network: Network, examples: Examples, part: str) -> NDArray[np.float32]:
        """float32 [rows, features], mapped from its file: found there, or computed into it."""
        key = fingerprint([self.weights, network.settings, examples.key])
        file = self.folder / f"features-{key[:32]}.npy"
        if not file.exists():
            with writing_array(file, (len(examples), network.head.in_features), np.float32) as features:
                extract_features(network, examples, f"features of {part} rows", features)
        return read_array(file)


def answered(
    job: Job,
    network: Network,
    details: Mapping[str, Any],
    curves: Mapping[str, list[tuple[float, float]]] | None = None,
) -> Tuned:
    """A trained network with its logits for the job's validation and test rows."""
    validation = predict_logits(network, job.validation.examples, "predict validation rows")
    test = predict_logits(network, job.test.examples, "predict test rows")
    return Tuned(network.eval(), validation, test, details, curves or {})


def weights_fingerprint(module: nn.Module) -> str:
    """sha256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


def fit_head(network: Network, features: NDArray[np.float32], classes: Classes, seed: int) -> float:
    """Fit the network's head by L-BFGS logistic regression; the inverse regularisation chosen, which is returned.

    It is chosen among REGULARISATION by cross-validated weighted F1 on these rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = min(FOLDS, int(np.bincount(classes).min()))
    if folds < 2:
        found = "a class has a single training row"
        raise DataError("fit a head by feature extraction", found, "label more rows of it, or merge classes")
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)

    def score(c: float) -> float:
        model = LogisticRegression(C=c, max_iter=5000)
        return float(cross_val_score(model, features, classes, cv=splits, scoring="f1_weighted").mean())

    best = max(REGULARISATION, key=score)
    fitted = LogisticRegression(C=best, max_iter=5000).fit(features, classes)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # two classes: one row of coefficients, for the second class against the first
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
    return best


def head_logits(network: Network, features: NDArray[np.float32]) -> Logits:
    """The head alone: float32 [rows, classes]."""
    with torch.inference_mode():
        found = network.head(torch.from_numpy(np.array(features)).to(network.head.weight.device))
    return np.asarray(found.float().cpu().numpy(), dtype=np.float32)


def predict_logits(network: Network, examples: Examples, what: str) -> Logits:
    """The whole network, in evaluation mode: float32 [rows, classes]."""
    return head_logits(network, extract_features(network, examples, what))
