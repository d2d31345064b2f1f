"""A Dockerfile: NVIDIA's image, what the Python steps need, and the repository.

The repository is part of the image: a replica that starts is whole, needs no storage, and an older image is the older
models.
"""

from __future__ import annotations

import json

from tldeploy.triton.config import ENGINES_WITHIN_S
from tldeploy.triton.manifests.needs import Needs

# The release whose onnxruntime the linter and the export stage aim at: opset 20, IR version 10.
RELEASE = "26.09"
# The user that NVIDIA's image has for the server.
USER = 1000
# A request that runs may end. Idle keep-alive connections hold a stop back for all of it.
EXIT_TIMEOUT_S = 15
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002


def server_flags(needs: Needs, model_repository: str = "/models") -> list[str]:
    """tritonserver's flags inside a container, where loopback is the container's own and would reach nobody."""
    flags = [f"--model-repository={model_repository}"]
    flags += [f"--{name}-address=0.0.0.0" for name in ("http", "grpc", "metrics")]
    flags.append(f"--exit-timeout-secs={EXIT_TIMEOUT_S}")
    return flags + load_flags(needs)


def load_flags(needs: Needs) -> list[str]:
    """Those that hang on the repository."""
    flags = ["--disable-auto-complete-config"] if needs.complete else []
    return [*flags, *([] if needs.gpus else ["--allow-gpu-metrics=false"]), *needs.options]


def dockerfile(needs: Needs) -> str:
    pip = "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --no-deps --only-binary :all:"
    pins = " ".join(f"{name}=={version}" for name, version in needs.packages.items())
    ready = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{HTTP_PORT}/v2/health/ready', timeout=2)"
    gpus = f" --gpus {needs.gpus}" if needs.gpus else ""
    start_s = ENGINES_WITHIN_S if needs.builds_engines else 120
    ports = f"{HTTP_PORT}-{METRICS_PORT}"
    lines = [
        f"# Serves {', '.join(needs.called)}. The context of the build is the model repository:",
        f"#   docker build -t {needs.name} -f Dockerfile {needs.repository.name}",
        "# Whoever reaches the ports may use the models: publish them on loopback, or put a proxy in front.",
        f"#   docker run --rm{gpus} --shm-size 256m -p 127.0.0.1:{ports}:{ports} {needs.name}",
        f"ARG TRITON={RELEASE}",
        "FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3",
    ]
    if needs.packages:
        lines += ["", "# What the Python steps import, in the versions that tldeploy itself runs.", f"RUN {pip} {pins}"]
    lines += [
        "",
        "ENV PYTHONDONTWRITEBYTECODE=1",
        "COPY --chmod=0555 . /models",
        f"USER {USER}:{USER}",
        f"EXPOSE {HTTP_PORT} {GRPC_PORT} {METRICS_PORT}",
        "",
        "# Ready means that every model is loaded. A worker that died later is not seen: watch failed requests, too.",
        f"HEALTHCHECK --start-period={start_s:g}s --interval=10s --timeout=5s "
        f"CMD {json.dumps(['python3', '-c', ready])}",
        f"CMD {json.dumps(['tritonserver', *server_flags(needs)])}",
    ]
    return "\n".join(lines) + "\n"


def dockerignore(needs: Needs) -> str:
    """What the server does not read."""
    return "".join(f"{path}\n" for path in ("README.md", "**/.*", "**/__pycache__", *needs.unserved))
