"""What `tritonserver` is started with: its command line, from what `Server` was told."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tldeploy.errors import UsageError
from tldeploy.runtime.triton.address import KEY_HEADER, KEY_VARIABLE

# An idle keep-alive connection holds a clean stop back for this long; Triton's default is 30.
EXIT_TIMEOUT_S = 5
# What only the server's owner needs: it changes what is served and logged, or maps memory. Health, metadata,
# configurations, statistics and inference are for everybody.
OPENABLE = ("shared-memory", "trace", "logging")
RESTRICTED = ("model-repository", *OPENABLE)
KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True)
class Listening:
    """Where a server listens."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int


def checked_key(key: str) -> str:
    """Raises UsageError for what is easy to guess, or does not fit into a header; the key itself is not said."""
    if not KEY.fullmatch(key):
        found = "it must have 16 to 128 letters, digits, - and _"
        fix = 'make one with `python -c "import secrets; print(secrets.token_urlsafe())"`'
        raise UsageError("use the server's key", found, fix)
    return key


def owners_key(file: Path | None) -> str | None:
    """The key in that file, or else of the environment; None where there is neither.

    It is not an argument of the command line, which everybody on the machine can read.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"read the server's key from {file}", str(error), "give a file that holds the key") from None


def server_flags(
    server_id: str,
    repositories: Sequence[Path],
    backends: Path,
    listening: Listening,
    key: str,
    opened: Collection[str],
    prefix: str,
) -> list[str]:
    """server_id: the name that it answers with. prefix: of its workers' shared memory.

    key: for the restricted protocols, but for those that are opened.
    """
    restricted = ",".join(protocol for protocol in RESTRICTED if protocol not in opened)
    return [
        f"--id={server_id}",
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-restricted-api={restricted}:{KEY_HEADER}={key}",
        f"--grpc-restricted-protocol={restricted}:{KEY_HEADER}={key}",
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
