"""tldeploy manifests"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli.show import json_option, print_json

if TYPE_CHECKING:
    from tldeploy.triton.manifests.writing import Kind


@click.command("manifests")
@click.argument("repository", default="triton_repo")
@click.option("--for", "kind", required=True, type=click.Choice(["docker", "helm", "kserve"]), help="What runs it.")
@click.option("--out", default="manifests", show_default=True, help="The folder for the files.")
@click.option("--image", default="", help="The built image, as the cluster pulls it.")
@click.option("--storage-uri", default="", help="For kserve: where it finds the repository.")
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
@json_option
def command(repository: str, kind: Kind, out: str, image: str, storage_uri: str, force: bool, as_json: bool) -> None:
    """Write what serves a model repository on other machines: an image, a Helm chart, or a KServe service.

    Reads from the repository which models it has, which of them want GPUs, and which packages their Python steps
    import. Builds and starts nothing. The chart runs the image; KServe needs it where there are Python steps. Files
    that were changed by hand are not overwritten.

    \b
    Examples:
      tldeploy manifests triton_repo --for docker
      tldeploy manifests triton_repo --for helm --image registry.example.com/reviews:1
      tldeploy manifests triton_repo --for kserve --image registry.example.com/reviews:1 \\
          --storage-uri s3://models/triton_repo
    """
    from tldeploy import serving

    made = serving.manifests(repository, kind, out, image, storage_uri, force)
    if as_json:
        print_json(
            {
                "repository": str(made.needs.repository),
                "for": made.kind,
                "folder": str(made.folder),
                "written": list(made.written),
                "unchanged": list(made.unchanged),
                "models": list(made.needs.called),
                "packages": made.needs.packages,
                "gpus": made.needs.gpus,
                "next": made.next,
            }
        )
        return
    for name in made.written:
        print(f"written: {made.folder / name}")
    for name in made.unchanged:
        print(f"unchanged: {made.folder / name}")
    print(f"next: {made.next}")
