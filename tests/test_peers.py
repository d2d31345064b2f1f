"""The suites of bench/peers: what they compare is the same network, and their tables say what was measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.figures import peers as tables
from bench.peers import client, generator
from bench.peers.client import Endpoint
from bench.peers.roster import SERVERS
from bench.peers.subjects import image_checkpoint, probabilities, text_checkpoint
from tests.tiny import LABELS, ROWS, make_tokenizer
from tests.tiny_images import SIZE, square
from tldeploy.backbones.network import ImageNetwork, TextNetwork
from tldeploy.measuring.statistics import ratio_of_rounds
from tldeploy.tasks.encoding import TextEncoder
from tldeploy.tasks.image_classification import ImageClassification
from tldeploy.tasks.pixels import ImageEncoder
from tldeploy.tasks.text_classification import TextClassification

TEXTS = [row for row in ROWS if row]
# Of perf_analyzer 2.60, without the rows and the answers.
RAW = """{"experiments": [{"experiment": {"mode": "concurrency", "value": 1}, "requests": [
    {"timestamp": 1795670754154648284, "response_timestamps": [1795670754188483564]},
    {"timestamp": 1795670754188512208, "response_timestamps": [1795670754238795061]},
    {"timestamp": 1795670754238818755, "response_timestamps": [1795670754257460263]}
]}], "version": "0.0.0", "service_kind": "triton"}
"""


@pytest.fixture
def text_folder(tmp_path: Path) -> tuple[Path, Any]:
    """A tiny BERT as transformers reads it, and what the network that it was made from answers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    network = TextNetwork(BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **sizes)), "mean", 3).eval()
    network.temperature = 1.7
    encoder = TextEncoder(tokenizer.to_str(), 128, 0)
    expected = probabilities(network, TextClassification(LABELS, encoder, tmp_path / "tokenizer.json"), TEXTS)
    return text_checkpoint(network, tmp_path, LABELS, tmp_path / "checkpoint"), expected


@pytest.fixture
def image_folder(tmp_path: Path) -> tuple[Path, Any]:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "rescale_factor": 1 / 255, "channels": "rgb"}
    network = ImageNetwork(ResNetModel(config).eval(), normalisation, 3).eval()
    task = ImageClassification(LABELS, ImageEncoder(image_size=SIZE, resize="squash"))
    expected = probabilities(network, task, [square("red"), square("blue")])
    return image_checkpoint(network, LABELS, SIZE, tmp_path / "checkpoint"), expected


@pytest.mark.parametrize("engine", ["torch", "pipeline"])
@pytest.mark.parametrize("kind", ["text", "image"])
def test_each_engine_of_the_peers_answers_as_the_tuned_network(
    kind: str, engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = request.getfixturevalue(f"{kind}_folder")
    rows: Sequence[Any] = TEXTS if kind == "text" else [square("red"), square("blue")]
    monkeypatch.syspath_prepend(SERVERS)
    import models

    predict = models.ENGINES[engine](folder)
    np.testing.assert_allclose([predict([row])[0] for row in rows], expected, atol=1e-5)
    assert models.labels(folder) == list(LABELS)


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [([50.0, 52.0, 48.0], "ahead"), ([200.0, 210.0, 190.0], "behind"), ([100.0, 110.0, 90.0], "level")],
)
def test_we_are_ahead_only_beyond_the_interval(theirs: list[float], verdict: str) -> None:
    assert tables.verdict(ratio_of_rounds([100.0, 100.0, 100.0], theirs)) == verdict


def test_a_percentile_of_too_few_requests_is_not_told() -> None:
    rounds = [np.arange(1.0, 101.0)] * 3
    assert tables.percentile(rounds, 0.5) == 50
    assert tables.percentile(rounds, 0.99) is None
    assert tables.percentile([*rounds, rounds[0]], 0.99) == 99


def test_who_is_ahead_is_told_by_the_record() -> None:
    """Ahead of one peer, level with another, behind a third; one that starts sooner; and what is not recorded."""
    rates = {"tldeploy, fp32": 100.0, "slow, fp32": 50.0, "like, fp32": 100.0, "fast, fp32": 200.0}
    noise = np.array([0.99, 1.0, 1.02])
    found = {name: {"1": {"rate": list(rate * noise), "ms": []}} for name, rate in rates.items()}
    found["like, fp32"]["1"]["rate"] = [103.0, 99.0, 98.0]
    alone = {
        name: {"start_s": start, "memory_mb": 100.0, "disk_mb": {"model": 30.0, "packages": 5.0}}
        for name, start in zip(rates, (2.0, 3.0, 2.0, 1.0), strict=True)
    }
    told = tables.standing({"results": {"text": found, "images": found, "alone": {"text": alone}}}).splitlines()
    assert told[0] == (
        "- text, *tldeploy, fp32*, at equal answers: ahead in 1 of 3 comparisons, 2.0 to 2.0 times as fast; "
        "level with *like, fp32* with 1 client (1.00 [0.91, 1.11]); "
        "behind *fast, fp32* with 1 client (0.50 [0.50, 0.50])."
    )
    assert told[1:4] == [
        "- text, start s, *tldeploy, fp32* (2.0): less for *fast, fp32* (1.0).",
        "- text, RAM MB, *tldeploy, fp32* (100): less for none.",
        "- text, on disk MB, *tldeploy, fp32* (35): less for none.",
    ]
    assert told[5] == "- images, start s: not recorded."


