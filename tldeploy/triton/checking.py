"""Before a version is live: it is linted, loaded by a real server of its own, and asked every golden row."""

from __future__ import annotations

from pathlib import Path

from tldeploy.errors import MachineError, QualityError, ServerError
from tldeploy.progress import say
from tldeploy.runtime.triton import Client
from tldeploy.triton.lint.check import lint
from tldeploy.triton.placement import check_servable
from tldeploy.triton.repository import Publication, all_published, golden
from tldeploy.triton.server import Server, difference

FIX = "what is live stays live; export the model again on this kind of machine, or check it elsewhere (--no-check)"


def check(candidate: Path) -> None:
    """Check a repository with one version of one model in it; it is not changed.

    Raises QualityError for errors that lint finds and for answers that differ, ServerError when the server does not
    load it or fails, MachineError where it is for a GPU that this machine has not.
    """
    (publication,) = all_published(candidate)
    asked = f"publish version {publication.version} of {publication.name}"
    say(f"checking version {publication.version} of {publication.name} in a server of its own")
    if errors := [finding for finding in lint(candidate).findings if finding.severity == "error"]:
        raise QualityError(asked, "; ".join(f"{each.place}: {each.found} ({each.rule})" for each in errors), FIX)
    try:
        check_servable(candidate, [publication])
    except MachineError as error:
        raise MachineError(asked, error.found, f"{error.fix}; without a check: `--no-check`") from None
    server = Server(candidate, http_port=0, grpc_port=0, metrics_port=0, golden_rows=0, trusted=True)
    try:
        with server:
            found = _differences(server, publication)
    except ServerError as error:
        raise ServerError(asked, f"a server of its own cannot serve it: {error.found}", FIX) from error
    if found:
        raise QualityError(asked, found, FIX)


def _differences(server: Server, publication: Publication) -> str:
    """In words, the first golden row that is answered otherwise; empty when there is none."""
    with Client(server.http_url, model=publication.name, timeout_s=server.ready_within_s) as client:
        pairs = zip(*golden(publication), strict=True)
        found = (difference(row, client.predict([row])[0].tolist(), expected) for row, expected in pairs)
        return next(filter(None, found), "")
