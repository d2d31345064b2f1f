from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tuning.adaptation.domains import make_job, write_domains
from tldeploy.tuning.adaptation.pretraining import AS_MASK, IGNORED, MASKED, mask_tokens, pretraining

MASK = 4


def test_what_is_masked_is_wanted_and_the_rest_is_left() -> None:
    ids = np.random.default_rng(0).integers(10, 60, (40, 50))
    attention = np.ones_like(ids)
    attention[:20, 30:] = 0
    masked, wanted = mask_tokens(ids, attention, MASK, 60, np.random.default_rng(1))
    hidden = wanted != IGNORED
    np.testing.assert_array_equal(wanted[hidden], ids[hidden])
    np.testing.assert_array_equal(masked[~hidden], ids[~hidden])
    assert not hidden[:, 0].any()
    assert not hidden[:20, 29:].any()
    assert not hidden[20:, 49].any()
    assert hidden.sum() / (20 * 28 + 20 * 48) == pytest.approx(MASKED, abs=0.03)
    assert (masked[hidden] == MASK).mean() == pytest.approx(AS_MASK, abs=0.07)


def test_a_short_batch_has_something_to_find() -> None:
    ids = np.array([[2, 11, 3]])
    for seed in range(20):
        _, wanted = mask_tokens(ids, np.ones_like(ids), MASK, 60, np.random.default_rng(seed))
        assert wanted.tolist() == [[IGNORED, 11, IGNORED]]


def test_the_encoder_learns_masked_words_of_both_domains_before_it_is_tuned(tmp_path: Path) -> None:
    folder = write_domains(tmp_path / "moved")
    file = folder / "backbone" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["[MASK]"] = words.pop("zoom")
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    _, job, target = make_job(folder, tmp_path)
    job = replace(job, settings=job.settings.model_copy(update={"epochs": 2}))
    found = pretraining(job, job.task.examples(target.unlabelled))
    assert found.details["masked_words_loss"] < found.details["masked_words_loss_head"]
    assert found.details["masked_words_loss"] < np.log(len(words))
    assert found.test.shape == (200, 3)
