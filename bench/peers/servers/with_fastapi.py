"""A model behind FastAPI and uvicorn, one process: what most people write first.

    python with_fastapi.py FOLDER ENGINE PORT

Texts come as {"text": ...}, images as the raw body. Plain `def` endpoints run in FastAPI's pool of threads, so that the
event loop goes on answering; one lock keeps those threads from running the model against one another, each of which
would take all cores. uvicorn has its fast parts (uvloop, httptools) and no access log.
Left to tune: more processes with fewer threads each, which take the memory once more; merging requests by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from models import ENGINES, labels


class Text(BaseModel):
    text: str


class Answer(BaseModel):
    label: str
    probabilities: list[float]


def application(folder: Path, engine: str) -> FastAPI:
    app, predict, names, alone = FastAPI(), ENGINES[engine](folder), labels(folder), Lock()

    def answer(row: Any) -> Answer:
        with alone:
            probabilities = predict([row])[0]
        return Answer(label=names[probabilities.index(max(probabilities))], probabilities=probabilities)

    @app.post("/text")
    def text(row: Text) -> Answer:
        return answer(row.text)

    @app.post("/image")
    async def image(request: Request) -> Answer:
        return await run_in_threadpool(answer, await request.body())

    return app


if __name__ == "__main__":
    served = application(Path(sys.argv[1]), sys.argv[2])
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", access_log=False)
