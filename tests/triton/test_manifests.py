"""Manifests: what they say of a repository, and whether clusters know their fields and the server its flags."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.triton import lint_corpus as corpus
from tests.triton.helm_templates import render
from tldeploy import pipeline
from tldeploy.cli import execute
from tldeploy.errors import ArtifactError, MachineError, QualityError, TldeployError, UsageError
from tldeploy.recipe import Deploy
from tldeploy.triton import home
from tldeploy.triton.manifests.docker import dockerfile, server_flags
from tldeploy.triton.manifests.needs import _cluster_name, read_needs
from tldeploy.triton.manifests.writing import Kind
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server, free_ports

FIELDS = json.loads(Path(__file__).with_name("cluster_fields.json").read_text(encoding="utf-8"))
IMAGE, STORAGE = "registry.example.com/reviews:1", "s3://models/triton_repo"
GPU_CONFIG = corpus.put("count: 2 kind: KIND_CPU", "count: 1 kind: KIND_GPU gpus: [ 0, 1 ]")
OPEN_THREADS = corpus.put('parameters { key: "intra_op_thread_count" value { string_value: "4" } }\n', "")


@pytest.fixture(scope="module")
def repository(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a text model, the newer one of them served."""
    place = tmp_path_factory.mktemp("manifests") / "triton_repo"
    for instances in (1, 2):
        publish(tiny_export, place, "My_reviews", Deploy(queue_delay_us=500, instances=instances))
    return place


@pytest.fixture
def on_gpus(tmp_path: Path) -> Path:
    corpus.classifier(tmp_path / "gpu_models", GPU_CONFIG)
    return tmp_path / "gpu_models"


def chart_of(repository: Path, out: Path, image: str = IMAGE) -> Path:
    pipeline.manifests(repository, "helm", out, image)
    return next(out.iterdir())


def service_of(repository: Path, out: Path, image: str = IMAGE) -> dict[str, Any]:
    pipeline.manifests(repository, "kserve", out, image, STORAGE)
    service: dict[str, Any] = yaml.safe_load((out / "inference-service.yaml").read_text(encoding="utf-8"))
    return service


