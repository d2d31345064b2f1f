"""Backbones: where pretrained weights come from, and the networks that are built on them."""


def hide_transformers_bars() -> None:
    """transformers draws its own bars for loading and saving, on a terminal or not; ours are the only ones."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
