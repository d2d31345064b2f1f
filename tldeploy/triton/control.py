"""Model control: telling a running server to load a model, or to let it go. It listens only to who sends its key."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from tldeploy.runtime.triton.address import key_headers

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


class ModelControl:
    """url: host:port of HTTP. timeout_s: of connecting, and of an answer; loading may take as long as at a start.

    All raise what tritonclient does, which are errors of many kinds. client: for what needs no key.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
        import tritonclient.http

        self.client = tritonclient.http.InferenceServerClient(
            url, connection_timeout=timeout_s, network_timeout=timeout_s
        )
        self._headers = key_headers("http", key)

    def __enter__(self) -> ModelControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def index(self) -> list[dict[str, Any]]:
        """Every model that the server knows of: `name`, and, where it has been loaded, `version` and `state`."""
        found: list[dict[str, Any]] = self.client.get_model_repository_index(headers=self._headers)
        return found

    def load(self, model: str) -> None:
        """By the configuration in its folder, which is read again only where the file is newer than what is loaded."""
        self.client.load_model(model, headers=self._headers)

    def load_as(self, described: ModelConfig) -> None:
        """By another configuration than its folder has."""
        from google.protobuf.json_format import MessageToJson

        text = MessageToJson(described, preserving_proto_field_name=True)
        self.client.load_model(described.name, headers=self._headers, config=text)

    def unload(self, model: str) -> None:
        self.client.unload_model(model, headers=self._headers)
