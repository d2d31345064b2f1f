"""The client against the real server: every answer equals onnxruntime's in this process, over both protocols."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import LABELS, ROWS, WORDS, answer
from tldeploy.errors import RequestError, ServerError, UsageError
from tldeploy.runtime.triton import Client, Protocol
from tldeploy.triton.server import Server, free_ports

PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
TOLERANCE = 1e-6


def address(server: Server, protocol: Protocol) -> str:
    return server.http_url if protocol == "http" else server.grpc_url


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, tiny_server: Server) -> Iterator[Client]:
    with Client(address(tiny_server, request.param), model="tiny", protocol=request.param) as connected:
        yield connected


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, random.integers(0, 30))) for _ in range(count)]


def ask_raw(client: Client, texts: list[bytes]) -> Any:
    """A request as any other program would send it."""
    library = client._library()
    tensor = library.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=object))
    return client._connection().infer(client.model, [tensor]).as_numpy("probabilities")


def test_every_kind_of_text_gets_the_answer_of_onnxruntime(client: Client, tiny_export: Path) -> None:
    assert "\0" in "".join(ROWS)
    assert "" in ROWS
    for row in ROWS:
        np.testing.assert_allclose(client.predict([row]), answer(tiny_export, [row]), atol=TOLERANCE, rtol=0)


def test_more_rows_than_the_largest_batch_are_asked_in_parts(client: Client, tiny_export: Path) -> None:
    rows = some_texts(2 * client.max_batch_size + 3)
    predicted = client.predict(rows)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, answer(tiny_export, rows), atol=TOLERANCE, rtol=0)


def test_concurrent_requests_are_merged_and_each_gets_its_own_answer(client: Client, tiny_export: Path) -> None:
    rows = some_texts(96)
    before = executions(client)
    with ThreadPoolExecutor(16) as pool:
        predicted = np.concatenate(list(pool.map(lambda row: client.predict([row]), rows)))
    np.testing.assert_allclose(predicted, answer(tiny_export, rows), atol=TOLERANCE, rtol=0)
    assert executions(client) - before < len(rows)


def executions(client: Client) -> int:
    answered = client._metadata(client._connection().get_inference_statistics("tiny.graph"))
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
            with client._errors("ask"):
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
        library, ids = client._library(), np.full((1, 16), token)
        tensors = [library.InferInput(name, ids.shape, "INT64") for name in ("input_ids", "attention_mask")]
        tensors[0].set_data_from_numpy(ids)
        tensors[1].set_data_from_numpy(np.ones_like(ids))
        together.wait(10)
        try:
            with client._errors("ask"):
                return client._connection().infer("tiny.graph", tensors).as_numpy("probabilities").shape
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


def test_no_rows_is_a_mistake(client: Client) -> None:
    with pytest.raises(UsageError, match="there are no rows"):
        client.predict([])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_model_is_refused(tiny_server: Server, protocol: Protocol) -> None:
    with pytest.raises(RequestError, match="unknown model: 'nothing'"):
        Client(address(tiny_server, protocol), model="nothing", protocol=protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_there_is_said_plainly(protocol: Protocol) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServerError, match=f"no server answers at 127.0.0.1:{port} over {protocol}"):
        Client(f"127.0.0.1:{port}", model="tiny", protocol=protocol)


@pytest.mark.parametrize(("mine", "theirs"), [("http", "grpc"), ("grpc", "http")])
def test_the_port_of_the_other_protocol_is_said_plainly(tiny_server: Server, mine: Protocol, theirs: Protocol) -> None:
    with pytest.raises(ServerError, match="no server answers"):
        Client(address(tiny_server, theirs), model="tiny", protocol=mine, timeout_s=5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_never_answers_is_given_up_on(protocol: Protocol) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match=r"no answer within 0\.3 s"):
            Client(url, model="tiny", protocol=protocol, timeout_s=0.3)


def test_an_unknown_protocol_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="choose http or grpc"):
        Client(model="tiny", protocol="ftp")  # type: ignore[arg-type]  # the mistake under test
