"""The chart: what belongs together in it, and what of it hangs on the repository."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.triton import handmade
from tests.triton.manifests.made import OPEN_THREADS, chart_of, container_of, service_of
from tests.triton.manifests.templates import render
from tldeploy.triton.config import ENGINES_WITHIN_S
from tldeploy.triton.manifests.docker import dockerfile
from tldeploy.triton.manifests.needs import read_needs
from tldeploy.triton.server import Server


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
    handmade.classifier(tmp_path / "models", OPEN_THREADS)
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


def test_a_replica_has_longer_to_start_where_tensorrt_builds_engines(on_gpus: Path, tmp_path: Path) -> None:
    assert container_of(chart_of(on_gpus, tmp_path / "cuda"))["startupProbe"]["failureThreshold"] == 60
    assert "--start-period=120s" in dockerfile(read_needs(on_gpus))
    with (on_gpus / "classifier" / "config.pbtxt").open("a") as config:
        config.write('optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }\n')
    probe = container_of(chart_of(on_gpus, tmp_path / "tensorrt"))["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == ENGINES_WITHIN_S
    assert f"--start-period={ENGINES_WITHIN_S:g}s" in dockerfile(read_needs(on_gpus))


def test_an_image_that_is_not_named_stops_helm_and_not_us(repository: Path, tmp_path: Path) -> None:
    chart = chart_of(repository, tmp_path, image="")
    with pytest.raises(AssertionError, match="image is not set"):
        render(chart)
    assert container_of(chart, {"image": "ours:2"})["image"] == "ours:2"
