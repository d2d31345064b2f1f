"""A backbone for texts: what is known of it before it is loaded, and the settings that follow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tldeploy.artifacts import Choice
from tldeploy.data.profile import Lengths
from tldeploy.data.rows import Splits
from tldeploy.draft.rows import Classes
from tldeploy.draft.source import is_on_hub, read_config
from tldeploy.draft.stages import budget, methods, rhythm, weights
from tldeploy.draft.writing import relative
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.tasks.encoding import TextEncoder

TOKENS_A_WORD = 1.4
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
MEASURED_TEXTS = 20_000
SHORTEST, LONGEST = 16, 512
NARROW = 512  # hidden units up to which an encoder stands, and needs, larger steps
FIX = "give a folder with config.json, model.safetensors and tokenizer.json"


@dataclass(frozen=True)
class TextBackbone:
    """Of one on the hub, nothing is known but its name."""

    source: str
    is_local: bool = False
    positions: int | None = None
    hidden: int | None = None
    encoder: TextEncoder | None = None

    @classmethod
    def look_at(cls, backbone: str, recipe_folder: Path) -> TextBackbone:
        """Raises UsageError for what is neither a folder nor a name, ArtifactError for a folder that cannot be used."""
        asked = f"use the backbone {backbone}"
        folder = Path(backbone).expanduser()
        if not folder.is_dir():
            if not is_on_hub(backbone):
                found = "it is no folder, and no name that the hub could have"
                fix = "give a hub id such as bert-base-uncased, or a folder with config.json and model.safetensors"
                raise UsageError(asked, found, fix)
            return cls(backbone)
        config = read_config(folder, asked, FIX)
        if "num_channels" in config and "vocab_size" not in config:
            found = f"it reads images ({config.get('model_type')}), and the rows are texts"
            raise ArtifactError(asked, found, f"{FIX}; if the rows are images, name their column with --image")
        positions, hidden = config.get("max_position_embeddings"), config.get("hidden_size") or config.get("dim")
        encoder = None
        if (tokenizer := folder / "tokenizer.json").is_file():
            try:
                encoder = TextEncoder(tokenizer.read_text(encoding="utf-8"), max_length=2**31, pad_id=0)
            except Exception as error:  # what tokenizers raises is no subclass
                raise ArtifactError(asked, f"its tokenizer.json cannot be read ({error})", FIX) from error
        if positions and config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}:
            positions -= 2  # RoBERTa counts positions from its padding id on
        return cls(relative(folder.resolve(), recipe_folder), True, positions, hidden, encoder)

    def settings(self, splits: Splits) -> list[Choice]:
        return [*self._backbone(splits), *self._tune(Classes.of(splits)), budget()]

    def _backbone(self, splits: Splits) -> list[Choice]:
        where = "a folder on this machine." if self.is_local else "a name on the hub; loaded at the first run."
        texts = [*splits.train.inputs, *splits.validation.inputs, *splits.test.inputs]
        step = -(-len(texts) // MEASURED_TEXTS)  # evenly, because files are often sorted
        if self.encoder:
            unit, lengths = "tokens", [len(ids) for ids in self.encoder.token_ids(texts[::step])]
        else:
            # Two more for the special tokens at both ends.
            unit = f"tokens, estimated as {TOKENS_A_WORD} a word"
            lengths = [round(TOKENS_A_WORD * len(WORD.findall(text))) + 2 for text in texts[::step]]
        found = Lengths.of(lengths)
        measured = f" (measured on {len(lengths):,} of them)" if step > 1 else ""
        limit = min(LONGEST, max(self.positions or 0, 0) or LONGEST)
        length = min(max(SHORTEST, -(-found.p99 // 8) * 8), limit)
        reason = (
            f"99% of the texts{measured} have at most {found.p99:,} {unit}; the median has {found.median:,}, the "
            f"longest {found.longest:,}."
        )
        if found.p99 > limit:
            reason += f" The limit is {limit}: longer texts are cut off there."
        pooling = "the mean over a text's tokens suits most encoders; `cls` takes the first token's vector alone."
        return [
            Choice(about="backbone.source", value=self.source, reason=where),
            Choice(about="backbone.pooling", value="mean", reason=pooling),
            Choice(about="backbone.max_length", value=length, reason=reason),
        ]

    def _tune(self, classes: Classes) -> list[Choice]:
        sizes = ((500, 8, 8), (2_000, 4, 16), (20_000, 3, 16), (200_000, 2, 32))
        epochs, batch = next(((epochs, batch) for below, epochs, batch in sizes if classes.rows < below), (1, 64))
        if self.hidden and self.hidden <= NARROW:
            rate, why = 1e-4, f"a narrow encoder ({self.hidden} hidden units) takes larger steps than BERT-base."
        else:
            rate, why = (
                (3e-5, "usual for encoders of BERT-base's size") if batch < 32 else (5e-5, "larger batches bear it")
            )
            why += "; lower it if training diverges."
        return [
            *methods(classes),
            *rhythm(classes.rows, epochs, batch),
            Choice(about="tune.learning_rate", value=rate, reason=why),
            *weights(classes),
        ]
