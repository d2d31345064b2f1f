"""Experiment trackers, fed by transformers' own callbacks: TensorBoard, MLflow. What they write stays here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from tldeploy.errors import MachineError


def callbacks(trackers: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """A callback for each tracker, which writes below `folder`. Raises MachineError for a package that is missing."""
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            found = f"tune.trackers names {tracker}, and its package is not installed"
            raise MachineError("track training", found, f"pip install {tracker}")
    watchers: list[TrainerCallback] = []
    if "tensorboard" in trackers:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        watchers.append(TensorBoardCallback(SummaryWriter(log_dir=str(folder))))  # type: ignore[no-untyped-call]
    if "mlflow" in trackers:
        from transformers.integrations.integration_utils import MLflowCallback

        folder.mkdir(parents=True, exist_ok=True)
        # One database for all methods: the variable is read once, and may be the user's own.
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}")
        watchers.append(MLflowCallback())  # type: ignore[no-untyped-call]
    return watchers
