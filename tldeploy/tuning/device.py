"""Where networks are trained and run while tuning."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """The GPU, if PyTorch has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
