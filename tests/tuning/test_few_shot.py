from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tuning.job import make_job, write_image_recipe, write_text_recipe
from tldeploy.backbones.network import load_network
from tldeploy.errors import DataError, QualityError
from tldeploy.tuning.features import extract_features, predict_logits
from tldeploy.tuning.few_shot import draw_pairs, draw_rows, few_shot, learn_from_pairs
from tldeploy.tuning.job import Job

CLASSES = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
QUICK = {"few_shot": {"rows_per_class": 6, "pairs": 3, "epochs": 3, "learning_rate": 0.003}}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(write_text_recipe(tmp_path_factory.mktemp("job") / "tiny"), **QUICK)


def test_each_row_is_paired_as_often_with_its_own_class_as_with_others() -> None:
    pairs = draw_pairs(CLASSES, each=5, seed=0)
    for row in range(len(CLASSES)):
        mine = pairs.first == row
        assert pairs.same[mine].tolist().count(True) == 5
        assert pairs.same[mine].tolist().count(False) == 5
    np.testing.assert_array_equal(pairs.same, CLASSES[pairs.first] == CLASSES[pairs.second])
    assert not (pairs.first == pairs.second).any()


def test_pairs_follow_from_the_seed() -> None:
    first, again, other = (draw_pairs(CLASSES, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.second, again.second)
    assert (first.second != other.second).any()


def test_so_many_rows_of_each_class_are_drawn(job: Job) -> None:
    part = draw_rows(job.train, 6, job.task.labels, seed=0)
    assert np.bincount(part.classes).tolist() == [6, 6, 6]
    whole = job.train.examples
    again = draw_rows(job.train, 6, job.task.labels, seed=0)
    other = draw_rows(job.train, 6, job.task.labels, seed=1)
    assert part.examples.key == again.examples.key
    assert part.examples.key not in {other.examples.key, whole.key}
    rows = [row for row in range(len(whole)) if part.examples.batch([3])["input_ids"].tolist() == [_ids(job, row)]]
    assert part.classes[3] in job.train.classes[rows]
    assert draw_rows(job.train, None, job.task.labels, seed=0) is job.train


def _ids(job: Job, row: int) -> list[int]:
    ids: list[int] = job.train.examples.batch([row])["input_ids"][0].tolist()
    return ids


def test_a_class_with_too_few_rows_is_named(job: Job) -> None:
    with pytest.raises(DataError, match=r"classes with fewer training rows: 'negative' \(\d+\), 'neutral'"):
        draw_rows(job.train, 500, job.task.labels, seed=0)
    alone = job.train._replace(classes=np.array([0, *[1] * 50, *[2] * (len(job.train.classes) - 51)]))
    with pytest.raises(DataError, match=r"learn from 2 rows of each class.*'negative' \(1\)"):
        draw_rows(alone, None, job.task.labels, seed=0)


def test_pairs_bring_rows_of_a_class_together_and_move_others_apart(job: Job) -> None:
    network = job.network.fresh_copy(0)
    part = draw_rows(job.train, 6, job.task.labels, seed=0)
    losses = learn_from_pairs(network, part.examples, draw_pairs(part.classes, 3, seed=0), job.settings)
    assert np.mean([loss for _, loss in losses[-5:]]) < 0.75 * np.mean([loss for _, loss in losses[:5]])
    features = torch.from_numpy(extract_features(network, part.examples, "after"))
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1).numpy()
    same = part.classes[:, None] == part.classes
    assert cosine[same].mean() > cosine[~same].mean() + 0.2


def test_a_handful_of_rows_teaches_more_than_chance(job: Job, tmp_path: Path) -> None:
    found = few_shot(job)
    assert found.details["rows"] == 18
    assert found.details["pairs"] == 18 * 2 * 3
    assert len(found.curves["pair loss"]) == 3 * -(-18 * 2 * 3 // job.settings.batch_size)
    assert (found.test.argmax(axis=1) == job.test.classes).mean() > 0.5
    found.network.save(tmp_path)
    loaded = load_network(tmp_path)
    np.testing.assert_allclose(predict_logits(loaded, job.test.examples, "loaded"), found.test, atol=1e-5)


def test_two_rows_a_class_are_enough_to_run(job: Job) -> None:
    fewest = make_job(job.folder, few_shot={"rows_per_class": 2, "pairs": 1})
    found = few_shot(fewest)
    assert found.details["rows"] == 6
    assert np.isfinite(found.test).all()


def test_images_are_learnt_from_pairs_with_their_running_statistics_left_alone(tmp_path: Path) -> None:
    job = make_job(write_image_recipe(tmp_path / "tiny"), **QUICK)
    found = few_shot(job)
    assert (found.test.argmax(axis=1) == job.test.classes).mean() > 0.6
    before, after = job.network.backbone.state_dict(), found.network.backbone.state_dict()
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_a_rate_that_breaks_the_weights_is_an_error(job: Job) -> None:
    network = job.network.fresh_copy(0)
    with torch.no_grad():
        network.backbone.get_parameter("encoder.layer.0.output.dense.weight").fill_(float("inf"))
    part = draw_rows(job.train, 2, job.task.labels, seed=0)
    with pytest.raises(QualityError, match=r"lower tune\.few_shot\.learning_rate"):
        learn_from_pairs(network, part.examples, draw_pairs(part.classes, 1, seed=0), job.settings)
