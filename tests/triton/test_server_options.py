"""What recipes ask of the server that serves them: its flags, and what a real server started with them does."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tests.tiny import LABELS, WORDS, answer, write_export
from tests.triton.manifests.made import IMAGE, STORAGE
from tldeploy import serving
from tldeploy.errors import UsageError
from tldeploy.recipe import Deploy, Metrics, Queue, RateLimit, Tracing
from tldeploy.runtime.triton import Client
from tldeploy.triton.repository import all_published, publish
from tldeploy.triton.server import GOLDEN_ROWS, Server
from tldeploy.triton.server_options import server_options

MIB = 2**20
LENGTHS = {"16": 5, "32": 2}
WAITING, REQUESTS = 2, 8


@dataclass
class Collector:
    """An OpenTelemetry collector: what was sent to it, span by span."""

    url: str
    spans: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in sent["resourceSpans"]:
                collected.spans.extend(span for scope in resource["scopeSpans"] for span in scope["spans"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Not to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collected
        server.shutdown()
        thread.join()


@dataclass
class Served:
    server: Server
    export: Path
    client: grpc.InferenceServerClient

    def executions(self, model: str) -> int:
        return int(self.statistics(model).execution_count)

    def ask(self, text: str, **parameters: Any) -> str:
        """The label of a text, or what the server says instead."""
        given = grpc.InferInput("text", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
        try:
            probabilities = self.client.infer("tiny", [given], **parameters).as_numpy("probabilities")[0]
        except InferenceServerException as error:
            return str(error.message())
        return LABELS[int(probabilities.argmax())]

    def statistics(self, model: str) -> Any:
        return self.client.get_inference_statistics(model).model_stats[0]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics") as page:
            text: str = page.read().decode()
        return text


@pytest.fixture(scope="module")
def served(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose steps wait for a batch to fill, so that what is asked at the same time waits, too."""
    place = tmp_path_factory.mktemp("options")
    export = write_export(place / "onnx", padded_lengths=LENGTHS)
    settings = Deploy(
        max_batch_size=REQUESTS,
        queue_delay_us=200_000,
        cache_mb=1,
        queue=Queue(max_size=WAITING, timeout_us=60_000_000, allow_timeout_override=True, priority_levels=2),
        rate_limit=RateLimit(resources={"slot": 1}, available={"slot": 3}, priority=2),
        metrics=Metrics(latency_summaries=True, interval_ms=100),
        tracing=Tracing(url=collector.url, rate=1),
    )
    publish(export, place / "repo", "tiny", settings)
    log: list[str] = []
    with Server(place / "repo", http_port=0, grpc_port=0, metrics_port=0, traced=True, log=log.append) as server:
        client = grpc.InferenceServerClient(server.grpc_url)
        assert any("rate_limit " in line and "EXEC_COUNT" in line for line in log)
        assert any("rate_limit_resource" in line and '"name":"slot", "count":3' in line for line in log)
        served = Served(server, export, client)
        # Before all questions but the golden ones: a text by itself for the one, each length for the other.
        assert becomes_true(lambda: served.executions("tiny.tokenize") == GOLDEN_ROWS + 1)
        assert becomes_true(lambda: served.executions("tiny.graph") == GOLDEN_ROWS + len(LENGTHS))
        yield served
        client.close()


def becomes_true(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_repeated_question_is_answered_from_the_cache(served: Served) -> None:
    text = "the battery is very good"
    with Client(served.server.http_url, model="tiny") as client:
        first, again = client.predict([text]), client.predict([text])
        ((label, probability),) = client.classify([text], top=1)[0]
    assert again.tolist() == first.tolist() == answer(served.export, [text]).tolist()
    assert (label, probability) == (LABELS[int(first.argmax())], pytest.approx(first.max(), abs=1e-6))
    assert becomes_true(lambda: served.statistics("tiny").inference_stats.cache_hit.count == 2)
    assert becomes_true(lambda: 'nv_cache_num_hits_per_model{model="tiny",version="1"} 2' in served.metrics())


def at_once(served: Served, about: str, count: int, **parameters: Any) -> list[str]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda word: served.ask(f"{about} {word}", **parameters), WORDS[:count]))


def test_a_full_queue_refuses_and_says_so(served: Served) -> None:
    said = at_once(served, "full", REQUESTS)
    refused = [words for words in said if words not in LABELS]
    assert len(refused) == REQUESTS - WAITING
    assert all("Exceeds maximum queue size" in words for words in refused)


def test_a_request_that_waits_longer_than_it_may_is_rejected(served: Served) -> None:
    assert "Request timeout expired" in served.ask("late", timeout=1)
    assert served.ask("in time", timeout=50_000_000) in LABELS


@pytest.mark.parametrize("priority", [1, 2, 3])
def test_priorities_are_accepted_and_those_beyond_are_the_default(served: Served, priority: int) -> None:
    assert served.ask(f"priority {priority}", priority=priority) in LABELS


