"""Feature extraction: the frozen backbone runs once over all rows, and a linear head is fitted on what it gave.

Features are kept in a cache, keyed by the weights, the pooling and the rows, so that a second run costs only the head.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tldeploy.artifacts import fingerprint, write_file
from tldeploy.backbones.network import TextNetwork
from tldeploy.errors import DataError
from tldeploy.progress import progress
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.metrics import Classes

BATCH = 32
REGULARISATION = (0.01, 0.1, 1.0, 10.0)
FOLDS = 5


def extract_features(
    network: TextNetwork, encoder: TextEncoder, texts: Sequence[str], what: str
) -> NDArray[np.float32]:
    """float32 [texts, features], in the order of `texts`; batches are of similar lengths."""
    ids = encoder.token_ids(texts)
    by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    device = next(network.parameters()).device
    features = np.empty((len(ids), network.head.in_features), dtype=np.float32)
    network.eval()
    with torch.inference_mode(), progress(what, len(ids)) as advance:
        for start in range(0, len(ids), BATCH):
            rows = by_length[start : start + BATCH]
            tensors = {k: torch.from_numpy(v).to(device) for k, v in encoder.pad([ids[row] for row in rows]).items()}
            features[rows] = network.features(**tensors).float().cpu().numpy()
            advance(len(rows))
    return features


@dataclass(frozen=True)
class FeatureCache:
    """Features of a frozen backbone on disk. `weights` identifies the backbone's weights in each file's key."""

    folder: Path
    weights: str

    def features(
        self, network: TextNetwork, encoder: TextEncoder, texts: Sequence[str], split: str
    ) -> NDArray[np.float32]:
        """float32 [texts, features]: read, or computed and kept."""
        key = fingerprint([self.weights, network.pooling, encoder.token_ids(texts)])
        file = self.folder / f"features-{key[:32]}.npy"
        if file.exists():
            stored: NDArray[np.float32] = np.load(file, allow_pickle=False)
            return stored
        features = extract_features(network, encoder, texts, f"features of {split} rows")
        stream = io.BytesIO()
        np.save(stream, features)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(file, stream.getvalue())
        return features


def fit_head(network: TextNetwork, features: NDArray[np.float32], classes: Classes, seed: int) -> float:
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


def classes_from_features(network: TextNetwork, features: NDArray[np.float32]) -> Classes:
    """The most probable class of each row of features, int64 [rows]."""
    with torch.inference_mode():
        logits = network.head(torch.from_numpy(features).to(network.head.weight.device))
    return logits.argmax(dim=-1).cpu().numpy().astype(np.int64)  # type: ignore[no-any-return]  # torch's numpy() is Any
