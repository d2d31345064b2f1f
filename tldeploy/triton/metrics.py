"""A running server's metrics, in Prometheus' text form."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tldeploy.errors import ServerError
from tldeploy.triton.running import ANSWERS_WITHIN_S

_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


def fetch(url: str, elsewhere: bool = False) -> str:
    """elsewhere: not on this machine, so that its proxy is asked, if there is one; no proxy knows our loopback.

    Raises ServerError for metrics that cannot be read.
    """
    asked, fix = f"read the metrics at {url}", "give the URL of a server's metrics, such as http://host:8002/metrics"
    if not url.startswith(("http://", "https://")):
        raise ServerError(asked, "it does not begin with http:// or https://", fix)
    opener = urllib.request.build_opener(*([] if elsewhere else [urllib.request.ProxyHandler({})]))
    try:
        with opener.open(url, timeout=ANSWERS_WITHIN_S) as answer:
            text: str = answer.read().decode("utf-8")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerError(asked, str(error), fix) from error
    return text


def samples(text: str, prefix: str) -> Iterator[tuple[str, Sample]]:
    """The samples of the metrics whose names begin so, with the rest of the name."""
    for match in _SAMPLE.finditer(text):
        if match["name"].startswith(prefix):
            yield (
                match["name"].removeprefix(prefix),
                Sample(dict(_LABEL.findall(match["labels"])), float(match["value"])),
            )