def test_generators_agree_within_the_noise_of_ours_against_itself() -> None:
    ours = [100.0, 100.0, 100.0]
    assert tables.agree([101.0, 101.0, 101.0], ours, again=[98.0, 100.0, 103.0])
    assert not tables.agree([110.0, 110.0, 110.0], ours, again=[98.0, 100.0, 103.0])


def test_what_perf_analyzer_writes_is_read() -> None:
    rate, latencies_ms = generator.recorded(RAW)
    assert rate == pytest.approx(29.179, abs=1e-3)
    assert latencies_ms.round(3).tolist() == [33.835, 50.283, 18.642]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_is_asked_over_the_protocol_and_its_times_are_taken(protocol: str, tmp_path: Path) -> None:
    """Of a stand-in that keeps what it was called with, and writes over no file, as the real one."""
    program = tmp_path / "perf_analyzer"
    program.write_text(f"#!/bin/sh\necho $@ > asked\nset -C\ncat > raw.json << EOF\n{RAW}EOF\n", encoding="utf-8")
    program.chmod(0o755)
    for _ in range(2):
        rate, latencies_ms = generator.perf_analyzer(program, "127.0.0.1:80", protocol, 4, 160, tmp_path)
        assert (round(rate, 3), len(latencies_ms)) == (29.179, 3)
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    assert f"-u 127.0.0.1:80 -i {protocol} " in asked
    assert "--concurrency-range 4 --request-count 160" in asked


def test_a_perf_analyzer_that_fails_stops_the_suite_with_what_it_said(tmp_path: Path) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="no such model"):
        generator.perf_analyzer(program, "127.0.0.1:80", "grpc", 1, 120, tmp_path)


def test_a_perf_analyzer_that_does_not_end_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "WITHIN_S", 0.3)
    program = tmp_path / "perf_analyzer"
    hangs_once = f"[ -e hung ] || {{ touch hung; exec sleep 60; }}\ncat > raw.json << EOF\n{RAW}EOF\n"
    program.write_text(f"#!/bin/sh\n{hangs_once}", encoding="utf-8")
    program.chmod(0o755)
    assert len(generator.perf_analyzer(program, "127.0.0.1:80", "http", 4, 160, tmp_path)[1]) == 3
    program.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"did not end within 0\.3 s, 3 times"):
        generator.perf_analyzer(program, "127.0.0.1:80", "http", 4, 160, tmp_path)


def test_the_generators_have_a_line_for_each_protocol_and_number_of_clients() -> None:
    kept = {
        name: {"rate": [100.0, 101.0], "ms": [[9.0] * 6] * 2} for name in (tables.OURS, tables.AGAIN, tables.THEIRS)
    }
    shown = tables.generators({"http": {"1": kept}, "grpc": {"1": kept, "4": kept}}).splitlines()[2:]
    assert len(shown) == 9
    assert shown[5] == "| grpc, 1, perf_analyzer | 100.5 | 9.0 |  | 1.00 [1.00, 1.00] | yes |"


def test_rows_come_back_in_their_order_over_connections_that_are_kept() -> None:
    """Of a server that answers with the length of the text, to long ones first."""
    connections = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError):  # the client has closed it
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                text = json.loads(await reader.readexactly(length))["text"]
                await asyncio.sleep(0.01 / len(text))
                body = json.dumps({"label": "a", "probabilities": [len(text)]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def ask() -> list[list[float]]:
        async with await asyncio.start_server(answer, client.HOST, 0) as server:
            endpoint = Endpoint("fastapi", server.sockets[0].getsockname()[1])
            return await asyncio.to_thread(client.answers, endpoint, ["é" * size for size in range(1, 21)], 4)

    assert asyncio.run(ask()) == [[size] for size in range(1, 21)]
    assert len(connections) == 4


def test_an_image_goes_to_triton_as_it_is() -> None:
    endpoint = Endpoint("triton", 8000, "m", "image")
    head, _, body = client.message(endpoint, b"\xff\xd8\r\n\r\n").partition(b"\r\n\r\n")
    about = int(head.lower().partition(b"inference-header-content-length: ")[2].partition(b"\r\n")[0])
    (tensor,) = json.loads(body[:about])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(body) - about == 4 + 6
    assert body[about:] == b"\x06\0\0\0\xff\xd8\r\n\r\n"
