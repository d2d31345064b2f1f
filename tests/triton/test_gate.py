"""The gate before the real server: TLS, keys and limits over both protocols, and what it never lets through."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.runtime.doors import PROTOCOLS, TOLERANCE, address, some_texts
from tests.tiny import answer
from tldeploy.errors import RequestError, ServerError, UsageError
from tldeploy.measuring.load.generator import Generator
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import AsyncClient, Client, Protocol
from tldeploy.triton.gate import MAX_REQUEST_MB, Gate, gate_for, read_api_keys
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

OLD_KEY, NEW_KEY = "an-old-key-of-somebody", "a-new-key-of-somebody"
LIMIT_MB = 2
RESIDENT_MB = 400  # of everything that serves: sixty megabytes for Envoy, and what the tiny server takes anyway


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    return make_pair(tmp_path_factory.mktemp("tls"))


def make_pair(folder: Path, *options: str) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl")
    certificate, key = folder / "server.pem", folder / "server.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *(options or ["-nodes"]), *about, *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def gated(tiny_export: Path, pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("gated") / "triton_repo"
    publish(tiny_export, repository, "tiny", Deploy(max_batch_size=8))
    gate = Gate(pair, (OLD_KEY, NEW_KEY), LIMIT_MB)
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0, gate=gate) as server:
        yield server


@pytest.fixture
def calling(gated: Server, pair: tuple[Path, Path]) -> dict[str, Any]:
    return {"model": "tiny", "ca": pair[0], "api_key": NEW_KEY}


def family(server: Server) -> list[psutil.Process]:
    processes = [process for process in (server._process, server._gate_process) if process]
    return [found for one in processes for found in psutil.Process(one.pid).children(recursive=True)]


def most_resident_mb(processes: list[psutil.Process]) -> float:
    """The most that they ever held in memory, all together."""
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    return sum(int(text.split("VmHWM:")[1].split()[0]) for text in status) / 1000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_answers_are_those_of_the_server(
    gated: Server, protocol: Protocol, calling: dict[str, Any], tiny_export: Path
) -> None:
    rows = some_texts(19)
    url = address(gated, protocol)
    assert url.startswith("https://127.0.0.1:")
    with Client(url, protocol=protocol, **calling) as client:
        plain = client.predict(rows)
    with Client(url, protocol=protocol, **{**calling, "api_key": OLD_KEY}) as client:
        assert client.classify(rows[:1])

    async def ask() -> Any:
        async with AsyncClient(url, protocol=protocol, **calling) as client:
            return await client.predict(rows)

    np.testing.assert_allclose(plain, answer(tiny_export, rows), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(asyncio.run(ask()), answer(tiny_export, rows), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_is_made_through_it(gated: Server, protocol: Protocol, calling: dict[str, Any]) -> None:
    with (
        Client(address(gated, protocol), protocol=protocol, **calling) as client,
        Generator(client, some_texts(4)) as generator,
    ):
        assert len(generator.closed_loop(2, 0.2).sent.sent) >= 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("api_key", [None, "not-a-key-of-anybody", NEW_KEY[:-1], f"{NEW_KEY}x"])
def test_without_a_right_key_nothing_is_answered(
    gated: Server, protocol: Protocol, calling: dict[str, Any], api_key: str | None
) -> None:
    with pytest.raises(RequestError, match="the API key is missing or wrong") as caught:
        Client(address(gated, protocol), protocol=protocol, **{**calling, "api_key": api_key})
    assert "TLDEPLOY_API_KEY" in caught.value.fix


def test_the_key_may_be_in_the_environment(
    gated: Server, calling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLDEPLOY_API_KEY", NEW_KEY)
    with Client(gated.http_url, **{**calling, "api_key": None}) as client:
        assert client.predict(["good"]).shape == (1, 3)


def raw(server: Server, protocol: Protocol, pair: tuple[Path, Path]) -> Any:
    """tritonclient's own client."""
    url = address(server, protocol).removeprefix("https://")
    if protocol == "grpc":
        return tritonclient.grpc.InferenceServerClient(url, ssl=True, root_certificates=str(pair[0]))
    trusting = {"ssl": True, "ssl_options": {"ca_certs": str(pair[0])}}
    return tritonclient.http.InferenceServerClient(url, **trusting)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whether_the_server_lives_is_told_to_everybody_and_no_more(
    gated: Server, protocol: Protocol, pair: tuple[Path, Path]
) -> None:
    with raw(gated, protocol, pair) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="API key"):
            client.get_server_metadata()


