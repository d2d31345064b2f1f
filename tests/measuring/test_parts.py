"""Where the time of a served request goes: by counts that are known, and against the real server."""

from __future__ import annotations

import json

import pytest

from tldeploy.errors import ServerError
from tldeploy.measuring.parts import BETWEEN, OUTSIDE, Parts, measure_parts, spent_between
from tldeploy.runtime.triton import Client
from tldeploy.runtime.triton.statistics import Counted, counted
from tldeploy.triton.server import Server

MS = 1_000_000


def test_counts_are_read_alike_from_http_and_from_grpc_and_versions_add_up() -> None:
    """gRPC has 64-bit numbers as texts, and leaves out what is zero."""
    spent = {"success": {"count": "3", "ns": "900"}, "queue": {"ns": 100}, "compute_infer": {"count": "3", "ns": "500"}}
    one = {"name": "m", "version": "1", "inference_count": "6", "execution_count": 2, "inference_stats": spent}
    found = counted({"model_stats": [one, {**one, "version": "2"}, {"name": "idle"}]})
    assert found == {"m": Counted(6, 12, 4, 1800, 200, 0, 1000, 0), "idle": Counted()}
    assert spent_between(found, found)["m"] == Counted()


def test_the_parts_of_a_request_add_up_to_what_was_waited() -> None:
    spent = {
        "m": Counted(10, 10, 0, 80 * MS),
        "m.tokenize": Counted(10, 10, 10, 30 * MS, 2 * MS, 1 * MS, 20 * MS, 5 * MS),
        "m.graph": Counted(10, 10, 5, 45 * MS, 10 * MS, 0, 35 * MS, 0),
    }
    found = Parts.of("m", ["m.tokenize", "m.graph"], spent, 11.0)
    assert found.by_name() == pytest.approx(
        {
            OUTSIDE: 3.0,
            "tokenize: queue": 0.2,
            "tokenize: input": 0.1,
            "tokenize: infer": 2.0,
            "tokenize: output": 0.5,
            "graph: queue": 1.0,
            "graph: input": 0.0,
            "graph: infer": 3.5,
            "graph: output": 0.0,
            BETWEEN: 0.7,
        }
    )
    assert sum(found.by_name().values()) == pytest.approx(found.all_ms) == 11.0
    assert [step.rows_per_run for step in found.steps] == [1, 2]
    assert Parts.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_a_server_that_counted_nothing_is_named() -> None:
    with pytest.raises(ServerError, match="the server counted 0 requests to tiny"):
        Parts.of("tiny", (), {"tiny": Counted()}, 1.0)


def test_the_real_server_accounts_for_its_requests(tiny_server: Server) -> None:
    """Over either protocol, every request is counted; what they wait for is inside what the client waited."""
    rows = [f"row {number}" for number in range(32)]
    with (
        Client(tiny_server.http_url, model="tiny") as http,
        Client(tiny_server.grpc_url, model="tiny", protocol="grpc") as grpc,
    ):
        assert http.steps == grpc.steps == ("tiny.tokenize", "tiny.graph")
        before = http.statistics()
        assert before.keys() == grpc.statistics().keys() >= {"tiny", *http.steps}
        found = measure_parts([http, grpc], rows, [1, 4], 0.6, "parts")
        asked = [http.statistics()[name].requests - before[name].requests for name in ("tiny", *http.steps)]
    assert set(found) == {(0, 1), (1, 1), (0, 4), (1, 4)}
    assert asked == [sum(each.requests for each in found.values())] * 3
    for each in found.values():
        assert [step.name for step in each.steps] == ["tokenize", "graph"]
        assert 0 < each.outside_ms < each.all_ms
        assert all(step.infer_ms > 0 and step.rows_per_run >= 1 for step in each.steps)
        assert sum(each.by_name().values()) == pytest.approx(each.all_ms)
    merged = [each.steps[1].rows_per_run for (_, clients), each in found.items() if clients == 4]
    assert min(merged) > 1, "four clients at a time are merged, as the queue waits 5 ms for them"


def test_engines_that_are_no_servers_have_no_parts() -> None:
    assert measure_parts([], ["a"], [1], 0.1, "parts") == {}
