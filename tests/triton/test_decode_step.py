"""The parts of the decoding step that need no server. It is imported as the server does, with a module of that name."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tldeploy.tasks import pixels
from tldeploy.tasks.pixels import ImageEncoder


def test_each_version_has_an_encoder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    from tldeploy.triton.decode_step import load_encoder

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(stream, "PNG")
    encoders = [ImageEncoder(8), ImageEncoder(12, "pad", resample="bicubic")]
    for version, encoder in enumerate(encoders):
        folder = tmp_path / str(version)
        folder.mkdir()
        shutil.copyfile(pixels.__file__, folder / "pixels.py")
        (folder / "encoder.json").write_text(json.dumps(encoder.settings), encoding="utf-8")
    for version, encoder in enumerate(encoders):
        loaded = load_encoder(tmp_path / str(version))
        assert type(loaded) is not ImageEncoder
        assert (loaded.encode([stream.getvalue()])["pixels"] == encoder.encode([stream.getvalue()])["pixels"]).all()
