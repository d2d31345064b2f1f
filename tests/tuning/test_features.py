from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_project import write_backbone
from tldeploy.backbones.network import TextNetwork
from tldeploy.backbones.text import TextBackbone, load_text_backbone
from tldeploy.errors import DataError
from tldeploy.recipe import Backbone
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.text_classification import TextExamples
from tldeploy.tuning.features import FeatureCache, extract_features, fit_head, head_logits

TEXTS = ["great camera", "awful", "the battery is plain and the screen was very good", "", "phone"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> TextBackbone:
    folder = write_backbone(tmp_path_factory.mktemp("weights") / "backbone")
    return load_text_backbone(Backbone(source="backbone", max_length=32), folder.parent)


@pytest.fixture
def network(backbone: TextBackbone) -> TextNetwork:
    torch.manual_seed(0)
    return TextNetwork(backbone.model, "mean", classes=3).eval()


def examples(encoder: TextEncoder, texts: list[str] = TEXTS) -> TextExamples:
    return TextExamples(encoder.token_ids(texts), encoder)


def test_features_come_in_the_order_of_the_texts(network: TextNetwork, backbone: TextBackbone) -> None:
    together = extract_features(network, examples(backbone.encoder), "test")
    for row, text in enumerate(TEXTS):
        alone = extract_features(network, examples(backbone.encoder, [text]), "test")
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_the_backbone_runs_once_for_the_same_rows(
    network: TextNetwork, backbone: TextBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", "weights")
    first = cache.features(network, examples(backbone.encoder), "test")
    runs: list[object] = []
    original = network.backbone.forward
    monkeypatch.setattr(network.backbone, "forward", lambda **given: runs.append(given) or original(**given))
    np.testing.assert_array_equal(cache.features(network, examples(backbone.encoder), "test"), first)
    assert not runs
    cache.features(network, examples(backbone.encoder, TEXTS[:2]), "test")
    FeatureCache(tmp_path / "cache", "other weights").features(network, examples(backbone.encoder), "test")
    assert len(runs) == 2


def test_another_tokenizer_is_other_features(network: TextNetwork, backbone: TextBackbone, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", "weights")
    first = cache.features(network, examples(backbone.encoder), "test")
    swapped = json.loads(backbone.tokenizer_json)
    vocabulary = swapped["model"]["vocab"]
    vocabulary["great"], vocabulary["awful"] = vocabulary["awful"], vocabulary["great"]
    encoder = TextEncoder(json.dumps(swapped), max_length=32, pad_id=0)
    assert not np.allclose(cache.features(network, examples(encoder), "test")[:2], first[:2])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fitted_head_separates_what_can_be_separated(
    network: TextNetwork, backbone: TextBackbone, classes: int
) -> None:
    network = TextNetwork(backbone.model, "mean", classes=classes).eval()
    draw = np.random.default_rng(0)
    truth = np.arange(300) % classes
    features = draw.normal(size=(300, 32)).astype(np.float32)
    features[np.arange(300), truth] += 6
    fit_head(network, features, truth, seed=0)
    assert (head_logits(network, features).argmax(axis=1) == truth).mean() > 0.98


def test_a_fitted_head_gives_the_probabilities_of_the_regression(network: TextNetwork, backbone: TextBackbone) -> None:
    from sklearn.linear_model import LogisticRegression

    network = TextNetwork(backbone.model, "mean", classes=2).eval()
    draw = np.random.default_rng(0)
    truth = np.arange(200) % 2
    features = draw.normal(size=(200, 32)).astype(np.float32) + truth[:, None].astype(np.float32) / 4
    c = fit_head(network, features, truth, seed=0)
    expected = LogisticRegression(C=c, max_iter=5000).fit(features, truth).predict_proba(features)
    with torch.inference_mode():
        found = torch.softmax(network.head(torch.from_numpy(features)), dim=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_class_with_one_row_cannot_be_fitted(network: TextNetwork) -> None:
    with pytest.raises(DataError, match="a class has a single training row"):
        fit_head(network, np.zeros((5, 32), dtype=np.float32), np.array([0, 0, 1, 1, 2]), seed=0)