@pytest.mark.parametrize(
    "path", ["/v2/health/../models/tiny/config", "/v2/health/%2e%2e/models/tiny", "/v2/health/..%2fmodels/tiny", "//v2"]
)
def test_no_way_of_writing_a_path_does_without_the_key(gated: Server, pair: tuple[Path, Path], path: str) -> None:
    context = ssl.create_default_context(cafile=pair[0])
    connection = http.client.HTTPSConnection("127.0.0.1", gated.http_port, context=context, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status in {400, 401}
    connection.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_the_owners_needs_the_servers_key_besides(
    gated: Server, protocol: Protocol, pair: tuple[Path, Path]
) -> None:
    with raw(gated, protocol, pair) as client, pytest.raises(InferenceServerException, match="restricted"):
        client.unload_model("tiny.graph", headers={"authorization": f"Bearer {NEW_KEY}"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_too_large_is_refused_and_fills_no_memory(
    gated: Server, protocol: Protocol, calling: dict[str, Any]
) -> None:
    with Client(address(gated, protocol), protocol=protocol, **calling) as client:
        with pytest.raises(RequestError, match="the request is larger than 2 MB, the most that this server takes"):
            client.predict(["x" * (LIMIT_MB * 1_000_000 + 1)])
        with pytest.raises(ServerError, match=r"larger than 2 MB|cut off a request that is too large"):
            client.predict(["x" * 100_000_000])
        assert client.predict(["good"]).shape == (1, 3)
    assert most_resident_mb(family(gated)) < RESIDENT_MB


def test_what_does_not_say_how_large_it_is_is_refused_when_it_turns_out(gated: Server, pair: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=pair[0])
    connection = http.client.HTTPSConnection("127.0.0.1", gated.http_port, context=context, timeout=30)
    chunks = iter([b"x" * 100_000] * 25)
    connection.request("POST", "/v2/models/tiny/infer", chunks, {"authorization": f"Bearer {NEW_KEY}"})
    refused = connection.getresponse()
    assert (refused.status, b"larger than 2 MB" in refused.read()) == (413, True)
    connection.close()
    assert most_resident_mb(family(gated)) < RESIDENT_MB


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_compressed_is_refused(gated: Server, protocol: Protocol, pair: tuple[Path, Path]) -> None:
    library: Any = tritonclient.http if protocol == "http" else tritonclient.grpc
    text = library.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"good"]], dtype=object))
    packed = "request_compression_algorithm" if protocol == "http" else "compression_algorithm"
    headers = {"authorization": f"Bearer {NEW_KEY}"}
    with raw(gated, protocol, pair) as client:
        with pytest.raises(InferenceServerException, match="compressed requests do not pass here"):
            client.infer("tiny", [text], headers=dict(headers), **{packed: "gzip"})
        assert client.infer("tiny", [text], headers=dict(headers)).as_numpy("probabilities").shape == (1, 3)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["]]\\"]",'])
def test_json_that_would_end_the_server_is_refused(gated: Server, pair: tuple[Path, Path], opening: bytes) -> None:
    status, said = post(gated, pair, opening * 101 + b'"]]]"', {})
    assert (status, said) == (400, "the JSON is nested deeper than 100 levels")
    assert "nested" not in post(gated, pair, b'["' + b"[" * 200 + b'\\"[["]', {})[1]
    assert gated.poll() is None


def test_json_before_binary_data_is_looked_at_and_the_data_is_not(gated: Server, pair: tuple[Path, Path]) -> None:
    data = (500).to_bytes(4, "little") + b"[" * 500
    parameters = {"binary_data_size": len(data)}
    given = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "parameters": parameters}
    described = json.dumps({"inputs": [given]}).encode()
    length = {"Inference-Header-Content-Length": str(len(described))}
    assert post(gated, pair, described + data, length)[0] == 200
    for lie in ("0", "-1", "0x5", "1e1", ""):
        status, said = post(gated, pair, described + data, {"Inference-Header-Content-Length": lie})
        assert (status, said) == (400, "the JSON is nested deeper than 100 levels")


def test_a_body_in_very_many_pieces_is_put_together(gated: Server, pair: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=pair[0])
    head = "POST /v2/models/tiny/infer HTTP/1.1", "Host: x", f"Authorization: Bearer {NEW_KEY}"
    plain = socket.create_connection(("127.0.0.1", gated.http_port))
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
        connection.sendall(b"1\r\n \r\n" * 300_000 + b"0\r\n\r\n")
        assert b"failed to parse the request JSON" in connection.recv(65536)
    assert gated.poll() is None


