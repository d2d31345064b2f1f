"""What bench/fuzz.py sends: bytes for the HTTP and the gRPC port, made from sound requests and a random generator.

Each attack takes a Random and gives a Shot. They are spoilt requests (JSON, shapes, datatypes, lengths, messages),
spoilt content (texts, images, bombs), and connections that are not what they should be (noise, cut off, half closed).
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from PIL import Image
from tritonclient.grpc.service_pb2 import ModelInferRequest

SERVICE = "inference.GRPCInferenceService"
TEXT, IMAGE, GRAPH = "tiny", "squares", "tiny.graph"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Shot:
    """to: the port. content: bytes for a socket, or a message for `method`, of gRPC.

    ending: what happens to the connection when all is sent: it is kept, half closed, or closed at once.
    """

    to: Literal["http", "grpc"]
    content: bytes
    method: str = ""
    ending: Literal["kept", "half closed", "closed"] = "kept"
    headers: tuple[tuple[str, str], ...] = field(default=())


Attack = Callable[[Random], Shot]

NUMBERS = (-1, 0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64)
ODD = (None, True, "", "1", [], {}, 1.5, 1e308, "\0", "x" * 10_000, "../../etc/passwd", *NUMBERS)
DATATYPES = ("BYTES", "INT64", "INT32", "FP32", "FP64", "FP16", "BF16", "BOOL", "UINT8", "TEXT", "", "bytes")


def spoilt(content: bytes, draw: Random) -> bytes:
    """Some bytes changed, taken out, repeated or cut off."""
    whole = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        at = draw.randrange(len(whole) + 1)
        match draw.randrange(5):
            case 0:
                whole[at : at + 1] = draw.randbytes(1)
            case 1:
                del whole[at : at + draw.choice((1, 4, 100))]
            case 2:
                whole[at:at] = whole[at : at + draw.choice((1, 8, 200))]
            case 3:
                whole[at:at] = draw.choice((b"\0", b"\xff" * 8, b"[" * 1000, b'{"a":' * 1000, b"-1", b"9" * 400))
            case 4:
                del whole[at:]
    return bytes(whole)


def bytes_tensor(*rows: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(row)) + row for row in rows)


def a_text(draw: Random) -> bytes:
    signs = (
        "good ",
        "\0",
        "😀",
        "\u202e",
        "é",
        "e\u0301",
        "\U000e0001",
        "ﷺ",
        "\n",
        " ",
        "##",
        "[MASK]",
        "'",
        "<|>",
        "\ufffd",
    )
    match draw.randrange(4):
        case 0:
            return draw.randbytes(draw.choice((0, 1, 10, 1000)))
        case 1:
            return "".join(draw.choices(signs, k=draw.choice((1, 10, 300)))).encode()
        case 2:
            return (draw.choice(signs) * draw.choice((1, 5000, 60_000))).encode()
    return spoilt(b"not a very good camera, the battery is bad", draw)


def an_image(draw: Random) -> bytes:
    stream = io.BytesIO()
    form = draw.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"))
    size = (draw.choice((1, 7, 64, 300)), draw.choice((1, 7, 64, 300)))
    image = Image.new(draw.choice(("RGB", "L")), size, draw.randrange(255))
    options: dict[str, Any] = {}
    if form in {"GIF", "WEBP", "TIFF"} and draw.random() < 0.3:
        options = {"save_all": True, "append_images": [image] * draw.choice((1, 20))}
    image.save(stream, form, **options)
    match draw.randrange(6):
        case 0:
            return stream.getvalue()
        case 1:
            return stream.getvalue()[: draw.randrange(len(stream.getvalue()))]
        case 2:
            return a_bomb(draw)
    return spoilt(stream.getvalue(), draw)


def a_bomb(draw: Random) -> bytes:
    """Some kilobytes that ask for much: pixels, texts, strips, passes."""
    stream = io.BytesIO()
    match draw.randrange(4):
        case 0:
            side = draw.choice((3000, 50_000, 2**31 - 1))
            head = struct.pack(">IIBBBBB", side, side, 8, draw.choice((0, 2, 6)), 0, 0, 0)
            chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1_000_000))]
            parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
            return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
        case 1:
            Image.new("RGB", (6, 4)).save(stream, "PNG")
            note = b"k\0\0" + zlib.compress(b"a" * 20_000_000)
            chunk = struct.pack(">I", len(note)) + b"zTXt" + note + struct.pack(">I", zlib.crc32(b"zTXt" + note))
            return stream.getvalue()[:33] + chunk + stream.getvalue()[33:]
        case 2:
            Image.new("L", (64, 64)).save(stream, "JPEG", progressive=True)
            whole = stream.getvalue()
            return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * draw.choice((20, 2000)) + whole[-2:]
    count = draw.choice((1000, 60_000, 2**32 - 1))
    entries = [(256, 1), (257, count), (258, 8), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 122)]
    table = b"".join(struct.pack("<HHII", tag, 4, count if tag in {273, 279} else 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0) * min(count, 60_000)


def content_for(model: str, draw: Random) -> tuple[str, bytes]:
    """The name of a model's input, and its tensor of one row."""
    return ("text", bytes_tensor(a_text(draw))) if model == TEXT else ("image", bytes_tensor(an_image(draw)))


