"""The peers' Python environments, made from PyPI in the cache folder."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tldeploy.triton.home import cache_folder

OURS = ("torch", "transformers", "tokenizers", "pillow")
PACKAGES = {
    "fastapi": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
    "pytriton": ("nvidia-pytriton==0.7.0",),
}


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made on the first call: the packages as our own environment has them.

    By hand: python -m venv FOLDER && FOLDER/bin/pip install PACKAGES.
    """
    folder = cache_folder() / "peers" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        pins = [f"{package}=={metadata.version(package).partition('+')[0]}" for package in OURS]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name], *pins, _runtime()]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return python


def libraries_of(python: Path) -> str:
    """The folder of its libpython."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _runtime() -> str:
    """onnxruntime as we have it, but the build for CPUs, which is a tenth of the other's size."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"onnxruntime=={metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise SystemExit("onnxruntime is not installed")