def post(server: Server, pair: tuple[Path, Path], body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """The status of a request for inference, and the words of its refusal."""
    context = ssl.create_default_context(cafile=pair[0])
    connection = http.client.HTTPSConnection("127.0.0.1", server.http_port, context=context, timeout=30)
    connection.request("POST", "/v2/models/tiny/infer", body, {"Authorization": f"Bearer {NEW_KEY}", **headers})
    answered = connection.getresponse()
    told = json.loads(answered.read())
    connection.close()
    return answered.status, told.get("error", "")


def test_streams_of_requests_are_refused(gated: Server, pair: tuple[Path, Path]) -> None:
    refused: list[Any] = []
    with raw(gated, "grpc", pair) as client:
        client.start_stream(lambda result, error: refused.append(error), headers={"authorization": f"Bearer {NEW_KEY}"})
        client.stop_stream()
    assert "streams of requests do not pass here" in str(refused[0].message())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_text_is_not_answered_where_tls_is_spoken(
    gated: Server, protocol: Protocol, calling: dict[str, Any]
) -> None:
    plain = address(gated, protocol).removeprefix("https://")
    with pytest.raises(ServerError, match=f"no server answers at {plain} over {protocol}"):
        Client(plain, protocol=protocol, timeout_s=5, **{**calling, "ca": None})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    gated: Server, protocol: Protocol, calling: dict[str, Any]
) -> None:
    with pytest.raises(ServerError, match="no server answers") as caught:
        Client(address(gated, protocol), protocol=protocol, timeout_s=5, **{**calling, "ca": None})
    assert "its certificate is for that host and vouched for" in caught.value.fix


def test_only_the_gate_can_be_reached_and_the_keys_lie_nowhere(gated: Server) -> None:
    for process in family(gated):
        command = " ".join(process.cmdline())
        assert NEW_KEY not in command
        own = {found.laddr.port for found in process.net_connections() if found.status == psutil.CONN_LISTEN}
        if process.name() == "tritonserver":
            assert not own & {gated.http_port, gated.grpc_port}
        if process.name() == "envoy":
            assert own == {gated.http_port, gated.grpc_port}
    assert not list(Path("/dev/shm").glob(f"{gated.id}*.json"))


def test_stopping_leaves_neither_gate_nor_server(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    with Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0, gate=Gate()) as server:
        with Client(server.http_url, model="tiny") as client:
            client.predict(["good"])
        processes = family(server)
        assert {"envoy", "tritonserver"} <= {process.name() for process in processes}
        next(process for process in processes if process.name() == "envoy").kill()
        with pytest.raises(ServerError, match="the gate ended by itself"):
            server.wait(watch_every_s=0.1)
    assert not any(process.is_running() for process in processes)
    assert not list(Path("/dev/shm").glob(f"{server.id}*"))


def test_there_is_a_gate_where_others_can_reach_the_server(
    capsys: pytest.CaptureFixture[str], pair: tuple[Path, Path]
) -> None:
    assert gate_for("127.0.0.1") is None
    assert gate_for("localhost", max_request_mb=5) == Gate(max_request_mb=5)
    assert capsys.readouterr().err == ""
    assert gate_for("0.0.0.0") == Gate(max_request_mb=MAX_REQUEST_MB)
    said = capsys.readouterr().err
    assert "WARNING: without TLS" in said
    assert "WARNING: without API keys" in said
    assert Server(Path(), host="0.0.0.0").gate == Gate()
    gate_for("0.0.0.0", tls=pair)
    assert "without TLS" not in capsys.readouterr().err


def test_a_host_that_is_none_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"listen on 'no\.such\.host\.invalid'"):
        gate_for("no.such.host.invalid")


def test_files_that_are_no_pair_are_named_before_anything_starts(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "text").write_text("no certificate")
    other = make_pair(tmp_path / "other")
    locked = make_pair(tmp_path / "locked", "-passout", "pass:secret")
    for files, found in (
        ((pair[0], other[1]), "do not belong together"),
        (locked, "the key is encrypted"),
        ((tmp_path / "none", pair[1]), "No such file"),
        ((tmp_path / "text", pair[1]), "PEM"),
    ):
        with pytest.raises(UsageError, match=found):
            Gate(files)


def test_a_file_of_keys_has_long_ones(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{OLD_KEY}\n\n{NEW_KEY}\n")
    assert read_api_keys(file) == (OLD_KEY, NEW_KEY)
    file.write_text(f"{OLD_KEY}\nsecret\n")
    with pytest.raises(UsageError, match="key 2 has not 16 to 256 plain characters") as caught:
        read_api_keys(file)
    assert "secret" not in str(caught.value).replace("secrets", "")
    file.write_text("\n")
    with pytest.raises(UsageError, match="it is empty"):
        read_api_keys(file)


def test_a_port_that_is_taken_is_named(tiny_export: Path, tmp_path: Path) -> None:
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="another program listens there"):
            Server(tmp_path / "repo", http_port=port, grpc_port=0, metrics_port=0, gate=Gate()).__enter__()
