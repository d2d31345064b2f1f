"""Training that is killed and goes on: are the weights those of a training that was never broken?

    python bench/resume.py bench/results/<machine>

A tiny BERT trains with a checkpoint after every step, and is killed with SIGKILL at five random moments, for several
settings that each keep another state. Writes resume.json there: the hashes of the weights, and where the kills fell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tldeploy import environment

ROOT = Path(__file__).parent.parent
KILLS = 5
CASES = {
    "plain": [],
    "ema": ["averaging=ema"],
    "swa, early stopping": ["averaging=swa", "early_stopping=2"],
    "accumulation, balanced, gradual unfreezing": ["accumulation=2", "sampling=balanced", "gradual_unfreezing=1"],
    "bf16, cosine, layer decay": ["precision=bf16", "schedule=cosine", "layer_decay=0.8"],
}


def broken(seed: int, settings: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        script = str(ROOT / "tests" / "tuning" / "kill_trainer.py")
        command = [sys.executable, script, folder, str(KILLS), str(seed), "epochs=6", *settings]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {"settings": settings, **found, "equal": found["broken"] == found["unbroken"]}


def main(out: Path) -> None:
    cases = {}
    for seed, (name, settings) in enumerate(CASES.items()):
        cases[name] = found = broken(seed, settings)
        kills = found["killed_after_step"]
        print(f"{name}: killed after steps {kills} of {found['steps']}: {'equal' if found['equal'] else 'DIFFERENT'}")
    out.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment.describe(), "kills": KILLS, "cases": cases}
    (out / "resume.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
