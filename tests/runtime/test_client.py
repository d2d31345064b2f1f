"""The client against the real server, over both protocols: merged requests, labels, what is refused."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.doors import PROTOCOLS, TOLERANCE, address, some_texts
from tests.tiny import LABELS, ROWS, answer
from tldeploy.errors import DataError, RequestError, ServerError, UsageError
from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.request import plain
from tldeploy.triton.server import Server


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, tiny_server: Server) -> Iterator[Client]:
    with Client(address(tiny_server, request.param), model="tiny", protocol=request.param) as connected:
        yield connected


def ask_raw(client: Client, texts: list[bytes]) -> Any:
    """A request as any other program would send it."""
    tensor = client._library.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=object))
    return client._ask("infer", client.model, [tensor]).as_numpy("probabilities")


def test_concurrent_requests_are_merged_and_each_gets_its_own_answer(client: Client, tiny_export: Path) -> None:
    rows = some_texts(96)
    before = executions(client)
    with ThreadPoolExecutor(16) as pool:
        predicted = np.concatenate(list(pool.map(lambda row: client.predict([row]), rows)))
    np.testing.assert_allclose(predicted, answer(tiny_export, rows), atol=TOLERANCE, rtol=0)
    assert executions(client) - before < len(rows)


def test_curl_asks_as_the_readme_says(tiny_server: Server, tiny_export: Path) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    body = re.search(r"infer -d '([^']*)'", readme)
    assert body
    expected = answer(tiny_export, ["Great camera"])[0]
    (output,) = json.loads(post(tiny_server, body[1].encode()))["outputs"]
    shares = {label: float(share) for share, _, label in (cell.split(":") for cell in output["data"])}
    assert shares == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)
    whole = post(tiny_server, b"Great camera", {"Inference-Header-Content-Length": "0"})
    np.testing.assert_allclose(np.frombuffer(whole[-4 * len(LABELS) :], "<f4"), expected, atol=1e-5)


def post(server: Server, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    request = urllib.request.Request(f"http://{server.http_url}/v2/models/tiny/infer", body, dict(headers or {}))
    with urllib.request.urlopen(request, timeout=30) as answered:
        return bytes(answered.read())


def executions(client: Client) -> int:
    answered = plain(client._ask("get_inference_statistics", "tiny.graph"))
    return int(answered["model_stats"][0]["execution_count"])


def test_classification_gives_the_labels_best_first(client: Client, tiny_export: Path) -> None:
    expected = answer(tiny_export, ROWS)
    classified = client.classify(ROWS, top=3)
    for row, probabilities in zip(classified, expected, strict=True):
        order = np.argsort(-probabilities)
        assert [found.label for found in row] == [LABELS[index] for index in order]
        np.testing.assert_allclose([found.probability for found in row], probabilities[order], atol=1e-5)
    assert [len(row) for row in client.classify(ROWS)] == [1] * len(ROWS)


def test_it_says_what_computes(client: Client) -> None:
    assert client.name == f"triton {client.protocol}"
    assert client.provider == "Triton 2.51.0, onnxruntime"


def test_text_that_is_not_utf8_is_refused_and_its_neighbours_are_answered(client: Client, tiny_export: Path) -> None:
    together = threading.Barrier(6)

    def ask(text: bytes) -> Any:
        together.wait(10)
        try:
            return ask_raw(client, [text])
        except RequestError as error:
            return error

    texts = [b"good phone", b"bad \xff", b"good phone", b"\xc3\x28", b"bad phone", b"good phone"]
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(ask, texts))
    for text, given in zip(texts, answers, strict=True):
        if isinstance(given, RequestError):
            assert "text 0 is not UTF-8" in given.found
        else:
            np.testing.assert_allclose(given, answer(tiny_export, [text.decode()]), atol=TOLERANCE, rtol=0)
    assert [isinstance(given, RequestError) for given in answers] == [False, True, False, True, False, False]


def test_a_request_that_the_graph_cannot_run_does_not_fail_its_neighbours(client: Client) -> None:
    together = threading.Barrier(4)

    def ask(token: int) -> Any:
        ids = np.full((1, 16), token)
        together.wait(10)
        try:
            return client.predict_tensors({"input_ids": ids, "attention_mask": np.ones_like(ids)}).shape
        except ServerError as error:
            return error.found

    past_the_vocabulary = 10**6
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [5, past_the_vocabulary, 6, 7]))
    assert [answers[index] for index in (0, 2, 3)] == [(1, 3)] * 3
    assert "onnx runtime error" in answers[1]


def test_a_lone_surrogate_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(RequestError, match="lone surrogate at character 4"):
        client.predict(["bad \ud800"])


@pytest.mark.parametrize("rows", ["a single text", b"bytes", [None], [["nested"]], [b"bytes"]])
def test_what_is_no_list_of_texts_is_a_mistake(client: Client, rows: Any) -> None:
    for ask in (client.predict, client.classify):
        with pytest.raises(UsageError, match="give a list of texts"):
            ask(rows)


@pytest.mark.parametrize("top", [0, -1])
def test_no_labels_is_a_mistake(client: Client, top: int) -> None:
    with pytest.raises(UsageError, match=f"top is {top}\n  fix: ask for 1 label of each row, or more"):
        client.classify(["good phone"], top=top)


def test_bytes_that_were_no_utf8_are_named_by_their_place(client: Client) -> None:
    with pytest.raises(DataError, match=r"text 1 is not UTF-8 \(byte 5\)"):
        client.predict(["good", b"bad\xc3\xa9\xff".decode("utf-8", "surrogateescape")])


def test_a_text_that_is_too_long_is_to_be_split(client: Client) -> None:
    with pytest.raises(RequestError, match="the limit is 1,000,000\n  fix: shorten the text, or split it"):
        client.predict(["x" * 1_000_001])


def test_an_address_may_say_that_it_is_plain(client: Client) -> None:
    with Client(f"http://{client.url}/", model="tiny", protocol=client.protocol) as same:
        assert same.url == client.url
        np.testing.assert_array_equal(same.predict(ROWS), client.predict(ROWS))


def test_no_rows_is_a_mistake(client: Client) -> None:
    with pytest.raises(UsageError, match="there are no rows"):
        client.predict([])


def test_an_unknown_protocol_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="choose http or grpc"):
        Client(model="tiny", protocol="ftp")  # type: ignore[arg-type]  # the mistake under test