def http(method: str, path: str, body: bytes = b"", headers: dict[str, Any] | None = None) -> bytes:
    shown = {"Host": "x", "Content-Length": len(body), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in shown.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def infer(model: str, described: bytes, tensors: bytes = b"", **headers: Any) -> bytes:
    """A request for inference; with tensors, in Triton's extension for binary data."""
    length = {"Inference-Header-Content-Length": len(described)} if tensors else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return http("POST", f"/v2/models/{model}/infer", described + tensors, {**length, **given})


def described(draw: Random, name: str, shape: Any, datatype: Any, size: Any) -> bytes:
    given = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    wanted: dict[str, Any] = {"name": "probabilities", "parameters": {"binary_data": draw.random() < 0.5}}
    if draw.random() < 0.3:
        wanted["parameters"]["classification"] = draw.choice(ODD)
    return json.dumps({"inputs": [given], "outputs": [wanted]}).encode()


def http_content(draw: Random) -> Shot:
    """A sound request with odd content."""
    model = draw.choice((TEXT, IMAGE))
    name, tensor = content_for(model, draw)
    return Shot("http", infer(model, described(draw, name, [1, 1], "BYTES", len(tensor)), tensor))


def http_json(draw: Random) -> Shot:
    """JSON that is damaged."""
    model, name = draw.choice(((TEXT, "text"), (IMAGE, "image")))
    given = {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": ["good"]}
    return Shot("http", infer(model, spoilt(json.dumps({"id": "1", "inputs": [given]}).encode(), draw)))


def http_values(draw: Random) -> Shot:
    """Sound JSON whose values are not what they should be."""
    given: dict[str, Any] = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["good"], "parameters": {}}
    request: dict[str, Any] = {"id": "1", "inputs": [given], "outputs": [{"name": "probabilities"}], "parameters": {}}
    wanted = request["outputs"][0]
    for _ in range(draw.choice((1, 2, 4))):
        place = draw.choice((request, given, wanted))
        names = [*place, "sequence_id", "priority", "timeout", "shared_memory_region", "shared_memory_byte_size"]
        place[draw.choice(names)] = draw.choice((*ODD, [draw.choice(ODD)], {"x": draw.choice(ODD)}))
    return Shot("http", infer(TEXT, json.dumps(request).encode()))


def http_shapes(draw: Random) -> Shot:
    """Shapes, datatypes and sizes that do not go together."""
    model = draw.choice((TEXT, IMAGE, GRAPH))
    name, tensor = ("input_ids", draw.randbytes(64)) if model == GRAPH else content_for(model, draw)
    shape = [draw.choice(NUMBERS) for _ in range(draw.choice((0, 1, 2, 2, 3, 50)))]
    size = draw.choice((len(tensor), len(tensor) + 1, 0, *NUMBERS))
    return Shot("http", infer(model, described(draw, name, shape, draw.choice(DATATYPES), size), tensor))


def http_lengths(draw: Random) -> Shot:
    """Lengths that lie: of the header of binary data, of the body, of a string."""
    lie = draw.choice((0, 1, 10**6, *NUMBERS))
    tensor = struct.pack("<I", lie % 2**32) + b"good" if draw.random() < 0.5 else bytes_tensor(b"good")
    told = described(draw, "text", [1, 1], "BYTES", len(tensor))
    lies = [{"Inference_Header_Content_Length": lie}, {"Content_Length": lie}, {}]
    return Shot("http", infer(TEXT, told, tensor, **draw.choice(lies)), ending="half closed")


def http_nested(draw: Random) -> Shot:
    """JSON nested deep. Triton 2.51 itself ends at some 100,000 levels, compressed or not."""
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
    depth = draw.choice((50, 200, 5000, 300_000))
    inside = draw.choice(("", '{"inputs": [{"data": '))
    told = f"{inside}{opening * depth}1{closing * draw.choice((0, depth))}"
    return Shot("http", infer(TEXT, told.encode()))


def http_pieces(draw: Random) -> Shot:
    """A body in very many pieces."""
    head = http("POST", f"/v2/models/{TEXT}/infer", b"", {"Transfer-Encoding": "chunked", "Content-Length": None})
    return Shot("http", head + b"1\r\n \r\n" * draw.choice((10, 5000, 400_000)) + b"0\r\n\r\n")


def http_outputs(draw: Random) -> Shot:
    """Very many outputs or inputs."""
    given = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["good"]}
    many = draw.choice((10, 1000, 50_000))
    outputs = [{"name": "probabilities"}] * (many if draw.random() < 0.5 else 1)
    inputs = [given] * (many if draw.random() < 0.5 else 1)
    return Shot("http", infer(TEXT, json.dumps({"inputs": inputs, "outputs": outputs}).encode()))


