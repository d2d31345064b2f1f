"""What `tritonserver` is started with: its command line, from what `Server` was told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tldeploy.triton.watch import KEY_HEADER

# An idle keep-alive connection holds a clean stop back for this long; Triton's default is 30.
EXIT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Listening:
    """Where a server listens."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int


def server_flags(
    server_id: str, repository: Path, backends: Path, listening: Listening, key: str, prefix: str
) -> list[str]:
    """server_id: the name that it answers with. key: for model control. prefix: of its workers' shared memory."""
    return [
        f"--id={server_id}",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-restricted-api=model-repository:{KEY_HEADER}={key}",
        f"--grpc-restricted-protocol=model-repository:{KEY_HEADER}={key}",
        f"--http-address={listening.host}",
        f"--http-port={listening.http_port}",
        f"--grpc-address={listening.host}",
        f"--grpc-port={listening.grpc_port}",
        f"--metrics-address={listening.host}",
        f"--metrics-port={listening.metrics_port}",
        f"--allow-gpu-metrics={str(Path('/dev/nvidiactl').exists()).lower()}",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--backend-config=onnxruntime,shm-region-prefix-name={prefix}",
    ]
