"""tldeploy serve"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli.show import json_option, print_json
from tldeploy.progress import say

if TYPE_CHECKING:
    from tldeploy.triton.server import Server

PORT = click.IntRange(0, 65535)


@click.command("serve")
@click.argument("repository", default="triton_repo")
@click.option("--http-port", type=PORT, default=8000, show_default=True, help="Port for HTTP; 0: a free one.")
@click.option("--grpc-port", type=PORT, default=8001, show_default=True, help="Port for gRPC; 0: a free one.")
@click.option("--metrics-port", type=PORT, default=8002, show_default=True, help="Port for metrics; 0: a free one.")
@json_option
def command(repository: str, http_port: int, grpc_port: int, metrics_port: int, as_json: bool) -> None:
    """Serve a model repository with a real Triton server, on this machine only, until Ctrl-C.

    Uses the tritonserver on the PATH, or sets one up from pip, once. Its log goes to standard error.

    \b
    Examples:
      tldeploy serve triton_repo
      tldeploy serve triton_repo --http-port 9000 --grpc-port 9001 --metrics-port 9002
    """
    from tldeploy import environment, serving

    if not environment.describe()["gpus"]:
        say("no NVIDIA GPU here: what the server says of CUDA below is harmless")

    def on_ready(server: Server) -> None:
        models = [f"{published.name} (version {published.version})" for published in server.published]
        if as_json:
            names = {published.name: published.version for published in server.published}
            print_json({"http": server.http_url, "grpc": server.grpc_url, "models": names})
        else:
            print(f"ready: {', '.join(models)}\n  http  {server.http_url}\n  grpc  {server.grpc_url}")
            print(f'try: tldeploy predict {server.published[0].name} --url {server.http_url} "…"')
            print("Ctrl-C stops it", flush=True)

    serving.serve(repository, http_port, grpc_port, metrics_port, log=say, on_ready=on_ready)
