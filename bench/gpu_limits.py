"""What a machine reaches: how fast it copies, and multiplies matrices; for bench/gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

COPY_BYTES, PRODUCT_SIZE = 2**30, 8192
# Of a processor, which is only tried out on.
FEW_BYTES, SMALL_SIZE = 2**24, 512
RUNS, WARM_UP = 12, 2


def measured(device: str) -> dict[str, float]:
    """Bytes a second of a large copy, counted both ways, and operations a second of a large matrix product of random
    numbers in each precision: the best of some runs. None of the memory that it takes is kept from the engines."""
    import torch

    found = {"bytes_per_s": _copied(device)}
    kinds = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, dtype in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        found[f"{name}_per_s"] = _multiplied(dtype, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.empty_cache()  # PyTorch would keep it for tensors to come
    return found


def _copied(device: str) -> float:
    import torch

    source = torch.empty(COPY_BYTES if device == "cuda" else FEW_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _fastest_s(lambda: target.copy_(source), device)


def _multiplied(dtype: Any, device: str) -> float:
    import torch

    size = PRODUCT_SIZE if device == "cuda" else SMALL_SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest_s(lambda: left @ right, device)


def _fastest_s(run: Callable[[], Any], device: str) -> float:
    took = [(_by_events if device == "cuda" else _by_clock)(run) for _ in range(RUNS)]
    return min(took[WARM_UP:])


def _by_events(run: Callable[[], Any]) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _by_clock(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
