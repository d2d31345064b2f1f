"""tldeploy predict"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import click

from tldeploy.cli.show import json_option, print_json
from tldeploy.errors import UsageError
from tldeploy.progress import say

SHOWN = 200  # characters of a row


@click.command("predict")
@click.argument("model")
@click.argument("rows", metavar="ROW...", nargs=-1, required=True)
@click.option("--url", help="[http://|https://]host:port; by default this machine, 8000 for HTTP, 8001 for gRPC.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="PEM file that vouches for the server's TLS.")
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Labels to show of each row.")
@click.option("--serve", "start", metavar="REPOSITORY", help="Start a server on it, for this call only.")
@json_option
def command(
    model: str,
    rows: Sequence[str],
    url: str | None,
    ca: str | None,
    protocol: Literal["http", "grpc"],
    top: int,
    start: str | None,
    as_json: bool,
) -> None:
    """Ask a served model for the labels of some texts or image files; ROW - reads lines of standard input.

    An API key that the server wants is taken from TLDEPLOY_API_KEY.

    \b
    Examples:
      tldeploy predict review-sentiment "Great camera, awful battery"
      tldeploy predict fashion-resnet50 shoe.png shirt.jpg
      tldeploy predict review-sentiment --protocol grpc "Great camera" "Awful battery"
      tldeploy predict review-sentiment --url https://models.example:8000 "Great camera"
      tldeploy predict review-sentiment --serve triton_repo "No server runs yet"
      cut -f 2 reviews.tsv | tldeploy predict review-sentiment -
    """
    from tldeploy import serving

    asked = _lines() if list(rows) == ["-"] else list(rows)
    if not asked:
        raise UsageError(
            "predict", "standard input is empty", "give a text or an image file, or lines on standard input"
        )
    if start and url:
        raise UsageError("predict", "both --serve and --url are given", "give one of them")
    predictions = serving.predict(model, asked, url, protocol, top, serve_from=start, ca=ca)
    if empty := sum(not row.strip() for row in asked):
        say(f"empty: {empty} of {len(asked)} texts; what is shown of them is the model's answer to no words at all")
    if as_json:
        answers = [{"row": p.row, "labels": dict(zip(p.labels, p.probabilities, strict=True))} for p in predictions]
        print_json({"model": model, "predictions": answers})
        return
    for prediction in predictions:
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        row = prediction.row if len(prediction.row) <= SHOWN else f"{prediction.row[:SHOWN]}…"
        print(f"{row}\n  " + "   ".join(f"{label} {share:.3f}" for label, share in pairs))


def _lines() -> list[str]:
    """Lines of standard input; bytes that are no UTF-8 stay in as they are, for the client to refuse clearly."""
    lines = sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
