"""Which requests share a run, and how their tensors become one.

Requests of equal shapes always do. Texts of different lengths do where the configuration says `merge_lengths`: rows may
then be filled up with zeros at the end, because the graph looks only where its attention mask is 1. Padding costs time
too, so a run has rows of near lengths: those handed over are sorted, and cut into runs so that all take least time.

Triton's batcher hands over only requests of equal shapes, unless an input allows "ragged batches". The native backend
then joins them into one long row, which no usual graph takes. So it is not written into config.pbtxt, but added by this
backend alone when a model is loaded (`allow_ragged`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

MERGE_LENGTHS = "merge_lengths"
# What a run costs however little is in it, in tokens: MiniLM in int8 and fp32 on one core, where 5 to 14 were as good.
# A GPU is hardly busier with padding than without: all that is handed over is one run. That was not measured.
RUN_TOKENS = {"CPU": 8, "GPU": 4096}

Feed = Mapping[str, Any]


def allow_ragged(config: dict[str, Any]) -> None:
    """Let the batcher hand over requests of any lengths together, where the configuration says that they can share."""
    with suppress(ValueError):  # raised again when the worker starts, after what the native backend would refuse
        if merges_lengths(config):
            for tensor in config["input"]:
                tensor["allow_ragged_batch"] = True


def merges_lengths(config: Mapping[str, Any]) -> bool:
    """Raises ValueError where texts of different lengths cannot share a run: where there is more than one open dim."""
    value = config.get("parameters", {}).get(MERGE_LENGTHS, {}).get("string_value", "false")
    if value != "true":
        return False
    dims = [[int(dim) for dim in tensor["dims"]] for tensor in config["input"]]
    answers = [int(dim) for tensor in config["output"] for dim in tensor["dims"]]
    if any(each != [-1] for each in dims) or -1 in answers:
        found = f"inputs have dims {dims}, and outputs {answers}"
        raise ValueError(f"parameter '{MERGE_LENGTHS}' needs inputs of [-1] and outputs of fixed dims; {found}")
    return True


def groups(feeds: Mapping[int, Feed], run_tokens: int | None) -> Iterable[list[int]]:
    """Indexes of the requests that share a run. run_tokens: what a run costs; None where lengths are not merged."""
    alike: dict[Any, list[int]] = defaultdict(list)
    texts: dict[int, list[int]] = defaultdict(list)
    for index, feed in feeds.items():
        shapes = tuple(array.shape for array in feed.values())
        if run_tokens is not None and len(set(shapes)) == 1:
            texts[shapes[0][1]].append(index)
        else:
            alike[tuple(shape[1:] for shape in shapes)].append(index)
    yield from alike.values()
    if run_tokens is not None and texts:
        lengths = sorted(texts)
        rows = [sum(len(next(iter(feeds[index].values()))) for index in texts[length]) for length in lengths]
        for run in runs(lengths, rows, run_tokens):
            yield [index for length in lengths[run] for index in texts[length]]


def runs(lengths: Sequence[int], rows: Sequence[int], run_tokens: int) -> list[slice]:
    """How to cut ascending lengths, with the rows of each, into runs: those with the fewest tokens, padding included.

    Of the best cuts of all beginnings the longest follow from the shorter ones (dynamic programming).
    """
    best, cut = [0], [0]
    for end in range(1, len(lengths) + 1):
        count, costs = 0, []
        for start in range(end - 1, -1, -1):
            count += rows[start]
            costs.append((best[start] + run_tokens + count * lengths[end - 1], start))
        cost, start = min(costs)
        best.append(cost)
        cut.append(start)
    found, end = [], len(lengths)
    while end:
        found.append(slice(cut[end], end))
        end = cut[end]
    return found[::-1]


def joined(arrays: Sequence[Any]) -> Any:
    """The rows of all, in order; where lengths differ, the shorter ones are filled with zeros at the end."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    longest = max(array.shape[1] for array in arrays)
    merged = np.zeros((sum(map(len, arrays)), longest), dtype=arrays[0].dtype)
    start = 0
    for array in arrays:
        merged[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return merged
