"""A model behind PyTriton: NVIDIA's own way from a Python function to a Triton server, the very one that tldeploy runs.

    python with_pytriton.py FOLDER ENGINE HTTP_PORT GRPC_PORT METRICS_PORT

The function takes raw rows, tokenizes or decodes them, and answers a whole batch; Triton's dynamic batcher makes it.
Left to tune: a queue delay, several instances of the function with fewer threads each, sorting a batch by length.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from models import ENGINES


def serve(folder: Path, engine: str, http_port: int, grpc_port: int, metrics_port: int) -> None:
    predict = ENGINES[engine](folder)
    is_text = (folder / "tokenizer.json").exists()

    @batch
    def infer(row: Any) -> list[Any]:
        rows = [cell.decode() if is_text else cell for cell in row[:, 0]]
        return [np.array(predict(rows), dtype=np.float32)]

    local = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "127.0.0.1"}
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    with Triton(config=TritonConfig(**local, **ports)) as triton:
        triton.bind(
            model_name="m",
            infer_func=infer,
            inputs=[Tensor(name="row", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
