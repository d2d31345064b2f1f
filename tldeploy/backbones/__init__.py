"""Backbones: where pretrained weights come from, and the networks that are built on them."""


def quiet_transformers() -> None:
    """transformers draws bars and prints load reports of its own; ours are the only ones, and we check what loaded."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