def test_each_priority_has_a_queue_of_its_own(served: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        urgent = pool.submit(at_once, served, "urgent", WAITING, priority=1)
        others = pool.submit(at_once, served, "others", WAITING)
        assert set(urgent.result() + others.result()) <= set(LABELS)


def test_the_metrics_have_quantiles_of_the_latencies(served: Served) -> None:
    text = served.metrics()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    kinds = ("request", "queue", "compute_input", "compute_infer", "compute_output")
    assert families >= {f"nv_inference_{kind}_summary_us" for kind in kinds}
    assert families >= {"nv_inference_request_success", "nv_inference_queue_duration_us", "nv_cache_num_hits_per_model"}
    assert 'nv_inference_request_summary_us{model="tiny.graph",version="1",quantile="0.99"}' in text


def test_spans_of_the_ensemble_and_its_steps_arrive_at_the_collector(served: Served, collector: Collector) -> None:
    assert served.ask("please trace me") in LABELS

    def names() -> set[str]:
        return {span["name"] for span in collector.spans}

    assert becomes_true(lambda: names() >= {"InferRequest", "tiny", "tiny.tokenize", "tiny.graph"})


def test_without_a_collector_the_server_writes_a_file(tiny_export: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    publish(tiny_export, tmp_path / "repo", "tiny", Deploy(tracing=Tracing(file=str(file), rate=1)))
    with Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0, traced=True):
        pass  # it asks for the golden answers
    models = {event.get("model_name") for event in json.loads(file.read_text(encoding="utf-8"))}
    assert models >= {"tiny", "tiny.tokenize", "tiny.graph"}


def test_a_server_that_only_measures_neither_traces_nor_caches(tiny_export: Path, tmp_path: Path) -> None:
    settings = Deploy(cache_mb=1, tracing=Tracing(url="http://localhost:4318/v1/traces"))
    publish(tiny_export, tmp_path / "repo", "tiny", settings)
    assert server_options(all_published(tmp_path / "repo"), traced=False) == []
    with Server(tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0) as server:  # it asks for golden answers
        assert server.poll() is None


def flags_of(export: Path, repository: Path, **recipes: Deploy) -> list[str]:
    for name, settings in recipes.items():
        publish(export, repository, name, settings)
    return server_options(all_published(repository))


def test_a_server_of_models_that_ask_for_nothing_has_no_flags_of_theirs(tiny_export: Path, tmp_path: Path) -> None:
    assert flags_of(tiny_export, tmp_path / "repo", a=Deploy(), b=Deploy(queue=Queue(max_size=3))) == []


def test_what_recipes_ask_for_is_put_together(tiny_export: Path, tmp_path: Path) -> None:
    traced = Tracing(url="http://localhost:4318/v1/traces", rate=50)
    flags = flags_of(
        tiny_export,
        tmp_path / "repo",
        a=Deploy(cache_mb=8, rate_limit=RateLimit(resources={"slot": 1}, available={"slot": 2}), tracing=traced),
        b=Deploy(cache_mb=1, rate_limit=RateLimit(resources={"slot": 3, "x": 1}), metrics=Metrics(interval_ms=900)),
        c=Deploy(metrics=Metrics(latency_summaries=True, interval_ms=500), tracing=traced),
    )
    assert flags == [
        f"--cache-config=local,size={9 * MIB}",
        "--rate-limit=execution_count",
        "--rate-limit-resource=slot:3",
        "--metrics-config=summary_latencies=true",
        "--metrics-interval-ms=500",
        "--trace-config=mode=opentelemetry",
        "--trace-config=opentelemetry,url=http://localhost:4318/v1/traces",
        "--trace-config=rate=50",
        "--trace-config=level=TIMESTAMPS",
    ]


def test_two_places_for_the_traces_of_one_server_are_a_mistake(tiny_export: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a and b want their requests traced otherwise"):
        flags_of(
            tiny_export,
            tmp_path / "repo",
            a=Deploy(tracing=Tracing(file="/tmp/a.json")),
            b=Deploy(tracing=Tracing(file="/tmp/b.json")),
        )


def test_containers_are_started_with_the_same_flags(tiny_export: Path, tmp_path: Path) -> None:
    options = flags_of(tiny_export, tmp_path / "repo", m=Deploy(cache_mb=2, metrics=Metrics(latency_summaries=True)))
    assert len(options) == 2
    for kind in ("docker", "helm", "kserve"):
        serving.manifests(tmp_path / "repo", kind, tmp_path / kind, IMAGE, STORAGE)  # type: ignore[arg-type]  # a str
    command = json.loads((tmp_path / "docker" / "Dockerfile").read_text().rpartition("\nCMD ")[2])
    values = yaml.safe_load((tmp_path / "helm" / "m" / "values.yaml").read_text())
    service = yaml.safe_load((tmp_path / "kserve" / "inference-service.yaml").read_text())
    for flags in (command, values["flags"], service["spec"]["predictor"]["model"]["args"]):
        assert [flag for flag in flags if flag in options] == options
