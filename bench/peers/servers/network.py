"""The tuned network as transformers knows it, in one folder that `from_pretrained` reads.

BertForSequenceClassification sends the first token through a pooler of its own; the tuned network takes the mean over
all tokens. So it needs a class, of the few lines that a user writes for it; the weights are the same. Images need none:
ResNetForImageClassification is a backbone, its mean over space, and a linear head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, BertModel, BertPreTrainedModel, PreTrainedModel, ResNetForImageClassification
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooledBert(BertPreTrainedModel):
    """input_ids and attention_mask, int64 [batch, sequence] each, to logits, float32 [batch, classes]."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **unused: Any) -> SequenceClassifierOutput:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return SequenceClassifierOutput(logits=self.classifier(mean))


def load(folder: Path) -> PreTrainedModel:
    is_text = AutoConfig.from_pretrained(folder).model_type == "bert"
    kind = MeanPooledBert if is_text else ResNetForImageClassification
    network: PreTrainedModel = kind.from_pretrained(folder).eval()
    return network
