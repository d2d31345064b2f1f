"""Calibration of the network that is kept: one temperature, fitted on validation rows, that is served with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tldeploy.tasks.calibration import (
    NOT_FITTED,
    WHY_NOT,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from tldeploy.tasks.metrics import Classes
from tldeploy.tuning.job import Job, Logits, Tuned


def calibrate(tuned: Tuned, job: Job) -> dict[str, Any]:
    """Give the network its temperature; how far confidence was from truth before and is after, on both splits.

    The exported graph divides by the temperature, so that served probabilities are the calibrated ones.
    """
    temperature = fit_temperature(tuned.validation, job.validation.classes)
    tuned.network.temperature = temperature
    return {
        "temperature": temperature,
        "validation": _before_and_after(tuned.validation, job.validation.classes, temperature),
        "test": _before_and_after(tuned.test, job.test.classes, temperature),
    }


def words(found: dict[str, Any]) -> str:
    """What calibration did, in one sentence for the reasons of a choice."""
    test = found["test"]
    if found["temperature"] == NOT_FITTED:
        ece = test["ece_before"]
        return f"not calibrated: {WHY_NOT}; expected calibration error on held-out rows {ece:.3f}"
    return (
        f"fitted on validation rows and folded into the graph; expected calibration error on held-out rows "
        f"{test['ece_before']:.3f} before, {test['ece_after']:.3f} after"
    )


def _before_and_after(logits: Logits, classes: Classes, temperature: float) -> dict[str, float]:
    figures = {}
    for name, divisor in (("before", 1.0), ("after", temperature)):
        figures[f"ece_{name}"] = expected_calibration_error(_softmax(logits / divisor), classes)
        figures[f"nll_{name}"] = negative_log_likelihood(logits, classes, divisor)
    return figures


def _softmax(logits: Logits) -> Logits:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Logits = powers / powers.sum(axis=1, keepdims=True)
    return shares
