"""Continued pretraining: the encoder goes on with what it was pretrained by, on texts of both domains, then is tuned.

1. The checkpoint has no head for masked words, so one is added, tied to the word embeddings, and learns alone at first:
   a random head would otherwise unteach the encoder.
2. Encoder and head learn together to find masked tokens (Devlin et al., BERT, 2019), without a label.
3. The encoder is fine-tuned on the labelled source rows, as it would have been without all this.

Source: Gururangan et al., Don't Stop Pretraining: Adapt Language Models to Domains and Tasks, ACL 2020.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tldeploy.backbones.network import Network
from tldeploy.errors import IncapableError
from tldeploy.tasks.classification import Examples
from tldeploy.tasks.text_classification import TextClassification, TextExamples
from tldeploy.tuning.adaptation.joint import on_device, steps_of, train_jointly
from tldeploy.tuning.device import device
from tldeploy.tuning.fine_tuning import fine_tuning
from tldeploy.tuning.job import Job, Tuned

MASKED = 0.15
AS_MASK, AS_ANY = 0.8, 0.1  # of the masked tokens; the rest are left as they are
IGNORED = -100
HEAD_RATE = 1e-3
RATE_SHARE = 0.5  # of tune.learning_rate


class MaskedWords(nn.Module):
    """BERT's head for masked words: features of the tokens, float [tokens, width], to logits [tokens, vocabulary]."""

    def __init__(self, embeddings: nn.Embedding) -> None:
        super().__init__()
        width = embeddings.embedding_dim
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self._tied = [embeddings]  # in a list, so that it is not a second owner of the weights

    def forward(self, hidden: Tensor) -> Tensor:
        vectors = self.norm(nn.functional.gelu(self.dense(hidden)))
        return nn.functional.linear(vectors, self._tied[0].weight, self.bias)


def pretraining(job: Job, target: Examples) -> Tuned:
    """Raises IncapableError for images, and for a tokenizer without a mask token."""
    task, source = job.task, job.train.examples
    asked, fix = "go on with pretraining", "take pretraining out of adapt.methods"
    if not (
        isinstance(task, TextClassification) and isinstance(source, TextExamples) and isinstance(target, TextExamples)
    ):
        raise IncapableError(asked, "it is masked words that are learnt, and the rows are images", fix)
    mask = task.token_id("[MASK]", "<mask>")
    if mask is None:
        raise IncapableError(asked, "the tokenizer has no mask token", fix)
    texts = TextExamples([*source.ids, *target.ids], source.encoder)
    network = job.network.fresh_copy(job.settings.seed)
    network.to(device())
    details = _learn_words(network, texts, mask, job)
    found = fine_tuning(replace(job, network=network.cpu()))
    return replace(found, details={**found.details, **details})


def _learn_words(network: Network, texts: TextExamples, mask: int, job: Job) -> dict[str, float]:
    """In place. The loss of each stage: a mean over its steps, in nats a masked token."""
    embeddings = network.backbone.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        found = f"the encoder's first layer is {type(embeddings).__name__}, not a table of word embeddings"
        raise IncapableError("go on with pretraining", found, "take pretraining out of adapt.methods")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.settings.seed)
        head = MaskedWords(embeddings).to(next(network.parameters()).device)
    draw = np.random.default_rng([job.settings.seed, 2])

    def loss(rows: list[int], _: list[int], progress: float) -> Tensor:
        batch = texts.batch(rows)
        batch["input_ids"], wanted = mask_tokens(
            batch["input_ids"], batch["attention_mask"], mask, embeddings.num_embeddings, draw
        )
        hidden: Tensor = network.backbone(**on_device(network, batch)).last_hidden_state
        truth = torch.from_numpy(wanted).to(hidden.device)
        guessed: Tensor = head(hidden[truth != IGNORED])
        # Rows of special tokens alone have nothing to guess: a mean over nothing is not a number, a sum is 0.
        return nn.functional.cross_entropy(guessed, truth[truth != IGNORED]) if len(guessed) else guessed.sum()

    def learn(epochs: int, rate: float, what: str) -> float:
        settings = job.settings.model_copy(update={"epochs": epochs})
        steps = steps_of(texts, settings)
        told: dict[str, Any] = train_jointly(network, settings, texts, texts, steps, rate, loss, what, beside=[head])
        return float(told["mean_loss"])

    network.requires_grad_(False)
    warm = learn(1, HEAD_RATE, "a head for masked words")
    network.requires_grad_(True)
    whole = learn(job.settings.epochs, RATE_SHARE * job.settings.learning_rate, "masked words")
    return {"masked_words_loss_head": warm, "masked_words_loss": whole}


def mask_tokens(
    ids: NDArray[np.int64], attention: NDArray[np.int64], mask: int, vocabulary: int, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids with MASKED of the tokens hidden, and what they were, IGNORED elsewhere; int64 [rows, sequence] each.

    The first and the last token of a row, most tokenizers' own, are never hidden. At least one token of a batch is,
    if it has any other.
    """
    inside = attention.astype(bool)
    inside[:, 0] = False
    inside[np.arange(len(ids)), attention.sum(axis=1) - 1] = False
    chance = np.where(inside, draw.random(ids.shape), 1.0)
    hidden = chance < max(MASKED, float(np.nextafter(chance.min(), 1))) if inside.any() else inside
    wanted = np.where(hidden, ids, IGNORED)
    kind = draw.random(ids.shape)
    masked = np.where(hidden & (kind < AS_MASK), mask, ids)
    anything = draw.integers(0, vocabulary, ids.shape)
    return np.where(hidden & (kind >= AS_MASK) & (kind < AS_MASK + AS_ANY), anything, masked), wanted
