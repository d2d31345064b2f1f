"""How large the installed packages are of which a server has loaded anything, once it has answered.

    python loaded.py MODULES [FOLDER ENGINE ROW]

It imports the modules (with commas between), lets the engine answer the row in the file ROW, and prints the bytes of
each package.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path


def main(modules: str, *answering: str) -> None:
    for module in modules.split(","):
        importlib.import_module(module)
    if answering:
        from models import ENGINES

        folder, engine, row = answering
        given = Path(row).read_bytes()
        ENGINES[engine](Path(folder))([given.decode() if (Path(folder) / "tokenizer.json").exists() else given])
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    loaded, found = {file for file in files if file}, {}
    for package in metadata.distributions():
        own = {str(package.locate_file(file)) for file in package.files or []}
        if own & loaded:
            found[package.metadata["Name"]] = sum(Path(file).stat().st_size for file in own if Path(file).exists())
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
