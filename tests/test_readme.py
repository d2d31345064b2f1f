from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tldeploy import errors
from tldeploy.cli import app
from tldeploy.recipe import Recipe, Section

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("writing", ["readme.py", "replicas.py"])
def test_the_figures_are_the_recorded_ones(writing: str) -> None:
    script = ROOT / "bench" / writing
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_verb_is_listed() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", README, flags=re.MULTILINE))
    assert listed >= set(app.commands)


def test_every_exit_code_is_listed() -> None:
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    codes = {found.exit_code for found in classes if issubclass(found, errors.TldeployError)}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert listed == codes | {0, errors.INTERRUPTED}


def test_every_section_of_a_recipe_is_described() -> None:
    fields = Recipe.model_fields
    sections = [name for name, field in fields.items() if isinstance(field.annotation, type)]
    described = [name for name in sections if issubclass(fields[name].annotation, Section)]  # type: ignore[arg-type]
    assert described == ["data", "backbone", "tune", "export", "deploy", "bench"]
    assert all(f"`{name}." in README for name in described)


def test_the_table_of_replicas_follows_from_the_recorded_figures() -> None:
    recorded = json.loads((ROOT / "bench" / "results" / "epyc-avx2-2-cores" / "review-sentiment.json").read_text())
    (engine,) = (engine for engine in recorded["engines"] if engine["name"] == "triton http")
    rows = []
    for clients, loop in engine["closed_loop"].items():
        slowest = min(loop["rounds_per_s"])
        replicas = math.ceil(1000 / (0.6 * slowest))
        rates = f"{engine['throughput_per_s'][clients]:.0f} | {slowest:.0f}"
        rows.append(f"| {clients} | {rates} | {loop['p99_ms']:.1f} | {0.6 * slowest:.0f} | {replicas} + 1 |")
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in text
