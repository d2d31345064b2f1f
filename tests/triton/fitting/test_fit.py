"""Fitting with the real server, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.tiny import answer, write_export
from tldeploy import artifacts
from tldeploy.artifacts import Manifest
from tldeploy.recipe import Cuda, Deploy
from tldeploy.triton.fitting.arena import opened
from tldeploy.triton.fitting.fit import KIND, SAMPLES, _good_for, fit, kept
from tldeploy.triton.fitting.goals import Goal, Running
from tldeploy.triton.repository import decided

TEXTS = ["great camera", "awful battery", "the phone is not very good", "bad " * 20]
OTHER = Running(instances=2, threads=1, step_instances=1, queue_delay_us=500, preferred_batch_sizes=(4, 8))
DEFAULT = Deploy(max_batch_size=8)


def test_the_server_serves_each_configuration_in_turn_and_answers_alike(tiny_export: Path, quick: None) -> None:
    expected = answer(tiny_export, TEXTS)
    with opened(tiny_export, DEFAULT, TEXTS, most_clients=4) as arena:
        for running in (OTHER, OTHER, Running.of(DEFAULT)):
            arena.serve(running)
            turn = arena.load(clients=4, seconds=0.2)
            assert len(turn.latency_ms) >= 4
            assert (turn.latency_ms > 0).all()
            assert turn.rows_per_s > 0
            assert turn.client_share > 0
            for text, probabilities in zip(TEXTS, expected, strict=True):
                np.testing.assert_allclose(arena.client.predict([text])[0], probabilities, atol=1e-6)
            with InferenceServerClient(arena.client.url) as server:
                graph, step = map(server.get_model_config, ("fitted.graph", "fitted.tokenize"))
            assert graph["instance_group"][0]["count"] == running.instances
            assert step["instance_group"][0]["count"] == (running.step_instances or running.instances)
            assert graph.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value") == (
                None if running.threads is None else str(running.threads)
            )
            batching = graph["dynamic_batching"]
            assert int(batching["max_queue_delay_microseconds"]) == running.queue_delay_us
            # The server takes max_batch_size for it where there is none.
            assert batching["preferred_batch_size"] == (list(running.preferred_batch_sizes) or [8])
    assert [running for running, _ in arena.measured] == [OTHER, OTHER, Running.of(DEFAULT)]


@pytest.fixture(scope="module")
def serving(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "serving"
    about = {"about_rows": "four texts", "name": "tiny", "inputs": "0" * 64}
    with pytest.MonkeyPatch.context() as patch:  # as `quick` does for single tests
        patch.setattr("tldeploy.triton.server.merges_lengths", lambda repository: False)
        fit(tiny_export, TEXTS, DEFAULT, Goal("latency"), most_clients=2, seconds=3, out=folder, **about)
    return folder


def test_what_is_found_is_an_artifact_with_every_candidate_and_the_raw_samples(serving: Path) -> None:
    manifest = artifacts.load(serving, "serving")
    record = manifest.details["tuning"]
    assert record["goal"] == {"aim": "latency", "p99_ms": None}
    assert record["rows"] == "four texts"
    assert record["candidates"][0]["settings"] == Running.of(DEFAULT).as_json()
    assert [entry["measured_in"] for entry in record["candidates"]][:2] == ["verdict", "verdict"]
    assert record["chosen"] in [entry["settings"] for entry in record["candidates"][:2]]
    (choice,) = manifest.decisions
    assert (choice.value, choice.reason) == (record["chosen"], record["reason"])
    with np.load(serving / SAMPLES) as samples:
        assert samples["requests"].sum() == len(samples["latency_ms"])
        assert len(samples["settings"]) == len(samples["clients"]) == len(samples["elapsed_s"])
        assert {*samples["settings"].tolist()} == {json.dumps(entry["settings"]) for entry in record["candidates"]}


def test_what_is_kept_is_used_for_the_same_graph_settings_and_machine_only(
    serving: Path, tiny_export: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = artifacts.load(serving, "serving").details["tuning"]
    settings, found = kept(serving, tiny_export, DEFAULT)
    assert (Running.of(settings).as_json(), found) == (record["chosen"], record)
    assert settings.max_batch_size == DEFAULT.max_batch_size
    assert kept(serving, tiny_export, DEFAULT.model_copy(update={"keep_versions": 9}))[1] == record
    capsys.readouterr()
    changed = DEFAULT.model_copy(update={"max_batch_size": 4})
    assert kept(serving, tiny_export, changed) == (changed, None)
    assert "what they were found for has changed: settings" in capsys.readouterr().err
    here = dict(artifacts.load(serving, "serving").environment)
    monkeypatch.setattr("tldeploy.environment.describe", lambda: here | {"cpu": "another"})
    assert kept(serving, tiny_export, DEFAULT) == (DEFAULT, None)
    assert "what they were found for has changed: machine" in capsys.readouterr().err


def test_a_damaged_record_is_not_used(
    serving: Path, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "serving"
    copy.mkdir()
    (copy / artifacts.MANIFEST).write_bytes((serving / artifacts.MANIFEST).read_bytes())
    assert kept(copy, tiny_export, DEFAULT) == (DEFAULT, None)
    assert f"{SAMPLES} is missing" in capsys.readouterr().err


def found_for(export: Path, settings: Deploy, folder: Path) -> Path:
    """An artifact as `fit` writes it, of the settings OTHER, for an export that no server here can run."""
    with artifacts.writing(folder) as new:
        (new / SAMPLES).touch()
        good_for = _good_for(artifacts.read(export, "export"), settings)
        details = {"good_for": good_for, "tuning": {"goal": Goal().as_json(), "chosen": OTHER.as_json()}}
        artifacts.seal(new, Manifest(kind=KIND, name="tiny", inputs="0" * 64, details=details))
    return folder


def on_cuda(folder: Path, **options: str) -> Path:
    """An export for CUDA, with the options that it measured there."""
    session = {"variant": "int8-dynamic", "device": "cuda", "options": options}
    return write_export(folder, target="cuda", session=session)


GPUS = Cuda(gpus=[0, 1])


@pytest.mark.parametrize(
    "settings",
    [
        Deploy(max_batch_size=8, device="cuda", cuda=GPUS),
        Deploy(max_batch_size=8).model_copy(update={"device": "cuda", "cuda": GPUS, "tensorrt": None}),
        Deploy(max_batch_size=8),
    ],
    ids=["by the recipe", "by --device", "by the export"],
)
def test_what_is_kept_leaves_open_what_the_recipe_does(settings: Deploy, tmp_path: Path) -> None:
    export = on_cuda(tmp_path / "onnx", use_tf32="1", prefer_nhwc="1")
    exported = artifacts.read(export, "export")
    fitted, record = kept(found_for(export, settings, tmp_path / "serving"), export, settings)
    assert record is not None
    assert Running.of(fitted) == OTHER
    served = decided(exported, fitted)
    gpus = settings.cuda.gpus if settings.cuda else [0]
    assert (served.device, served.cuda) == ("cuda", Cuda(gpus=gpus, use_tf32=True, prefer_nhwc=True))
    assert served.model_copy(update=OTHER.as_json()) == decided(exported, settings).model_copy(update=OTHER.as_json())


def test_what_was_found_for_another_target_or_other_options_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_cpu = write_export(tmp_path / "cpu")
    serving = found_for(on_cpu, DEFAULT, tmp_path / "serving")
    assert kept(serving, write_export(tmp_path / "said", target="cpu"), DEFAULT)[1] is not None
    capsys.readouterr()
    assert kept(serving, write_export(tmp_path / "openvino", target="openvino"), DEFAULT) == (DEFAULT, None)
    assert "what they were found for has changed: target;" in capsys.readouterr().err
    plain = on_cuda(tmp_path / "cuda")
    assert kept(serving, plain, DEFAULT) == (DEFAULT, None)
    assert "what they were found for has changed: target, settings;" in capsys.readouterr().err
    serving = found_for(plain, DEFAULT, tmp_path / "serving on cuda")
    assert kept(serving, plain, DEFAULT)[1] is not None
    capsys.readouterr()
    assert kept(serving, on_cuda(tmp_path / "nhwc", prefer_nhwc="1"), DEFAULT) == (DEFAULT, None)
    assert "what they were found for has changed: settings;" in capsys.readouterr().err


def test_a_record_that_does_not_say_its_target_is_not_used(
    tmp_path: Path, tiny_export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As older ones do not: what they were measured on may not be what the graph is for."""
    serving = found_for(tiny_export, DEFAULT, tmp_path / "serving")
    manifest = artifacts.read(serving, KIND)
    del manifest.details["good_for"]["target"]
    artifacts.seal(serving, manifest)
    assert kept(serving, tiny_export, DEFAULT) == (DEFAULT, None)
    assert "what they were found for has changed: target;" in capsys.readouterr().err
