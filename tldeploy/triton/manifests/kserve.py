"""A KServe InferenceService: KServe fetches the repository from storage and runs Triton on it.

Its Triton runtime, `kserve-tritonserver`, loads what lies below `storageUri` from /mnt/models, listens on the ports
that KServe wants, and appends `args` to its own; limits that are not given here stay the runtime's, one core and 2 GiB.
So there has to be a limit of cores, unlike in the chart: Kubernetes refuses one below what is asked for.
Its image has no packages for Python steps, so these need an image of ours.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tldeploy.errors import UsageError
from tldeploy.triton.manifests.docker import load_flags
from tldeploy.triton.manifests.helm import SHARED_MEMORY, commented
from tldeploy.triton.manifests.needs import Needs

RUNTIME = "kserve-tritonserver"


def inference_service(needs: Needs, image: str, storage_uri: str) -> str:
    """One YAML document. image: "" for the runtime's own. storage_uri: of the repository's root.

    Raises UsageError for an address that is none, and when Python steps need packages and no image is given.
    """
    asked = f"write an InferenceService for {needs.repository}"
    if not re.fullmatch(r"[a-z0-9]+://\S+", storage_uri):
        found = f"the storage address is {storage_uri!r}" if storage_uri else "no storage address is given"
        fix = "say where the cluster finds the repository, as in --storage-uri s3://models/triton_repo or pvc://claim/path"
        raise UsageError(asked, found, fix)
    if needs.packages and not image:
        found = f"its Python steps need {' and '.join(needs.packages)}, which KServe's own image of Triton has not"
        fix = "build and push the image of `--for docker`, and give its name with --image"
        raise UsageError(asked, found, fix)
    limits = {"memory": f"{needs.memory_gib}Gi"} | ({"nvidia.com/gpu": str(needs.gpus)} if needs.gpus else {})
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": storage_uri,
        **({"image": image} if image else {}),
        "args": load_flags(needs) + _pool(needs),
        "resources": {
            "requests": {"cpu": str(needs.cores), "memory": f"{needs.memory_gib}Gi"},
            "limits": {"cpu": str(needs.cores), **limits},
        },
    }
    predictor: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 10, "model": model}
    if needs.has_python:
        shared = {"medium": "Memory", "sizeLimit": SHARED_MEMORY}
        model["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        predictor["volumes"] = [{"name": "shared-memory", "emptyDir": shared}]
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": needs.name},
        "spec": {"predictor": predictor},
    }
    text: str = yaml.safe_dump(service, sort_keys=False, width=1000)
    return f"{_head(needs, image, storage_uri)}\n{text}"


def _pool(needs: Needs) -> list[str]:
    """As in the chart: as many threads as cores, where the models leave it to onnxruntime."""
    if not needs.open_threads:
        return []
    settings = ("enable-global-threadpool=1", f"intra_op_thread_count={needs.cores}", "inter_op_thread_count=1")
    return [f"--backend-config=onnxruntime,{setting}" for setting in settings]


def _head(needs: Needs, image: str, storage_uri: str) -> str:
    lines = [
        f"Serves {', '.join(needs.called)}. What must be there:",
        f"- KServe, with its ClusterServingRuntime {RUNTIME}; `kubectl get clusterservingruntimes` lists it.",
        f"- The repository's folders, as they are, below {storage_uri}, and a service account that may read them.",
    ]
    if image:
        lines.append(f"- The image {image}, built by `tldeploy manifests --for docker`, where the nodes can pull it.")
    if needs.gpus:
        lines.append(f"- Nodes with {needs.gpus} NVIDIA GPU{'s' if needs.gpus > 1 else ''} and the device plugin.")
    lines.append(
        "A limit of cores stops a replica in the middle of a request. Without one here KServe's own holds, which is "
        "one core: raise it to the node's cores where others leave them free."
    )
    lines.append("Memory is a first guess, 1 GiB and twice the models' files for each instance. Measure, then set it.")
    return "\n".join(map(commented, lines))
