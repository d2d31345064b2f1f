"""A program that serves a repository until it is stopped or killed: `python owner.py <repository> <seconds>`.

seconds: between two looks at its workers. Prints the warden's process id and the HTTP address when the server is ready.
"""

from __future__ import annotations

import sys
from functools import partialmethod
from pathlib import Path

from tldeploy.triton.ports import free_ports
from tldeploy.triton.server import Server, serve

if __name__ == "__main__":
    http_port, grpc_port, metrics_port = free_ports()

    def tell(server: Server) -> None:
        print(server.pid, server.id, server.http_url, flush=True)

    repository = Path(sys.argv[1])
    Server.wait = partialmethod(Server.wait, float(sys.argv[2]))  # type: ignore[assignment]
    sys.exit(serve(repository, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, on_ready=tell))
