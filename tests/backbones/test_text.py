from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, CLIPConfig, GPT2Config, LlamaConfig, T5Config, XmodConfig

from tests.backbones.families import TEXT, make
from tests.tiny_project import write_backbone
from tldeploy.backbones.network import TextNetwork, load_network
from tldeploy.backbones.text import _check_length, _sees_what_follows, load_text_backbone
from tldeploy.errors import ArtifactError, RecipeError, TldeployError
from tldeploy.recipe import Backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone")


def load(folder: Path, **settings: object) -> TldeployError:
    with pytest.raises(TldeployError) as raised:
        load_text_backbone(
            Backbone.model_validate({"source": folder.name, "max_length": 32, **settings}), folder.parent
        )
    return raised.value


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_network_that_is_no_encoder_of_one_text_is_refused(folder: Path, kind: str) -> None:
    small: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    narrow = {**small, "hidden_size": 8, "intermediate_size": 8}
    config: Any = (
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=40)
        if kind == "t5"
        else CLIPConfig(text_config=narrow, vision_config={**narrow, "image_size": 8, "patch_size": 4})
    )
    AutoModel.from_config(config).save_pretrained(folder)
    assert "is no encoder of one text" in load(folder).found


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_is_refused_by_what_its_tokens_see(folder: Path, kind: str) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GPT2Config(**sizes) if kind == "gpt2" else LlamaConfig(**sizes, intermediate_size=16)
    AutoModel.from_config(config).save_pretrained(folder)
    error = load(folder)
    assert isinstance(error, ArtifactError)
    assert f"this {kind} is a decoder" in error.found


def test_a_network_that_needs_more_than_a_text_is_refused_in_its_own_words(folder: Path) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModel.from_config(XmodConfig(**sizes, intermediate_size=16)).save_pretrained(folder)
    error = load(folder)
    assert isinstance(error, ArtifactError)
    assert "this xmod does not run on a text alone (Input language unknown." in error.found


@pytest.mark.parametrize("family", TEXT)
def test_an_encoders_tokens_see_those_after_them(family: str) -> None:
    assert _sees_what_follows(make(family))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}),
        ("config.json", {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0"}),
    ],
)
def test_a_diffusion_model_is_called_by_its_name(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / file).write_text(json.dumps(content), encoding="utf-8")
    assert "it is a checkpoint of diffusers" in load(tmp_path / "unet").found


@pytest.mark.parametrize(("kind", "longest"), [("bert", 64), ("roberta", 62), ("mpnet", 62)])
def test_positions_that_count_from_the_padding_id_are_two_fewer(kind: str, longest: int) -> None:
    config = AutoConfig.for_model(kind, max_position_embeddings=64)
    _check_length(longest, config, "load it")
    with pytest.raises(RecipeError, match=f"its positions end at {longest}"):
        _check_length(longest + 1, config, "load it")


def test_a_folder_gives_the_weights_and_the_tokenizer_in_it(folder: Path) -> None:
    backbone = load_text_backbone(Backbone(source="backbone", max_length=32), folder.parent)
    stored = load_file(folder / "model.safetensors")
    loaded = backbone.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())
    assert backbone.tokenizer_json == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert not backbone.model.training


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    error = load(folder)
    assert isinstance(error, ArtifactError)
    assert "its weights are corrupt" in error.found


def test_weights_with_nan_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder).found == f"its tensor {name} holds NaN or infinity"


def test_weights_that_lack_a_tensor_are_refused_instead_of_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 tensors are not in its weights" in load(folder).found


def test_a_length_past_the_positions_is_refused(folder: Path) -> None:
    error = load(folder, max_length=65)
    assert isinstance(error, RecipeError)
    assert error.found == "backbone.max_length is 65, its positions end at 64"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert isinstance(load(folder), ArtifactError)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "martian"}))
    assert "martian" in load(folder).found


@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff\xfe", b""])
def test_a_damaged_tokenizer_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json cannot be read" in load(folder).found


def test_a_config_of_the_wrong_type_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    assert isinstance(load(folder), ArtifactError)


def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such folder or file"):
        load_text_backbone(Backbone(source="data/minilm"), tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_network_survives_a_round_trip_and_padding_does_not_change_it(folder: Path, pooling: str) -> None:
    settings = Backbone.model_validate({"source": "backbone", "pooling": pooling, "max_length": 32})
    backbone = load_text_backbone(settings, folder.parent)
    network = TextNetwork(backbone.model, settings.pooling, classes=3, dropout=0.5).eval()
    (folder.parent / "tuned").mkdir()
    network.save(folder.parent / "tuned")
    again = load_network(folder.parent / "tuned")
    batch = {name: torch.from_numpy(values) for name, values in backbone.encoder.encode(["great", "the " * 20]).items()}
    alone = {name: torch.from_numpy(values) for name, values in backbone.encoder.encode(["great"]).items()}
    with torch.inference_mode():
        assert torch.equal(network(**batch), again(**batch))
        torch.testing.assert_close(again(**batch)[:1], again(**alone), atol=1e-6, rtol=1e-5)
