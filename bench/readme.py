"""Write every figure that the READMEs and pages of bench/results show of a recorded run, or say what does not match.

.venv/bin/python bench/readme.py [--check]

What stands between `<!-- figures: NAME -->` and its end is written. Sentences of prose that tell a record's figures are
not: those that a README lacks are printed, to be corrected by hand. With --check nothing is written. Exits with 1 where
anything did not match (with --check) or is still to be corrected.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import (
    adaptation,
    capacity,
    conformance,
    cost,
    export,
    families,
    fitting,
    fuzz,
    gate,
    gpu,
    peers,
    prose,
    publishing,
    run,
    scale,
    serving,
    transfer,
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
MACHINE, OTHER = "epyc-avx2-2-cores", "xeon-amx-2-cores"
RECORDED = RESULTS / MACHINE / "review-sentiment.json"


@functools.cache
def record(file: str) -> Any:
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def here(name: str) -> Any:
    return record(f"{MACHINE}/{name}.json")


# What stands between the markers of each file.
FIGURES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "run": lambda: run.figures(here("review-sentiment")),
        "export": lambda: export.summary(here("export")),
    },
    "bench/README.md": {
        "serving": lambda: serving.summary(here("serving")),
        "engines": lambda: run.all_engines(here("review-sentiment-engines")),
        "peers of text": lambda: peers.summary(here("peers"), "text"),
        "peers of images": lambda: peers.summary(here("peers"), "images"),
        "who is ahead": lambda: peers.standing(here("peers")),
        "generators": lambda: peers.generator_summary(here("peers")),
        "replicas by hand": lambda: capacity.example(here("review-sentiment")),
        "replicas": lambda: capacity.table(RECORDED),
        "scale": lambda: scale.overview(here("scale")),
        "gate": lambda: gate.summary(record("gate.json")),
    },
}

# What the prose of each file has to say, whatever its lines are broken at.
SAID: dict[str, list[Callable[[], list[str]]]] = {
    "README.md": [
        lambda: prose.families(record("families.json")),
        lambda: prose.conformance(record("conformance.json")),
        lambda: prose.publishing(here("publishing")),
        lambda: prose.fuzz(here("fuzz")),
        lambda: prose.fitting(here("fitting")),
        lambda: prose.adaptation(record(f"{OTHER}/adaptation.json"), here("adaptation")),
        lambda: gate.said_outside(record("gate.json")),
    ],
    "bench/README.md": [
        lambda: prose.fuzz_memory(here("fuzz")),
        lambda: export.said(here("export")),
        lambda: serving.said(here("serving")),
        lambda: run.said(here("review-sentiment-engines")),
        lambda: capacity.said(here("review-sentiment")),
        lambda: scale.said(here("scale")),
        lambda: gate.said(record("gate.json")),
    ],
}

# What shows a whole record, by the record's name: its page lies beside it, whatever machine it is of.
SHOWN: dict[str, Callable[[Any], str]] = {
    "adaptation": adaptation.page,
    "conformance": conformance.page,
    "cost": cost.page,
    "export": export.page,
    "families": families.page,
    "fitting": fitting.page,
    "fuzz": fuzz.page,
    "gate": gate.page,
    "gpu": gpu.page,
    "peers": peers.page,
    "publishing": publishing.page,
    "scale": scale.page,
    "serving": serving.page,
}


def shown(file: Path) -> str:
    return SHOWN[file.stem](record(str(file.relative_to(RESULTS))))


def transfers() -> list[Any]:
    """Those of all recipes: they share a page."""
    return [record(f"{OTHER}/{file.name}") for file in sorted((RESULTS / OTHER).glob("transfer.*.json"))]


# Pages that are a record's and nothing else.
PAGES: dict[str, Callable[[], str]] = {
    str(file.with_suffix(".md").relative_to(ROOT)): functools.partial(shown, file)
    for file in sorted(RESULTS.rglob("*.json"))
    if file.stem in SHOWN
} | {
    f"bench/results/{OTHER}/transfer.md": lambda: transfer.page(transfers()),
    f"bench/results/{OTHER}/transfer.svg": lambda: transfer.plot(transfers()),
}


def filled(text: str, figures: dict[str, Callable[[], str]]) -> str:
    """The text with what its records give between the markers."""
    for name, written in figures.items():
        begin, end = f"<!-- figures: {name} -->\n", "<!-- end of figures -->\n"
        start = text.index(begin) + len(begin)
        text = text[:start] + written() + text[text.index(end, start) :]
    return text


def read(place: str) -> str:
    return (ROOT / place).read_text(encoding="utf-8")


def main(check: bool) -> int:
    wanted = {place: filled(read(place), of) for place, of in FIGURES.items()}
    wanted |= {place: written() for place, written in PAGES.items()}
    behind = [place for place, text in wanted.items() if not (ROOT / place).exists() or read(place) != text]
    for place in behind:
        if check:
            print(f"{place}: not the recorded figures; run python bench/readme.py", file=sys.stderr)
        else:
            (ROOT / place).write_text(wanted[place], encoding="utf-8")
    missing = [
        (place, sentence)
        for place, sayings in SAID.items()
        for said in sayings
        for sentence in said()
        if sentence not in " ".join(wanted[place].split())
    ]
    for place, sentence in missing:
        print(f"{place} does not say what is recorded: {sentence!r}", file=sys.stderr)
    return int(bool(missing or (check and behind)))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
