"""Calling a served model from an event loop, which does other work while the server computes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import RequestError
from tldeploy.runtime.triton.address import Address, Protocol, closed
from tldeploy.runtime.triton.request import Request, plain
from tldeploy.runtime.triton.served import (
    Classification,
    Served,
    classifications,
    configuration,
    next_model,
    probabilities,
)
from tldeploy.tasks.classification import Row


class AsyncClient:
    """A model on a Triton server, for asyncio; any number of requests may be under way at once.

        async with AsyncClient(model="review-sentiment") as client:
            await asyncio.gather(*(client.predict([text]) for text in texts))

    The parameters, methods and errors are those of Client. It connects where its block begins, and belongs to the event
    loop that runs there; `provider` and `max_batch_size` are known from then on.
    """

    provider: str
    max_batch_size: int

    def __init__(
        self,
        url: str | None = None,
        *,
        model: str,
        protocol: Protocol = "http",
        timeout_s: float = 60.0,
        ca: str | Path | None = None,
        api_key: str | None = None,
    ) -> None:
        self._address = Address.of(url, protocol, timeout_s, ca, api_key)
        self.url, self.model, self.protocol, self.timeout_s = self._address.url, model, protocol, timeout_s
        self.name = f"triton {protocol} asyncio"
        self._asked = f"call {model!r} at {self.url}"
        self._library = importlib.import_module(f"tritonclient.{protocol}.aio")
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        options = self._address.connection_options(asyncio=True)
        self._connection = self._library.InferenceServerClient(self.url, **options)
        try:
            self._learn(await self._describe())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """See Client.predict."""
        return probabilities(await self._answers(lambda served: served.row_requests(rows)))

    async def predict_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """See Client.predict_tensors."""
        return probabilities(await self._answers(lambda served: served.tensor_requests(tensors)))

    async def classify(self, rows: Sequence[Row], top: int = 1) -> list[list[Classification]]:
        """See Client.classify."""
        answers = await self._answers(lambda served: served.row_requests(rows, top))
        return classifications(answers, len(rows))

    async def close(self) -> None:
        """Close the connections; requests that are under way fail."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @property
    def _served(self) -> Served:
        if self._connection is None:
            raise closed(self._asked)
        return self._described

    async def _describe(self) -> Served:
        server = plain(await self._ask("get_server_metadata"))
        configs = [configuration(await self._ask("get_model_config", self.model))]
        while behind := next_model(configs[-1]):
            configs.append(configuration(await self._ask("get_model_config", behind[0])))
        return Served.of(server["version"], configs)

    def _learn(self, served: Served) -> None:
        self._described = served
        self.provider, self.max_batch_size = served.provider, served.rows.max_batch_size or 1

    async def _answers(self, requests: Callable[[Served], list[Request]]) -> list[NDArray[Any]]:
        """See Client._answers."""
        known = self._served
        try:
            return [await self._infer(request) for request in requests(known)]
        except RequestError:
            if (now := await self._describe()) == known:
                raise
            self._learn(now)
            return [await self._infer(request) for request in requests(now)]

    async def _infer(self, request: Request) -> NDArray[Any]:
        return request.read(await self._ask("infer", **request.arguments(self._library)))

    async def _ask(self, method: str, *positional: Any, **named: Any) -> Any:
        """What the server answers to a method of tritonclient."""
        if self._connection is None:
            raise closed(self._asked)
        with self._address.errors(self._asked):
            return await getattr(self._connection, method)(*positional, **named, **self._address.call_options())
