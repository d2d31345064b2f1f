"""Which architectures of transformers the exporter takes: each tiny, with random weights, compared with PyTorch.

    .venv/bin/python bench/families.py bench/results [text | image] [--only NAME …]

An architecture passes when its graph has the named dynamic axes, loads in onnxruntime, and answers like PyTorch, at
batches of 1 to 5 and odd lengths with padding, to TOLERANCE. What fails is listed with what the exporter said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures.families import page
from tokenizers import Tokenizer, models, pre_tokenizers

from tldeploy.artifacts import write_file
from tldeploy.backbones.network import ImageNetwork, Network, TextNetwork
from tldeploy.errors import TldeployError
from tldeploy.exporting.graph import export_graph
from tldeploy.exporting.parity import TOLERANCE, measure_parity
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.runtime.pytorch import TorchRunner
from tldeploy.tasks.classification import Classification
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.image_classification import ImageClassification
from tldeploy.tasks.pixels import ImageEncoder
from tldeploy.tasks.text_classification import TextClassification

WORDS = [f"word{number}" for number in range(40)]
LABELS = ["a", "b", "c"]
TEXT = [
    "albert", "bert", "big_bird", "camembert", "canine", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert",
    "jina_embeddings_v3", "layoutlm", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "mra", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "splinter", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso",
]  # fmt: skip
IMAGE = [
    "beit", "bit", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
    "dinov3_convnext", "dinov3_vit", "efficientnet", "focalnet", "hgnet_v2", "hiera", "ijepa", "levit",
    "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer", "pvt", "pvt_v2", "regnet", "resnet",
    "segformer", "swiftformer", "swin", "swinv2", "vit", "vit_mae", "vit_msn",
]  # fmt: skip
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "dim": 32, "n_embd": 32, "d_model": 32, "emb_dim": 32, "embedding_size": 32,
    "num_hidden_layers": 2, "n_layers": 2, "n_layer": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "n_heads": 2, "n_head": 2, "d_head": 16, "d_inner": 64, "head_dim": 16, "hidden_dim": 64, "intermediate_size": 64,
    "max_position_embeddings": 160, "image_size": 64, "block_sizes": [1, 1], "pad_token_id": 0,
    "attention_window": 8, "true_hidden_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 1,
    "entity_vocab_size": 8, "q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1,
    "intermediate_groups": 1, "output_groups": 1, "type_vocab_size": 2,
}  # fmt: skip

# What these take in another form, or do not let be set.
UNLIKE = {
    "efficientnet": ("hidden_dim",),
    "funnel": ("block_sizes", "head_dim", "num_hidden_layers"),
    "hiera": ("image_size",),
    "xlnet": ("max_position_embeddings", "head_dim"),
}


def network_of(name: str, kind: str) -> tuple[Network, Classification, list[Any]]:
    """The tiny network, its task, and rows to ask."""
    from transformers import CONFIG_MAPPING, AutoModel

    plain = CONFIG_MAPPING[name]()
    # What a hierarchical image network is made of stays as it is: its stages must fit each other.
    staged = kind == "image" and any(hasattr(plain, part) for part in ("depths", "hidden_sizes", "embed_dim"))
    taken = {key: value for key, value in SMALL.items() if hasattr(plain, key) and key not in UNLIKE.get(name, ())}
    in_windows = hasattr(plain, "window_size")  # which an image is cut into
    staged_sizes = () if in_windows else ("image_size",)
    wanted = {key: value for key, value in taken.items() if not staged or key in staged_sizes}
    config = CONFIG_MAPPING[name](**wanted)
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config, attn_implementation=None).eval()
    if kind == "image":
        side = size if isinstance(size := getattr(config, "image_size", 64), int) else size[0]
        draw = np.random.default_rng(0)
        task = ImageClassification(LABELS, ImageEncoder(image_size=side))
        normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "rescale_factor": 1 / 255, "channels": "rgb"}
        batches = [{"pixels": draw.integers(0, 256, (size, side, side, 3), dtype=np.uint8)} for size in (1, 2, 5)]
        return ImageNetwork(backbone, normalisation, len(LABELS)).eval(), task, batches
    words = {"[PAD]": 0, "[UNK]": 1} | {word: at + 2 for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = TextClassification(LABELS, TextEncoder(tokenizer.to_str(), 128, pad_id=0), Path())
    rows = [" ".join(WORDS[:length]) for length in (1, 7, 33, 40)]
    return TextNetwork(backbone, "mean", len(LABELS)).eval(), text, text.parity_batches(rows)


def spread(network: Network, batch: Mapping[str, Any]) -> None:
    """Bring the logits of this batch to a deviation of 1: probabilities that are all 0 or 1, or alike, hide much."""
    with torch.inference_mode():
        logits = network(**{name: torch.from_numpy(values) for name, values in batch.items()})
    network.temperature = float(logits.std())


def outcome(network: Network, task: Classification, batches: list[Any]) -> str:
    """`ok` and the largest difference of a probability, or why not."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.onnx"
        try:
            export_graph(network, task, graph, 20, {})
            network.save(Path(folder) / "torch")
            with contextlib.closing(OnnxRunner(graph, task)) as runner:
                parity = measure_parity(TorchRunner(Path(folder) / "torch", task), runner, batches)
        except TldeployError as error:
            return f"{error.asked}: {error.found}"
    return f"ok, {parity.max_abs_diff:.0e}" if parity.max_abs_diff <= TOLERANCE else f"off by {parity.max_abs_diff:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("kinds", nargs="*", default=["text", "image"])
    parser.add_argument("--only", nargs="*")
    asked = parser.parse_args()
    file = asked.out / "families.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for kind in asked.kinds:
        for name in asked.only or (TEXT if kind == "text" else IMAGE):
            entry: dict[str, Any] = {"kind": kind}
            try:
                network, task, batches = network_of(name, kind)
                spread(network, batches[-1])
            except Exception as error:  # noqa: BLE001  (what configurations do not like has no common kind)
                entry["outcome"] = f"not built: {' '.join(str(error).split())[:200]}"
            else:
                entry["parameters"] = sum(weights.numel() for weights in network.parameters())
                try:
                    entry["outcome"] = outcome(network, task, batches)
                except Exception as error:  # noqa: BLE001  (a fault of ours belongs in the list too)
                    entry["outcome"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            found[name] = entry
            print(name, entry, file=sys.stderr)
            write_file(file, json.dumps(found, indent=2) + "\n")
            write_file(file.with_suffix(".md"), page(found))


if __name__ == "__main__":
    main()
