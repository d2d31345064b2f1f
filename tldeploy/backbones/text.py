"""Pretrained text encoders: any that transformers' AutoModel loads, from the hub or a folder. Safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.backbones import quiet_transformers
from tldeploy.errors import ArtifactError, MachineError, RecipeError
from tldeploy.recipe import Backbone
from tldeploy.tasks.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Layers that a checkpoint may leave out: no pooling of ours reads them.
UNUSED = ("pooler.",)


@dataclass(frozen=True)
class TextBackbone:
    """A loaded encoder, and the tokenizer that belongs to it (the text of its tokenizer.json)."""

    model: PreTrainedModel
    tokenizer_json: str
    encoder: TextEncoder


def load_text_backbone(settings: Backbone, recipe_folder: Path) -> TextBackbone:
    """Load an encoder in fp32 on the CPU, in evaluation mode.

    Raises MachineError when the hub cannot be reached, ArtifactError for weights that are corrupt, incomplete or not
    finite, RecipeError when max_length is more than the encoder's positions.
    """
    from transformers import AutoConfig

    quiet_transformers()
    source = _source(settings.source, recipe_folder)
    asked = f"load the backbone {settings.source}"
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.revision)
    except Exception as error:  # a config.json can be wrong in as many ways as there are architectures
        raise _not_loaded(asked, source, error) from error
    _check_length(settings.max_length, config, asked)
    tokenizer_json = _tokenizer_json(source, settings.revision, asked)
    try:
        encoder = TextEncoder(tokenizer_json, settings.max_length, pad_id=getattr(config, "pad_token_id", None) or 0)
    except Exception as error:  # tokenizers raises nothing narrower
        found = f"its tokenizer.json cannot be read ({error})"
        raise ArtifactError(asked, found, "get the file again; it is damaged or cut off") from error
    return TextBackbone(_load_weights(source, settings.revision, asked), tokenizer_json, encoder)


def _source(source: str, recipe_folder: Path) -> str:
    """The folder that the recipe names, if there is one; else the name is a hub id."""
    folder = recipe_folder / source
    if folder.is_dir():
        return str(folder)
    looks_like_path = source.startswith((".", "/", "~", "data/")) or source.count("/") > 1
    if looks_like_path:
        found = "there is no such folder"
        raise ArtifactError(f"load the backbone {source}", found, "check backbone.source; fetch first if it is fetched")
    return source


def _tokenizer_json(source: str, revision: str | None, asked: str) -> str:
    from transformers import AutoTokenizer

    own = Path(source) / "tokenizer.json"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")  # what is not UTF-8 is no tokenizer either
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, use_fast=True)
    except (OSError, ValueError) as error:
        raise _not_loaded(asked, source, error) from error
    if not tokenizer.is_fast:
        found = f"its tokenizer {type(tokenizer).__name__} has no tokenizer.json, which serving needs"
        raise ArtifactError(asked, found, "use a checkpoint with a fast tokenizer")
    return str(tokenizer.backend_tokenizer.to_str())


def _check_length(max_length: int, config: Any, asked: str) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        positions -= 2  # RoBERTa counts positions from its padding id on
    if positions is not None and 0 < positions < max_length:
        found = f"backbone.max_length is {max_length}, its positions end at {positions}"
        raise RecipeError(asked, found, f"set backbone.max_length to {positions} or less")


def _load_weights(source: str, revision: str | None, asked: str) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what a checkpoint leaves out is drawn at random: the same each time
            model, loading = AutoModel.from_pretrained(
                source, revision=revision, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except SafetensorError as error:
        fix = "the file is damaged or cut off: get it again (for fetched weights: `tldeploy fetch --force`)"
        raise ArtifactError(asked, f"its weights are corrupt ({error})", fix) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_loaded(asked, source, error) from error
    if missing := sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED)):
        found = f"{len(missing)} tensors are not in its weights, {missing[0]} first; they would be random"
        raise ArtifactError(asked, found, "use a whole checkpoint of this architecture")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(asked, f"its tensor {name} holds NaN or infinity", "use sound weights")
    model.eval()
    return model  # type: ignore[no-any-return]  # from_pretrained is typed as a tuple of Any


def _not_loaded(asked: str, source: str, error: Exception) -> Exception:
    reason = " ".join(str(error).split())[:300]
    if Path(source).is_dir():
        fix = "give a folder with config.json, model.safetensors and tokenizer.json"
        return ArtifactError(asked, reason, fix)
    fix = "check the name and the network, or download it and set backbone.source to its folder"
    return MachineError(asked, f"it is no folder, and the hub gave: {reason}", fix)
