"""What is done with a model repository once something is published: serve it, ask it, look after it, take it elsewhere.

They are the verbs of the command line and of `import tldeploy` that take a repository, or the name of a served model,
instead of a recipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tldeploy.devices import Device, check_name, require
from tldeploy.engines import Protocol
from tldeploy.errors import TldeployError
from tldeploy.progress import say

if TYPE_CHECKING:
    from tldeploy.environment import Check
    from tldeploy.triton.canary.comparison import Comparison
    from tldeploy.triton.keeping import Verified
    from tldeploy.triton.lineage import Trace
    from tldeploy.triton.lint.check import Lint
    from tldeploy.triton.lint.models import Target
    from tldeploy.triton.manifests.writing import Kind, Manifests
    from tldeploy.triton.repository import Publication
    from tldeploy.triton.running import Running
    from tldeploy.triton.server import Server


@dataclass(frozen=True)
class Prediction:
    """A served answer: the most probable labels, best first, each with its probability."""

    row: str
    labels: list[str]
    probabilities: list[float]

    @property
    def label(self) -> str:
        return self.labels[0]


def serve(
    repository: str | Path,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    host: str = "127.0.0.1",
    tls: tuple[str | Path, str | Path] | None = None,
    api_key_file: str | Path | None = None,
    max_request_mb: int | None = None,
    key_file: str | Path | None = None,
    opened: Collection[str] = (),
    device: Device | None = None,
    log: Callable[[str], None] | None = None,
    on_ready: Callable[[Server], None] | None = None,
) -> None:
    """Serve a model repository with a real Triton server until Ctrl-C or SIGTERM.

    host: where to listen. What others can reach has a gate before it, which limits requests to 64 MB, unless
    max_request_mb says otherwise. tls: PEM files, the chain of certificates and its private key. api_key_file: a key a
    line; then a request must show one. Any of these brings the gate to loopback too.

    key_file: holds the server's key; without one, the environment variable TLDEPLOY_KEY, or a key that nobody knows.
    opened: `shared-memory`, `trace` or `logging`, which then need no key. log: gets each line of the server's log.

    device: what every graph of the repository has to be configured for. Raises MachineError, before a server is
    started, where one is configured for a GPU and this machine has none; UsageError for what is no device.
    """
    from tldeploy.triton import flags, placement, server
    from tldeploy.triton.gate import gate_for
    from tldeploy.triton.repository import all_published

    check_name(device)
    if device is not None:
        all_published(Path(repository))  # which says where there is no such folder
        require(device, f"serve {repository}")
        placement.demand(Path(repository), device)

    server.serve(
        Path(repository),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        host=host,
        gate=gate_for(host, tls, api_key_file, max_request_mb),
        key=flags.owners_key(Path(key_file) if key_file else None),
        opened=opened,
        log=log,
        on_ready=on_ready,
    )


def predict(
    model: str,
    rows: Sequence[str],
    url: str | None = None,
    protocol: Protocol = "http",
    top: int = 3,
    serve_from: str | Path | None = None,
    ca: str | Path | None = None,
) -> list[Prediction]:
    """Ask a served model for the `top` most probable labels of each row, by Triton's classification extension.

    rows: texts, or paths of image files, whichever the model takes.

    serve_from: a model repository to serve, on free ports, for this call only. ca: certificates that vouch for a server
    at https://…
    """
    from tldeploy.runtime.triton import Client

    with contextlib.ExitStack() as stack:
        if serve_from is not None:
            from tldeploy.triton.server import Server

            server = stack.enter_context(Server(Path(serve_from), http_port=0, grpc_port=0, metrics_port=0))
            url = server.http_url if protocol == "http" else server.grpc_url
        client = stack.enter_context(Client(url=url, model=model, protocol=protocol, ca=ca))
        answers = client.classify(rows, top)
    return [
        Prediction(row, [label for label, _ in answer], [probability for _, probability in answer])
        for row, answer in zip(rows, answers, strict=True)
    ]


def lint(repository: str | Path = "triton_repo", fix: bool = False, target: Target | None = None) -> Lint:
    """What is wrong with a model repository, anybody's, for the server `target`; fix: mend what is safe to mend."""
    from tldeploy.triton.lint import check, mending

    return (mending.mend if fix else check.lint)(Path(repository), target)


def manifests(
    repository: str | Path,
    kind: Kind,
    out: str | Path = "manifests",
    image: str = "",
    storage_uri: str = "",
    force: bool = False,
) -> Manifests:
    """Write what runs a model repository elsewhere below `out`: an image, a Helm chart, or a KServe service.

    image: the name of the built image. storage_uri: where KServe finds the repository. force: overwrite what differs.
    """
    from tldeploy.triton.manifests.writing import write_manifests

    return write_manifests(Path(repository), kind, Path(out), image, storage_uri, force)


def rollback(
    name: str, version: int | None = None, repository: str | Path = "triton_repo", check: bool = True
) -> Publication:
    """Make a kept version live again, by default the newest that is older than the live one.

    check: it has to pass a server of its own first.
    """
    from tldeploy.triton import checking, keeping

    return keeping.rollback(Path(repository), name, version, checking.check if check else None)


def canary(
    name: str,
    decision: Literal["promote", "drop"] | None = None,
    share: float | None = None,
    repository: str | Path = "triton_repo",
    metrics: Sequence[str] = (),
) -> Comparison | None:
    """What running servers counted of a canary and the live version; then what was decided is done.

    share: of the requests, 0 .. 1, that it answers from now on. metrics: URLs of further servers' metrics, such as
    http://host:8002/metrics; those of `tldeploy serve` on this machine are found by themselves.

    None where a decision only finishes, or clears away, what an earlier command left. Raises ArtifactError when there
    is no canary, ServerError when metrics cannot be read and nothing was decided.
    """
    from tldeploy.triton.canary import comparison, lifecycle

    place = Path(repository)
    found = unread = None
    try:
        found = comparison.compare(lifecycle.find(place, name), comparison.read_metrics(place, metrics))
    except TldeployError as error:
        if decision is None:
            raise
        unread = str(error)
    if decision:
        (lifecycle.promote if decision == "promote" else lifecycle.drop)(place, name)
        if unread:
            say(unread)
    elif found and share is not None:
        found = replace(found, canary=lifecycle.change_share(place, name, share))
    return found


def serving_now(name: str, repository: str | Path = "triton_repo") -> list[Running]:
    """The `tldeploy serve`s of this machine that answer from the live version of a model."""
    from tldeploy.triton import config, running

    place = Path(repository).resolve()
    described = config.read(place / name / config.CONFIG_FILE)
    return [server for server in running.live(place) if server.serves(described)]


def trace(name: str, version: int | None = None, repository: str | Path = "triton_repo") -> Trace:
    """Where a served model comes from, back to its recipe, and what of it is still there."""
    from tldeploy.triton import lineage

    return lineage.trace(Path(repository), name, version)


def verify(repository: str | Path = "triton_repo") -> list[Verified]:
    """Check every hash of every published version that is kept."""
    from tldeploy.triton import keeping

    return keeping.verify(Path(repository))


def doctor() -> list[Check]:
    """What this machine has and lacks, the server included."""
    from tldeploy import environment
    from tldeploy.triton import home

    return [*environment.checks(), home.check()]
