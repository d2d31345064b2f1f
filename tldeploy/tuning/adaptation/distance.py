"""How far apart two domains are, as a network's features see them: the proxy A-distance.

A linear classifier is trained to tell source rows from target rows. If it cannot, a head that is right on the one
domain may be expected to be right on the other; if it can, the features hold something a head may have relied on.

Source: Ben-David et al., Analysis of Representations for Domain Adaptation, NIPS 2007. The distance there is over all
classifiers of a family; this is the usual stand-in, 2 (1 - 2 error), with the held-out error of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import DataError

FOLDS = 5
MOST_ROWS = 2000
RESAMPLES = 2000
REGULARISATION = 0.1


@dataclass(frozen=True)
class Distance:
    """The proxy A-distance, in [0, 2], with the interval that holds it at 95 % confidence.

    error: how often the domain classifier is wrong on rows it has not seen, in [0, 1], both domains counting the same.
    rows: how many it was judged on. words: what the value means, for a person.
    """

    value: float
    low: float
    high: float
    error: float
    rows: int
    words: str


def proxy_a_distance(source: NDArray[np.floating], target: NDArray[np.floating], seed: int) -> Distance:
    """The distance between source features and target features, float [rows, width] each; row counts may differ.

    Each domain is drawn down to MOST_ROWS. A logistic regression on standardised features, in which both domains weigh
    the same, is judged by cross-validation: every row by a fit that has not seen it. The interval is that of the two
    domains' error rates (Jeffreys' posterior; Brown et al., Statistical Science 16, 2001). It holds the chance
    in which rows were judged, not that in the fit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(seed)
    parts = [_some(_checked(part, name), draw) for part, name in ((source, "source"), (target, "target"))]
    domain = np.repeat([0, 1], [len(part) for part in parts])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=5000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    wrong = cross_val_predict(classifier, np.concatenate(parts), domain, cv=folds) != domain

    mistakes = np.array([wrong[domain == 0].sum(), wrong[domain == 1].sum()])
    rows = np.bincount(domain)
    error = float((mistakes / rows).mean())
    value = _distance(error)
    rates = draw.beta(mistakes + 0.5, rows - mistakes + 0.5, size=(RESAMPLES, 2)).mean(axis=1)
    low, high = (_distance(float(rate)) for rate in np.quantile(rates, [0.975, 0.025]))
    return Distance(value, min(low, value), max(high, value), error, int(rows.sum()), describe(value))


def describe(value: float) -> str:
    """What a proxy A-distance in [0, 2] means, in one plain sentence."""
    if value < 0.5:
        return "the domains look alike to a linear classifier; expect little loss from the change of domain itself"
    if value < 1.0:
        return "the domains differ somewhat; expect some loss, and measure it on labelled target rows before adapting"
    if value < 1.5:
        return "the domains differ clearly; expect a loss on target rows, which adaptation may win back in part"
    return (
        "a linear classifier tells the domains apart almost always; expect a loss on target rows, "
        "and more from a few labelled target rows than from adaptation without labels"
    )


def _distance(error: float) -> float:
    """An error above one half is chance, and no distance."""
    return float(np.clip(2 * (1 - 2 * error), 0, 2))


def _some(features: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    if len(features) <= MOST_ROWS:
        return features
    return features[np.sort(draw.choice(len(features), MOST_ROWS, replace=False))]


def _checked(features: NDArray[np.floating], domain: str) -> NDArray[np.float64]:
    asked = "measure how far the domains are apart"
    if len(features) < FOLDS:
        raise DataError(asked, f"the {domain} domain has {len(features)} rows", f"give it at least {FOLDS}")
    if not np.isfinite(features).all():
        raise DataError(asked, f"features of the {domain} domain hold NaN or infinity", "check the backbone's weights")
    return features.astype(np.float64)