def http_packed(draw: Random) -> Shot:
    """Compressed bodies: bombs, damaged ones, and what is none."""
    body = b"\0" * draw.choice((10, 20_000_000))
    packed = draw.choice(
        (gzip.compress(body, 1), zlib.compress(body), draw.randbytes(100), spoilt(gzip.compress(b"{}"), draw))
    )
    return Shot("http", infer(TEXT, packed, Content_Encoding=draw.choice(("gzip", "deflate", "br", "gzip, gzip"))))


def http_paths(draw: Random) -> Shot:
    """Addresses that are none, and those that are the owner's."""
    names = (TEXT, "..", "%2e%2e%2f", "a" * 70_000, "\0", "é", "", "tiny/versions/99999999999999999999", "tiny/../../x")
    paths = ("/v2/models/{}", "/v2/models/{}/config", "/v2/models/{}/stats", "/v2/repository/models/{}/load", "/{}")
    more = (
        "/v2/models/{}/trace/setting",
        "/v2/systemsharedmemory/region/{}/register",
        "/v2/logging",
        "/v2/models/{}/generate",
    )
    path = draw.choice((*paths, *more)).format(draw.choice(names))
    body = json.dumps({"parameters": {"config": "{}", "file:1/model.py": "eA=="}, "key": "/x", "offset": -1}).encode()
    return Shot("http", http(draw.choice(("GET", "POST", "PUT", "DELETE", "TRACE", "X" * 300)), path, body))


def http_noise(draw: Random) -> Shot:
    """Random bytes, or a damaged request, then often the end of the connection."""
    sound = infer(TEXT, b'{"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["good"]}]}')
    chunked = http("POST", f"/v2/models/{TEXT}/infer", b"", {"Transfer-Encoding": "chunked", "Content-Length": None})
    sent = draw.choice((draw.randbytes(1000), spoilt(sound, draw), sound[: draw.randrange(len(sound))], sound * 5))
    if draw.random() < 0.2:
        sent = chunked + draw.choice((b"5\r\nhello", b"ffffffffffffffff\r\n", b"-1\r\n\r\n", b"zz\r\n"))
    return Shot("http", sent, ending=draw.choice(("half closed", "closed")))


