"""Rows of one length, for comparison with tables that were made with one; the answers to them mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tldeploy.errors import DataError


def of_length(texts: Sequence[str], tokens: int, lengths: Callable[[Sequence[str]], Sequence[int]]) -> list[str]:
    """Each text cut, or repeated, until it has exactly so many tokens, those that the tokenizer adds included.

    lengths: tokens of each text. A text whose words do not add up is filled with its own short words; one that cannot
    be is left out. Raises DataError when none is left.
    """
    found = [made for text in texts if (made := _one(text.split(), tokens, lengths)) is not None]
    if not found:
        fix = "choose a length of at most backbone.max_length, and more than the tokens that every text gets"
        raise DataError(f"make texts of {tokens} tokens", "no text can be cut or repeated to that length", fix)
    return found


def _one(words: list[str], tokens: int, lengths: Callable[[Sequence[str]], Sequence[int]]) -> str | None:
    """Bisection over the number of words, since a text grows with each; then what is missing, word by word."""
    repeated = words * -(-tokens // max(len(words), 1))
    low, high = 0, len(repeated)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if lengths([" ".join(repeated[:middle])])[0] <= tokens else (low, middle - 1)
    text = " ".join(repeated[:low])
    while (missing := tokens - lengths([text])[0]) > 0:
        longer = [f"{text} {word}".strip() for word in dict.fromkeys(words)]
        sizes = zip(lengths(longer), longer, strict=True)
        fitting = [found for found in sizes if tokens - missing < found[0] <= tokens]
        if not fitting:
            return None
        text = max(fitting)[1]
    return text or None
