"""A Helm chart for the image of docker.py: several replicas, scaled by Triton's own metrics.

The templates in chart/ are copied as they are. Chart.yaml and values.yaml are written for the repository.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from tldeploy.triton.config import ENGINES_WITHIN_S
from tldeploy.triton.manifests.docker import RELEASE, USER, server_flags
from tldeploy.triton.manifests.needs import Needs

CHART = Path(__file__).with_name("chart")
# Above the wait that batching adds by itself, a request that queues for so long wants another replica.
QUEUE_US = 10_000
# Python steps hand tensors over in /dev/shm, of which a container has 64 MB by itself.
SHARED_MEMORY = "256Mi"


def chart(needs: Needs, image: str) -> dict[str, str]:
    """Path inside the chart to its text. image: "" leaves it to `helm install --set image=…`."""
    files = {
        path.relative_to(CHART).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(CHART.rglob("*"))
        if path.is_file()
    }
    about = {
        "apiVersion": "v2",
        "name": needs.name,
        "description": f"Triton with {', '.join(needs.called)}",
        "type": "application",
        "version": "0.1.0",
        "appVersion": RELEASE,
        "kubeVersion": ">=1.25.0-0",
    }
    return {"Chart.yaml": _dumped(about), "values.yaml": _values(needs, image)} | files


def _values(needs: Needs, image: str) -> str:
    gpu_nodes = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if needs.gpus else []
    blocks: list[tuple[str, dict[str, Any]]] = [
        ("The image that --for docker describes, with the models in it.", {"image": image, "imagePullSecrets": []}),
        ("Of tritonserver.", {"flags": server_flags(needs)}),
        (
            "Of each replica. cores is asked for, and not a limit: a limit stops a replica in the middle of a request.",
            {"cores": needs.cores},
        ),
        (
            "onnxruntime starts a thread for every core of the node, whatever a pod may use. A pool of as many threads "
            "as cores, shared by all models, keeps to what is asked for. It overrules intra_op_thread_count.",
            {"threadPool": needs.open_threads},
        ),
        (
            "A first guess, 1 GiB and twice the models' files for each instance. Measure, then set it. It is also the "
            "limit, and shared memory counts.",
            {"memory": f"{needs.memory_gib}Gi", "sharedMemory": SHARED_MEMORY},
        ),
        ("As many as the largest instance group on GPUs takes.", {"gpus": needs.gpus}),
        ("Where replicas may run.", {"nodeSelector": {}, "tolerations": gpu_nodes}),
        (
            "A replica has 5 s for each try until its models are loaded.",
            {"startupTries": int(ENGINES_WITHIN_S) // 5 if needs.builds_engines else 60},
        ),
        ("Without autoscaling.", {"replicas": 2}),
        (
            "Needs the Prometheus operator and its adapter, see prometheus-adapter.yaml. queueUs: the mean wait of a "
            f"request in µs above which replicas are added; {needs.queue_delay_us} of it are what the models wait for "
            "a batch to fill. rowsPerSecond: what a replica is to carry, from your own benchmark; 0 leaves it out.",
            {
                "autoscaling": {
                    "enabled": True,
                    "minReplicas": 2,
                    "maxReplicas": 10,
                    "queueUs": needs.queue_delay_us + QUEUE_US,
                    "rowsPerSecond": 0,
                }
            },
        ),
        (
            "Needs the Prometheus operator. labels: those that its serviceMonitorSelector asks for.",
            {"monitoring": {"enabled": True, "labels": {}}},
        ),
        (
            "Not root, no privileges, and nothing to write to but /tmp and /dev/shm.",
            {
                "podSecurityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            },
        ),
    ]
    return "\n".join(f"{commented(about)}\n{_dumped(values)}" for about, values in blocks)


def commented(text: str) -> str:
    """Lines of a comment, of at most 120 characters."""
    return textwrap.fill(text, 120, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _dumped(values: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text