def a_message(draw: Random) -> ModelInferRequest:
    model = draw.choice((TEXT, IMAGE))
    name, tensor = content_for(model, draw)
    message = ModelInferRequest(model_name=model, raw_input_contents=[tensor])
    message.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
    return message


def grpc_content(draw: Random) -> Shot:
    return Shot("grpc", a_message(draw).SerializeToString(), f"/{SERVICE}/ModelInfer")


def grpc_values(draw: Random) -> Shot:
    """Sound messages whose values do not go together."""
    message = a_message(draw)
    for _ in range(draw.choice((1, 2, 3))):
        match draw.randrange(8):
            case 0:
                fitting = [number for number in NUMBERS if -(2**63) <= number < 2**63]
                message.inputs[0].shape[:] = draw.choices(fitting, k=draw.randrange(4))
            case 1:
                message.inputs[0].datatype = draw.choice(DATATYPES)
            case 2:
                message.raw_input_contents.append(draw.randbytes(draw.choice((0, 4, 1000))))
            case 3:
                del message.raw_input_contents[:]
            case 4:
                message.inputs[0].contents.int64_contents.extend([1] * draw.choice((0, 1, 1000)))
            case 5:
                message.inputs.add(name=draw.choice(("text", "image", "x")), datatype="BYTES", shape=[1, 1])
            case 6:
                wanted = message.outputs.add(name=draw.choice(("probabilities", "x")))
                wanted.parameters["classification"].int64_param = draw.choice((-1, 0, 2, 10**6, 2**62))
            case 7:
                message.parameters[draw.choice(("sequence_id", "priority", "timeout"))].int64_param = draw.choice(
                    (-1, 2**62)
                )
    return Shot("grpc", message.SerializeToString(), f"/{SERVICE}/ModelInfer")


def grpc_lengths(draw: Random) -> Shot:
    """A string that says it is longer or shorter than it is."""
    message = a_message(draw)
    message.raw_input_contents[0] = struct.pack("<I", draw.choice(NUMBERS) % 2**32) + b"good" * draw.randrange(3)
    return Shot("grpc", message.SerializeToString(), f"/{SERVICE}/ModelInfer")


def grpc_messages(draw: Random) -> Shot:
    """Damaged messages, for every method, and methods that are none."""
    methods = ("ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryModelLoad", "LogSettings", "TraceSetting",
               "SystemSharedMemoryRegister", "ServerReady", "RepositoryIndex", "Nothing", "")  # fmt: skip
    content = draw.choice((draw.randbytes(200), spoilt(a_message(draw).SerializeToString(), draw)))
    return Shot("grpc", content, f"/{SERVICE}/{draw.choice(methods)}")


def grpc_noise(draw: Random) -> Shot:
    """What is no HTTP/2, or begins as if it were."""
    frame = struct.pack(">I", draw.choice((0, 9, 2**14, 2**24 - 1)))[1:] + draw.randbytes(6)
    sent = draw.choice((draw.randbytes(500), PREFACE + draw.randbytes(300), PREFACE + frame * 50, http("GET", "/v2")))
    return Shot("grpc", sent, ending=draw.choice(("half closed", "closed")))


ATTACKS: tuple[Attack, ...] = (
    http_content,
    http_json,
    http_values,
    http_shapes,
    http_lengths,
    http_nested,
    http_pieces,
    http_outputs,
    http_packed,
    http_paths,
    http_noise,
    grpc_content,
    grpc_values,
    grpc_lengths,
    grpc_messages,
    grpc_noise,
)

# What ends Triton itself is sent through the gate only.
ENDS_TRITON = (http_nested,)
