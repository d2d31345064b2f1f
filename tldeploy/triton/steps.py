"""Preprocessing steps: what stands before the graph of a published model, by task.

A step is one Triton model of the python backend. Its model.py, and the file with the encoder that training used, are
copied into its version folder byte for byte, so that what is served cannot differ from what was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tldeploy.errors import ArtifactError
from tldeploy.tasks.classification import ENCODER
from tldeploy.tasks.text_classification import TOKENIZER


@dataclass(frozen=True)
class Step:
    """suffix: of the Triton model's name. input: of BYTES [batch, 1], what clients send.

    program: becomes model.py. encoder: the module that it loads. files: what it needs of the export artifact.
    """

    suffix: str
    input: str
    program: Path
    encoder: Path
    files: tuple[str, ...]


def _file_of(module: str) -> Path:
    """Where a module lies; it is not imported, because the Triton room needs none of what it imports."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def step_of(task: str) -> Step:
    """Raises ArtifactError for a task that has none."""
    here = Path(__file__)
    if task == "text-classification":
        program, encoder = here.with_name("tokenize_step.py"), _file_of("tldeploy.tasks.encoding")
        return Step("tokenize", "text", program, encoder, (TOKENIZER, ENCODER))
    if task == "image-classification":
        program, encoder = here.with_name("decode_step.py"), _file_of("tldeploy.tasks.pixels")
        return Step("decode", "image", program, encoder, (ENCODER,))
    raise ArtifactError("publish the model", f"its task is {task!r}", "use a tldeploy that knows the task")
