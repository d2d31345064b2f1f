"""Pretrained text encoders: any that transformers' AutoModel loads, from the hub or a folder. Safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.backbones.checkpoints import find_source, load_config, load_weights, not_loaded
from tldeploy.errors import ArtifactError, RecipeError
from tldeploy.recipe import Backbone
from tldeploy.tasks.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# RoBERTa and what is built like it count positions from the padding id on, so that two of them are never reached.
COUNTED_FROM_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
ROUNDING = 1e-5  # relative, of floats that are summed in another order


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
    source = find_source(settings.source, recipe_folder)
    asked = f"load the backbone {settings.source}"
    config = load_config(source, settings.revision, asked)
    _check_length(settings.max_length, config, asked)
    tokenizer_json = _tokenizer_json(source, settings.revision, asked)
    try:
        encoder = TextEncoder(tokenizer_json, settings.max_length, pad_id=getattr(config, "pad_token_id", None) or 0)
    except Exception as error:  # tokenizers raises nothing narrower
        found = f"its tokenizer.json cannot be read ({error})"
        raise ArtifactError(asked, found, "get the file again; it is damaged or cut off") from error
    model = load_weights(source, settings.revision, asked)
    fix = "use an encoder, such as BERT, RoBERTa or DeBERTa"
    if model.main_input_name != "input_ids" or config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        raise ArtifactError(asked, f"a {config.model_type} is no encoder of one text to one vector a token", fix)
    try:
        sees_what_follows = _sees_what_follows(model)
    except Exception as error:  # what an architecture needs besides a text, it says in words of its own
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(asked, f"this {config.model_type} does not run on a text alone ({reason})", fix) from error
    if not sees_what_follows:
        found = f"this {config.model_type} is a decoder: a token's vector knows only of the tokens before it"
        raise ArtifactError(asked, found, fix)
    return TextBackbone(model, tokenizer_json, encoder)


def _sees_what_follows(model: PreTrainedModel) -> bool:
    """Whether the first token's vector depends on the last token, seen by running the network on two short texts."""
    import torch

    texts = torch.tensor([[7, 7, 7, 7, 7, 7], [7, 7, 7, 7, 7, 8]])
    with torch.no_grad():
        first = model(input_ids=texts, attention_mask=torch.ones_like(texts)).last_hidden_state[:, 0]
    return bool((first[0] - first[1]).abs().max() > ROUNDING * first.abs().max())


def _tokenizer_json(source: str, revision: str | None, asked: str) -> str:
    from transformers import AutoTokenizer

    own = Path(source) / "tokenizer.json"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")  # what is not UTF-8 is no tokenizer either
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, use_fast=True)
    except (OSError, ValueError) as error:
        raise not_loaded(asked, source, error) from error
    if not tokenizer.is_fast:
        found = f"its tokenizer {type(tokenizer).__name__} has no tokenizer.json, which serving needs"
        raise ArtifactError(asked, found, "use a checkpoint with a fast tokenizer")
    return str(tokenizer.backend_tokenizer.to_str())


def _check_length(max_length: int, config: Any, asked: str) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in COUNTED_FROM_PADDING:
        positions -= 2
    if positions is not None and 0 < positions < max_length:
        found = f"backbone.max_length is {max_length}, its positions end at {positions}"
        raise RecipeError(asked, found, f"set backbone.max_length to {positions} or less")