def container_of(chart: Path, values: dict[str, Any] | None = None) -> dict[str, Any]:
    container: dict[str, Any]
    (container,) = render(chart, values)["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    return container


# What is read


def test_what_clients_call_is_no_step_of_an_ensemble(repository: Path, tmp_path: Path) -> None:
    needs = read_needs(repository)
    assert (needs.called, needs.name) == (("My_reviews",), "my-reviews")
    corpus.classifier(tmp_path)
    corpus.python_model(tmp_path, corpus.put('"crop"', '"other"', corpus.CROP), "other")
    assert read_needs(tmp_path).called == ("classifier", "other")


def test_a_python_step_needs_what_it_imports_in_the_versions_here(repository: Path, tmp_path: Path) -> None:
    assert read_needs(repository).packages == {"tokenizers": metadata.version("tokenizers")}
    step = corpus.python_model(tmp_path) / "1"
    (step / "ours.py").write_text("from . import other\n")
    (step / "model.py").write_text("import json, ours\nimport numpy as np\ndef f():\n    from PIL.Image import open\n")
    assert read_needs(tmp_path).packages == {"pillow": metadata.version("pillow")}


def test_a_step_with_an_environment_of_its_own_needs_no_package(tmp_path: Path) -> None:
    own = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/envs/crop" } }\n'
    (corpus.python_model(tmp_path, corpus.CROP + own) / "1" / "model.py").write_text("import PIL\n")
    assert read_needs(tmp_path).packages == {}


def test_cores_are_those_that_the_threads_of_all_instances_keep_busy(tmp_path: Path) -> None:
    corpus.classifier(tmp_path / "said")
    corpus.classifier(tmp_path / "open", OPEN_THREADS)
    said, left_open = read_needs(tmp_path / "said"), read_needs(tmp_path / "open")
    assert (said.cores, said.open_threads) == (8, False)
    assert (left_open.cores, left_open.open_threads) == (2, True)


def test_memory_grows_with_the_files_and_the_instances(tmp_path: Path) -> None:
    model = corpus.classifier(tmp_path)
    assert read_needs(tmp_path).memory_gib == 2
    with (model / "1" / "weights.bin").open("wb") as sparse:
        sparse.truncate(2**30)
    assert read_needs(tmp_path).memory_gib == 1 + 2 * 2 + 1  # a little over 1 GiB, twice, in two instances


def test_spaces_in_the_path_stay_behind(tmp_path: Path) -> None:
    corpus.classifier(tmp_path / "my models")
    made = pipeline.manifests(tmp_path / "my models", "docker", tmp_path / "my image")
    assert made.next.endswith(f"'{tmp_path / 'my image' / 'Dockerfile'}' '{tmp_path / 'my models'}'")


@given(st.text())
def test_a_name_is_one_that_kubernetes_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", _cluster_name(name))
    assert len(_cluster_name(name)) <= 46


# Docker


def test_the_image_has_the_packages_the_models_and_no_version_that_is_not_served(
    repository: Path, tmp_path: Path
) -> None:
    config = repository / "My_reviews" / "config.pbtxt"
    assert "versions: 2" in config.read_text()
    made = pipeline.manifests(repository, "docker", tmp_path)
    lines = (tmp_path / "Dockerfile").read_text().splitlines()
    assert "FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3" in lines
    assert any(
        line.startswith("RUN ") and line.endswith(f" tokenizers=={metadata.version('tokenizers')}") for line in lines
    )
    assert [line for line in lines if line.startswith(("COPY", "USER"))] == [
        "COPY --chmod=0555 . /models",
        "USER 1000:1000",
    ]
    assert (tmp_path / "Dockerfile.dockerignore").read_text().splitlines()[-1] == "My_reviews/1"
    assert made.next == f"docker build -t my-reviews -f {tmp_path / 'Dockerfile'} {repository}"


def test_an_image_without_python_steps_installs_nothing(tmp_path: Path) -> None:
    corpus.classifier(tmp_path)
    assert "RUN" not in dockerfile(read_needs(tmp_path))


def test_only_complete_configurations_are_not_completed(tmp_path: Path) -> None:
    corpus.classifier(tmp_path)
    assert "--disable-auto-complete-config" in server_flags(read_needs(tmp_path))
    (tmp_path / "classifier" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    assert "--disable-auto-complete-config" not in server_flags(read_needs(tmp_path))


@pytest.fixture(scope="module")
def served_by_its_manifests(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    """The real server, started by the flags of the Dockerfile and the chart, but here: on loopback and free ports."""
    out = tmp_path_factory.mktemp("flags")
    pipeline.manifests(repository, "docker", out)
    command = json.loads((out / "Dockerfile").read_text().rpartition("\nCMD ")[2])
    chart = chart_of(repository, out / "chart")
    assert container_of(chart, {"threadPool": False})["args"] == command
    flags = container_of(chart, {"threadPool": True})["args"][1:]
    here = [flag.replace("0.0.0.0", "127.0.0.1").replace("=/models", f"={repository}") for flag in flags]
    ports = (http, grpc, metrics) = tuple(free_ports())
    place = home.locate()
    here += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    here += [f"--backend-directory={place.backends}"]
    with (out / "log").open("wb") as log:
        server = subprocess.Popen([place.program, *here], env=dict(place.variables), stdout=log, stderr=log)
    try:
        yield out, ports
    finally:
        server.terminate()
        server.wait(60)


def test_the_server_takes_the_flags_and_the_health_check_finds_it_ready(
    served_by_its_manifests: tuple[Path, tuple[int, int, int]],
) -> None:
    out, (http, _, _) = served_by_its_manifests
    (line,) = [line for line in (out / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK")]
    check = json.loads(line.partition(" CMD ")[2].replace(":8000/", f":{http}/"))
    check[0] = sys.executable
    deadline = time.monotonic() + 120
    while subprocess.run(check, check=False, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    assert subprocess.run(check, check=False).returncode == 0, (out / "log").read_text()
    container = container_of(next((out / "chart").iterdir()))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        with urllib.request.urlopen(f"http://127.0.0.1:{http}{container[probe]['httpGet']['path']}") as answer:
            assert answer.status == 200


# Helm


def test_what_belongs_together_in_the_chart_has_the_same_names(repository: Path, tmp_path: Path) -> None:
    made = render(chart_of(repository, tmp_path))
    deployment, service, scaler = made["deployment.yaml"], made["service.yaml"], made["autoscaler.yaml"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert made["disruption-budget.yaml"]["spec"]["selector"]["matchLabels"] == labels
    spreads = [spread["labelSelector"]["matchLabels"] for spread in pod["spec"]["topologySpreadConstraints"]]
    assert spreads == [labels, labels]
    monitor = made["service-monitor.yaml"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    assert {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")} <= ports
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}


def test_a_replica_runs_without_privileges(repository: Path, tmp_path: Path) -> None:
    pod = render(chart_of(repository, tmp_path))["deployment.yaml"]["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_metrics_that_the_server_has(
    repository: Path, tmp_path: Path, tiny_server: Server
) -> None:
    chart = chart_of(repository, tmp_path)
    scaler = render(chart, {"autoscaling.rowsPerSecond": 150})["autoscaler.yaml"]["spec"]
    asked = {entry["pods"]["metric"]["name"]: entry["pods"]["target"]["averageValue"] for entry in scaler["metrics"]}
    assert asked == {"triton_queue_us_per_request": "10500", "triton_rows_per_second": "150"}
    rules = yaml.safe_load((chart / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert {rule["name"]["as"] for rule in rules} == set(asked)
    with urllib.request.urlopen(f"http://127.0.0.1:{tiny_server.metrics_port}/metrics") as answer:
        exposed = set(re.findall(r"^(\w+)\{model=", answer.read().decode(), flags=re.MULTILINE))
    used = {name for rule in rules for name in re.findall(r"nv_\w+", rule["seriesQuery"] + rule["metricsQuery"])}
    assert used == {"nv_inference_queue_duration_us", "nv_inference_request_success", "nv_inference_count"}
    assert used <= exposed


def test_the_number_of_replicas_is_the_autoscalers_alone(repository: Path, tmp_path: Path) -> None:
    chart = chart_of(repository, tmp_path)
    assert "replicas" not in render(chart)["deployment.yaml"]["spec"]
    without = render(chart, {"autoscaling.enabled": False, "monitoring.enabled": False})
    assert without["deployment.yaml"]["spec"]["replicas"] == 2
    assert set(without) == {"deployment.yaml", "service.yaml", "disruption-budget.yaml"}


def test_a_shared_pool_has_as_many_threads_as_cores_are_asked_for(tmp_path: Path) -> None:
    corpus.classifier(tmp_path / "models", OPEN_THREADS)
    chart = chart_of(tmp_path / "models", tmp_path / "out")
    container = container_of(chart, {"cores": 6})
    assert "--backend-config=onnxruntime,intra_op_thread_count=6" in container["args"]
    assert container["resources"]["requests"]["cpu"] == 6


def test_gpus_are_asked_for_where_an_instance_group_is_on_them(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    chart = chart_of(on_gpus, tmp_path / "gpu")
    container = container_of(chart)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "--allow-gpu-metrics=false" not in container["args"]
    (toleration,) = render(chart)["deployment.yaml"]["spec"]["template"]["spec"]["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"
    assert service_of(on_gpus, tmp_path / "service")["spec"]["predictor"]["model"]["resources"]["limits"] == {
        "cpu": "2",
        "memory": "2Gi",
        "nvidia.com/gpu": "2",
    }
    assert "--gpus 2" in dockerfile(read_needs(on_gpus))
    on_cpu = container_of(chart_of(repository, tmp_path / "cpu"))
    assert set(on_cpu["resources"]["limits"]) == {"memory"}
    assert "--allow-gpu-metrics=false" in on_cpu["args"]


def test_an_image_that_is_not_named_stops_helm_and_not_us(repository: Path, tmp_path: Path) -> None:
    chart = chart_of(repository, tmp_path, image="")
    with pytest.raises(AssertionError, match="image is not set"):
        render(chart)
    assert container_of(chart, {"image": "ours:2"})["image"] == "ours:2"


# KServe


def test_kserve_gets_the_repository_the_image_and_the_runtime(repository: Path, tmp_path: Path) -> None:
    service = service_of(repository, tmp_path)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["metadata"]["name"] == "my-reviews"
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 10)
    assert (model["modelFormat"]["name"], model["runtime"]) == ("triton", "kserve-tritonserver")
    assert (model["protocolVersion"], model["storageUri"], model["image"]) == ("v2", STORAGE, IMAGE)
    assert model["args"] == ["--disable-auto-complete-config", "--allow-gpu-metrics=false"]
    assert model["resources"]["requests"]["cpu"] == model["resources"]["limits"]["cpu"]
    head = (tmp_path / "inference-service.yaml").read_text().partition("\napiVersion")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert all(named in head for named in ("My_reviews", "kserve-tritonserver", STORAGE, IMAGE))


def test_without_python_steps_the_runtimes_own_image_will_do(tmp_path: Path) -> None:
    corpus.classifier(tmp_path / "models", OPEN_THREADS)
    model = service_of(tmp_path / "models", tmp_path / "out", image="")["spec"]["predictor"]["model"]
    assert "image" not in model
    assert "--backend-config=onnxruntime,intra_op_thread_count=2" in model["args"]


@pytest.mark.parametrize(
    ("image", "storage", "said"),
    [
        ("", STORAGE, "need tokenizers, which KServe's own image of Triton has not"),
        (IMAGE, "", "no storage address is given"),
        (IMAGE, "models/reviews", "the storage address is 'models/reviews'"),
    ],
)
def test_kserve_wants_an_image_with_the_packages_and_an_address(
    image: str, storage: str, said: str, repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        pipeline.manifests(repository, "kserve", tmp_path / "out", image, storage)
    assert not (tmp_path / "out").exists()


# What clusters know


def objects_of(repository: Path, out: Path) -> list[dict[str, Any]]:
    everything = {"autoscaling.rowsPerSecond": 100, "monitoring.labels": {"release": "p"}, "nodeSelector": {"a": "b"}}
    secrets = {"imagePullSecrets": [{"name": "registry"}]}
    made = render(chart_of(repository, out / "chart"), everything | secrets)
    return [*made.values(), service_of(repository, out / "service")]


def unknown(found: Any, known: Any, path: str = "") -> Iterator[str]:
    """The paths of fields that are not among the known names. "*": any name will do."""
    if isinstance(found, list):
        for item in found:
            yield from unknown(item, known, path)
    elif isinstance(found, dict) and known != "*":
        for name, value in found.items():
            if not isinstance(known, dict) or name not in known:
                yield f"{path}.{name}"
            else:
                yield from unknown(value, known[name], f"{path}.{name}")


def test_every_field_is_one_that_is_published(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    kinds = set()
    for place in (repository, on_gpus):
        for made in objects_of(place, tmp_path / "out" / place.name):
            assert list(unknown(made, FIELDS[made["kind"]])) == []
            kinds.add(made["kind"])
    assert kinds == FIELDS.keys() - {"source"}


def test_a_misspelt_field_would_be_found() -> None:
    made = {"kind": "Service", "spec": {"ports": [{"name": "http", "targetport": 1}], "selector": {"any": "name"}}}
    assert list(unknown(made, FIELDS["Service"])) == [".spec.ports.targetport"]


def test_kubernetes_own_schemas_accept_every_object(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for place in (repository, on_gpus):
        for made in objects_of(place, tmp_path / "out" / place.name):
            if made["kind"] not in {"InferenceService", "ServiceMonitor"}:
                for version in ("1.25", "1.37"):
                    validator.validate(made, version, strict=True)


def test_helm_makes_the_same_of_the_chart(repository: Path, on_gpus: Path, tmp_path: Path) -> None:
    helm = pytest.importorskip("helm_python")
    for place in (repository, on_gpus):
        chart = chart_of(place, tmp_path / "out" / place.name)
        for values in ({}, {"autoscaling": {"enabled": False}, "monitoring": {"enabled": False}}):
            with helm.Chart.load(str(chart)) as loaded:
                made = loaded.render(values, name="demo", namespace="default")
            documents = {Path(name).name: yaml.safe_load(text) for name, text in made.items() if name.endswith(".yaml")}
            paths = {f"{name}.{key}": value for name, inner in values.items() for key, value in inner.items()}
            assert {name: found for name, found in documents.items() if found} == render(chart, paths)


# Errors, and files that are there


def broken(place: Path) -> None:
    corpus.classifier(place, corpus.put("TYPE_FP32", "TYPE_INT32"))


def unparsable(place: Path) -> None:
    (corpus.python_model(place) / "1" / "model.py").write_text("def f(:\n")


def needing_what_is_not_here(place: Path) -> None:
    (corpus.python_model(place) / "1" / "model.py").write_text("import module_that_nobody_has\n")


@pytest.mark.parametrize(
    ("write", "kind", "said"),
    [
        (lambda place: None, ArtifactError, "no such folder"),
        (lambda place: place.mkdir(), ArtifactError, "no model is in it"),
        (broken, QualityError, "a server would refuse it: classifier/config.pbtxt"),
        (unparsable, ArtifactError, "no Python that this version reads"),
        (needing_what_is_not_here, MachineError, "crop imports module_that_nobody_has, which is not installed here"),
        (lambda place: corpus.classifier(place.parent).rename(place), UsageError, "it is a model, not a repository"),
    ],
)
@pytest.mark.parametrize("wanted", ["docker", "helm", "kserve"])
def test_a_repository_that_cannot_be_served_is_one_clear_error(
    wanted: Kind, write: Any, kind: type[TldeployError], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "models")
    with pytest.raises(kind, match=re.escape(said)) as raised:
        pipeline.manifests(tmp_path / "models", wanted, tmp_path / "out", IMAGE, STORAGE)
    assert raised.value.fix
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_repository(on_gpus: Path) -> None:
    with pytest.raises(UsageError, match="a server would take it for a model"):
        pipeline.manifests(on_gpus, "docker", on_gpus / "manifests")
    assert [path.name for path in on_gpus.iterdir()] == ["classifier"]


@pytest.mark.parametrize("kind", ["docker", "helm", "kserve"])
def test_what_was_changed_by_hand_is_kept_unless_told(kind: Kind, repository: Path, tmp_path: Path) -> None:
    first = pipeline.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    again = pipeline.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    assert (again.written, again.unchanged) == ((), first.written)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ours, removed = tmp_path / first.written[0], tmp_path / first.written[-1]
    ours.write_text("# mine\n")
    if removed != ours:
        removed.unlink()
    with pytest.raises(UsageError, match=f"other files already: {first.written[0]}\n"):
        pipeline.manifests(repository, kind, tmp_path, IMAGE, STORAGE)
    assert ours.read_text() == "# mine\n"
    assert removed == ours or not removed.exists()
    pipeline.manifests(repository, kind, tmp_path, IMAGE, STORAGE, force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_command_says_what_it_wrote(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["manifests", str(repository), "--for", "docker", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["written"] == ["Dockerfile", "Dockerfile.dockerignore"]
    assert (answer["for"], answer["models"], answer["gpus"]) == ("docker", ["My_reviews"], 0)
    assert (tmp_path / "manifests" / "Dockerfile").is_file()
    assert execute(["manifests", str(repository), "--for", "docker"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("unchanged: manifests/Dockerfile\n")
    assert "next: docker build -t my-reviews -f manifests/Dockerfile " in shown
    assert execute(["manifests", str(repository), "--for", "kserve"]) == 2
