"""A model without a server, for a script that has its rows at hand: one caller, one row after the other.

    python in_process.py FOLDER ENGINE

It answers each line `{"rows": [...], "seconds": S}` with when each request began and ended, for at least so long, and
the probabilities of the rows that it came to; images are given as Latin-1. `"seconds": null` takes every row once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from models import ENGINES


def main(folder: Path, engine: str) -> None:
    predict = ENGINES[engine](folder)
    is_text = (folder / "tokenizer.json").exists()
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rows = asked["rows"] if is_text else [row.encode("latin-1") for row in asked["rows"]]
        times, answers, at = [], [], 0
        start = now = time.perf_counter()
        while (at < len(rows)) if asked["seconds"] is None else (now < start + asked["seconds"]):
            begun = now
            answers.append(predict([rows[at % len(rows)]])[0])
            now = time.perf_counter()
            times.append((begun - start, now - start))
            at += 1
        print(json.dumps({"times": times, "answers": answers if asked["seconds"] is None else []}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
