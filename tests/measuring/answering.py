"""Servers that describe a model as Triton does, keep what they are sent, and answer as they are told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as messages

SERVER = {"name": "triton", "version": "2.51.0"}
OUTPUT = {"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0.2, 0.7]}


def described(column: str) -> dict[str, Any]:
    """The configuration of a model whose rows are of this column."""
    given, gives = ({"name": name, "data_type": f"TYPE_{kind}"} for name, kind in ((column, "STRING"), ("p", "FP32")))
    tensors = {"input": [{**given, "dims": [1]}], "output": [{**gives, "dims": [3], "name": "probabilities"}]}
    return {"name": "m", "backend": "none", "max_batch_size": 8, **tensors}


class Answering(ThreadingHTTPServer):
    """Over HTTP. refusal: status and body of each answer. hangs_up: after each, untold. slow_s: before each."""

    daemon_threads = True

    def __init__(self, column: str = "text") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config = described(column)
        self.refusal: tuple[int, bytes] | None = None
        self.hangs_up, self.slow_s = False, 0.0
        self.sent: list[tuple[str, dict[str, str], bytes]] = []
        self.ports: list[int] = []

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answering

    def do_GET(self) -> None:
        self._answer(200, json.dumps(self.server.config if self.path.endswith("/config") else SERVER).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.sent.append((self.path, headers, body))
        self.server.ports.append(self.client_address[1])
        time.sleep(self.server.slow_s)
        self._answer(*(self.server.refusal or (200, json.dumps({"model_name": "m", "outputs": [OUTPUT]}).encode())))
        self.close_connection = self.server.hangs_up

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@contextmanager
def answering(column: str = "text") -> Iterator[Answering]:
    with Answering(column) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def answering_grpc(column: str = "text") -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """host:port, and what it was sent: headers, and bytes."""
    sent: list[tuple[dict[str, str], bytes]] = []

    def answer(made: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: made.SerializeToString())

    def infer(request: bytes, context: Any) -> bytes:
        sent.append((dict(context.invocation_metadata()), request))
        about = {"model_name": "m", "outputs": [{name: OUTPUT[name] for name in ("name", "datatype", "shape")}]}
        answered = ParseDict(about, messages.ModelInferResponse())
        answered.raw_output_contents.append(bytes(12))
        found: bytes = answered.SerializeToString()
        return found

    handlers = {
        "ServerMetadata": answer(ParseDict(SERVER, messages.ServerMetadataResponse())),
        "ModelConfig": answer(ParseDict({"config": described(column)}, messages.ModelConfigResponse())),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", sent
    finally:
        server.stop(None).wait()
