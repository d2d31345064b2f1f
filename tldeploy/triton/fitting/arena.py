"""The private server that configurations are measured on.

1. The export is published into a folder of our own, with the recipe's settings, and served on free ports.
2. For each configuration the step and the graph are unloaded, and loaded with its instances, threads and batching, by
   the server's own model control. So is an unchanged one: workers that have run for long would have an advantage.
   All else is as published: the device, the options of its providers, the precision.
3. Threads of this process are the clients, over HTTP. What they take of a core is kept with every turn.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tldeploy import artifacts
from tldeploy.errors import ServerError
from tldeploy.measuring.asking import Load
from tldeploy.measuring.scenarios.turns import SEED
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.tasks.classification import Row
from tldeploy.triton import config
from tldeploy.triton.control import ModelControl
from tldeploy.triton.fitting.goals import Running
from tldeploy.triton.fitting.race import Turn
from tldeploy.triton.repository import Publication, decided, publish
from tldeploy.triton.server import Server
from tldeploy.triton.steps import step_of

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

NAME = "fitted"
WARM_UP_REQUESTS = 20


class ServedArena:
    """publication: with all that is not fitted. rows: what clients send, in this order. pool: their threads.

    measured: every turn, with how the model was run.
    """

    def __init__(
        self,
        publication: Publication,
        control: ModelControl,
        client: Client,
        rows: Sequence[Row],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._control, self.client = control, client
        self._publication, self._rows, self._pool = publication, rows, pool
        self._running = Running.of(_settings(publication))
        self.measured: list[tuple[Running, Turn]] = []

    def now(self) -> float:
        return time.monotonic()

    def serve(self, running: Running) -> None:
        """Raises ServerError when the server cannot load the models so."""
        self._running = running
        for described in configs(self._publication, running):
            self._reload(described)
        for index in np.linspace(0, len(self._rows) - 1, WARM_UP_REQUESTS).astype(int).tolist():
            self.client.predict([self._rows[index]])

    def _reload(self, described: ModelConfig) -> None:
        try:
            self._control.unload(described.name)
            self._control.load_as(described)
        except Exception as error:
            fix = "free some memory, or lower deploy.instances"
            raise ServerError(f"measure {described.name} with other settings", str(error), fix) from error

    def load(self, clients: int, seconds: float) -> Turn:
        """Raises whatever error a client meets."""
        before = time.process_time()
        latency_ms, elapsed_s = Load(self.client, self._rows, clients, seconds).run(self._pool)
        turn = Turn(clients, latency_ms, elapsed_s, (time.process_time() - before) / elapsed_s)
        self.measured.append((self._running, turn))
        return turn


def publish_to_measure(export: Path, repository: Path, settings: Deploy) -> Publication:
    """Publish an export as it is measured: as it will be, but for what warms it up.

    On a CPU rows warm each change up, in less time. On a GPU the largest batches have to be, as when it is deployed:
    else a turn would wait while algorithms are looked for, or an engine is built.
    Raises what `repository.publish` does.
    """
    settings = decided(artifacts.read(export, "export"), settings)
    if settings.device == "cpu":
        settings = settings.model_copy(update={"warmup": False})
    return publish(export, repository, NAME, settings)


def configs(publication: Publication, running: Running) -> Iterator[ModelConfig]:
    """Of the step and of the graph, which are published as version 1, run so."""
    settings = running.within(_settings(publication))
    step, graph, _ = publication.manifest.details["models"]
    lengths = publication.manifest.details["lengths"]
    signature = config.read_signature(publication.path.parent.parent / graph / "1" / "model.onnx")
    yield config.step_config(step, step_of(publication.manifest.task).input, signature.inputs, [1], settings)
    yield config.graph_config(graph, signature, [1], settings, lengths)


def _settings(publication: Publication) -> Deploy:
    """Those it was published with, in which nothing is open."""
    return Deploy.model_validate(publication.manifest.details["settings"])


@contextlib.contextmanager
def opened(export: Path, settings: Deploy, rows: Sequence[Row], most_clients: int) -> Iterator[ServedArena]:
    """Serve an export privately, and measure there. Clients send the rows in an order that is drawn once."""
    order = np.random.default_rng(SEED).permutation(len(rows)).tolist()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        publication = publish_to_measure(export, folder / "repository", settings)
        server = stack.enter_context(Server(folder / "repository", http_port=0, grpc_port=0, metrics_port=0))
        client = stack.enter_context(Client(server.http_url, model=NAME))
        control = stack.enter_context(ModelControl(server.http_url, server.key, server.ready_within_s))
        # One pool for all turns: a new thread would be a new connection.
        pool = stack.enter_context(ThreadPoolExecutor(most_clients, thread_name_prefix="client"))
        yield ServedArena(publication, control, client, [rows[at] for at in order], pool)
