"""A complete, hardened Envoy configuration for a sidecar that gets its certificates from the meshca agent.

Inbound: mutual TLS from admitted callers to the local application. Outbound: plain from the local application, mutual
TLS to one named identity each. Certificates and trust come by SDS from the agent's Unix socket, on streams of their own
(SDS over ADS inside a static cluster crashes Envoy at start).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from meshca.compile.envoy_addresses import Address, PipeAddress, TcpAddress, listen_address
from meshca.compile.secrets import CERTIFICATE_SECRET, TRUST_SECRET
from meshca.errors import invalid
from meshca.spiffe.ids import SCHEME, SpiffeId, TrustDomain

AGENT_CLUSTER = "agent"
APP_CLUSTER = "app"
INBOUND = "inbound"
OUTBOUND = "outbound"
UPSTREAM = "upstream"

MIN_CONNECTION_DURATION = timedelta(seconds=1)
DEFAULT_CONNECTION_DURATION = timedelta(hours=1)

_TYPE = "type.googleapis.com/"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# Bounds on what one peer may hold. Envoy's defaults are 1 MiB a connection and no limit on the handshake or headers.
_BUFFER_BYTES = 32 * 1024
_HANDSHAKE = "10s"
_HEADERS = "10s"
_REQUEST = "300s"  # to send all of a request
_STREAM_IDLE = "300s"
_INBOUND_IDLE = "300s"
# Below _INBOUND_IDLE, so that the side that sends requests is the one that closes: no request races with a close.
_UPSTREAM_IDLE = "60s"
_UPSTREAM_DURATION_SHARE = 0.9
_CONNECT = "5s"
_MAX_CONNECTIONS = 10_000
_HTTP2 = {"max_concurrent_streams": 100, "initial_stream_window_size": 65536, "initial_connection_window_size": 1048576}


@dataclass(frozen=True, slots=True)
class Inbound:
    """The listener for callers from the mesh, and the application behind it.

    A caller is admitted when its id is one of `allowed_ids` or starts with one of `allowed_prefixes`; with neither, the
    whole trust domain is. A prefix ends in `/`, else `…/web` would admit `…/web-evil`.
    """

    listen: Address
    app: Address
    allowed_ids: tuple[SpiffeId, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outbound:
    """A plain listener for the local application, and the one server identity that answers behind it."""

    listen: Address
    upstream: Address
    server_id: SpiffeId


@dataclass(frozen=True, slots=True)
class EnvoyBootstrap:
    """What goes into a sidecar's configuration; raises INVALID where it cannot be safe.

    `max_connection_duration` bounds what an identity that lost its trust keeps: connections survive a rotation and even
    the expiry of their certificate. `max_requests_per_connection` forces new handshakes (tests, demonstrations).
    `access_log` is a file, or `stdout`. `admin` None means that there is no admin interface.
    """

    agent_socket: PipeAddress
    trust_domain: TrustDomain
    node_id: str = "sidecar"
    inbound: Inbound | None = None
    outbound: tuple[Outbound, ...] = ()
    admin: Address | None = None
    delta: bool = False
    max_connection_duration: timedelta = field(default=DEFAULT_CONNECTION_DURATION)
    max_requests_per_connection: int | None = None
    access_log: str | None = None

    def __post_init__(self) -> None:
        if not self.node_id or not self.node_id.isprintable():
            raise invalid(f"node id {self.node_id!r} must be printable text")
        if self.inbound is None and not self.outbound:
            raise invalid("nothing to do: give an inbound listener with its application, or an outbound one")
        if self.max_connection_duration < MIN_CONNECTION_DURATION:
            raise invalid(f"max connection duration is {self.max_connection_duration}: at least 1s is needed")
        if self.max_requests_per_connection is not None and self.max_requests_per_connection < 1:
            raise invalid(f"max requests per connection is {self.max_requests_per_connection}: at least 1 is needed")
        if self.access_log is not None and self.access_log != "stdout" and not self.access_log.startswith("/"):
            raise invalid(f"access log {self.access_log!r} is neither stdout nor an absolute path")
        _check_local("admin", self.admin)
        if self.inbound is not None:
            self._check_inbound(self.inbound)
        for outbound in self.outbound:
            _check_local("outbound", outbound.listen)
            self._check_identity("upstream id", outbound.server_id)

    def as_dict(self) -> dict[str, Any]:
        """The `envoy.config.bootstrap.v3.Bootstrap` in its JSON form."""
        bootstrap: dict[str, Any] = {
            "node": {"id": self.node_id, "cluster": self.trust_domain.name},
            "overload_manager": _overload_manager(),
            "static_resources": {"listeners": list(self._listeners()), "clusters": list(self._clusters())},
        }
        if self.admin is not None:
            bootstrap["admin"] = {"address": listen_address("admin", self.admin), "ignore_global_conn_limit": True}
        return bootstrap

    def as_json(self) -> str:
        """The configuration as JSON text, which Envoy reads from a file whose name ends in `.json` (and as YAML)."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    def _check_inbound(self, inbound: Inbound) -> None:
        for spiffe_id in inbound.allowed_ids:
            self._check_identity("allowed id", spiffe_id)
        for prefix in inbound.allowed_prefixes:
            _check_prefix(prefix, self.trust_domain)

    def _check_identity(self, name: str, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain:
            raise invalid(
                f"{name} {spiffe_id} is not in trust domain {self.trust_domain}: "
                "the trust bundle that the sidecar gets vouches for that domain alone"
            )
        if not spiffe_id.path:
            raise invalid(f"{name} {spiffe_id} names the trust domain: name a workload such as {spiffe_id}/ns/a/sa/b")

    def _listeners(self) -> Iterable[dict[str, Any]]:
        if self.inbound is not None:
            yield self._inbound_listener(self.inbound)
        for number, outbound in enumerate(self.outbound):
            yield self._outbound_listener(number, outbound)

    def _clusters(self) -> Iterable[dict[str, Any]]:
        if self.inbound is not None:
            yield _cluster(APP_CLUSTER, self.inbound.app, _same_protocol({"idle_timeout": _UPSTREAM_IDLE}))
        for number, outbound in enumerate(self.outbound):
            options = _same_protocol(self._upstream_bounds())
            cluster = _cluster(_numbered(UPSTREAM, number), outbound.upstream, options)
            yield {**cluster, "transport_socket": self._upstream_tls(outbound)}
        http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
        yield _cluster(AGENT_CLUSTER, self.agent_socket, http2)

    def _inbound_listener(self, inbound: Inbound) -> dict[str, Any]:
        return {
            "name": INBOUND,
            "stat_prefix": INBOUND,
            "address": listen_address("inbound", inbound.listen),
            "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
            "filter_chains": [
                {
                    "transport_socket": self._inbound_tls(inbound),
                    "transport_socket_connect_timeout": _HANDSHAKE,
                    "filters": [self._http(INBOUND, APP_CLUSTER, self._inbound_http())],
                }
            ],
        }

    def _outbound_listener(self, number: int, outbound: Outbound) -> dict[str, Any]:
        name = _numbered(OUTBOUND, number)
        bounds = {"common_http_protocol_options": {"idle_timeout": _INBOUND_IDLE}}
        return {
            "name": name,
            "stat_prefix": name,
            "address": listen_address("outbound", outbound.listen),
            "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
            "filter_chains": [{"filters": [self._http(name, _numbered(UPSTREAM, number), bounds)]}],
        }

    def _inbound_http(self) -> dict[str, Any]:
        """What only callers from the mesh need: paths that mean one thing, and an identity header that is ours."""
        return {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
            "use_remote_address": True,
            "common_http_protocol_options": {
                "idle_timeout": _INBOUND_IDLE,
                "max_connection_duration": _seconds(self.max_connection_duration),
                # draining waits for running streams: without this bound, one stream would hold its connection for ever
                "max_stream_duration": _seconds(self.max_connection_duration),
                **self._request_bound(),
            },
        }

    def _http(self, stat_prefix: str, cluster: str, extra: dict[str, Any]) -> dict[str, Any]:
        manager = {
            "@type": f"{_TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": stat_prefix,
            "codec_type": "AUTO",
            "http2_protocol_options": _HTTP2,
            "request_headers_timeout": _HEADERS,
            "request_timeout": _REQUEST,
            "stream_idle_timeout": _STREAM_IDLE,
            **extra,
            "route_config": _route_everything(cluster),
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        if self.access_log is not None:
            manager["access_log"] = [_access_log(self.access_log)]
        return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}

    def _inbound_tls(self, inbound: Inbound) -> dict[str, Any]:
        prefixes = inbound.allowed_prefixes
        if not prefixes and not inbound.allowed_ids:
            prefixes = (f"{self.trust_domain.id}/",)
        matchers = [{"prefix": prefix} for prefix in prefixes] + [{"exact": str(i)} for i in inbound.allowed_ids]
        return _tls_socket(
            "DownstreamTlsContext",
            {
                "require_client_certificate": True,
                # a resumed session is not verified again: it would outlive the client's certificate
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": {**self._common_tls(matchers), "alpn_protocols": ["h2", "http/1.1"]},
            },
        )

    def _upstream_tls(self, outbound: Outbound) -> dict[str, Any]:
        context = {
            "max_session_keys": 0,
            "common_tls_context": self._common_tls([{"exact": str(outbound.server_id)}]),
        }
        return _tls_socket("UpstreamTlsContext", context)

    def _common_tls(self, matchers: list[dict[str, str]]) -> dict[str, Any]:
        return {
            # an Envoy client stops at TLS 1.2 unless told otherwise
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [self._secret(CERTIFICATE_SECRET)],
            "combined_validation_context": {
                # the matcher stands here and not in SDS: with it, Envoy refuses an empty trust bundle, which without
                # it would switch verification off
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher} for matcher in matchers]
                },
                "validation_context_sds_secret_config": self._secret(TRUST_SECRET),
            },
        }

    def _secret(self, name: str) -> dict[str, Any]:
        retry = {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}}
        return {
            "name": name,
            "sds_config": {
                "resource_api_version": "V3",
                # wait for ever: no port opens before there is an identity
                "initial_fetch_timeout": "0s",
                "api_config_source": {
                    "api_type": "DELTA_GRPC" if self.delta else "GRPC",
                    "transport_api_version": "V3",
                    # the node is 60 KB; without this it comes again with each ACK
                    "set_node_on_first_message_only": True,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": AGENT_CLUSTER, "retry_policy": retry}}],
                },
            },
        }

    def _upstream_bounds(self) -> dict[str, Any]:
        return {
            "idle_timeout": _UPSTREAM_IDLE,
            "max_connection_duration": _seconds(self.max_connection_duration * _UPSTREAM_DURATION_SHARE),
            **self._request_bound(),
        }

    def _request_bound(self) -> dict[str, Any]:
        if self.max_requests_per_connection is None:
            return {}
        return {"max_requests_per_connection": self.max_requests_per_connection}


def _check_local(name: str, address: Address | None) -> None:
    if isinstance(address, TcpAddress) and not address.is_loopback:
        raise invalid(
            f"{name} {address.host}:{address.port}: only a loopback address or unix:/path is allowed, "
            "for whoever reaches it acts with the sidecar's identity"
        )


def _check_prefix(prefix: str, trust_domain: TrustDomain) -> None:
    if not prefix.endswith("/"):
        raise invalid(f"allowed prefix {prefix!r} does not end in '/': it would also admit {prefix + '-other'!r}")
    # what stands before the last slash is an id itself, and parsed as one
    if SpiffeId.parse(prefix.removesuffix("/")).trust_domain != trust_domain:
        raise invalid(
            f"allowed prefix {prefix!r} is not in trust domain {trust_domain}: start it with {SCHEME}{trust_domain}/"
        )


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}_{number + 1}"


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.3f}s"


def _tls_socket(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.{kind}", **context},
    }


def _cluster(name: str, address: Address, http_options: dict[str, Any]) -> dict[str, Any]:
    is_name = isinstance(address, TcpAddress) and not address.is_ip
    endpoint = {"endpoint": {"address": address.as_envoy()}}
    return {
        "name": name,
        "type": "STRICT_DNS" if is_name else "STATIC",
        "connect_timeout": _CONNECT,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "typed_extension_protocol_options": {_HTTP_OPTIONS: {"@type": _TYPE + _HTTP_OPTIONS, **http_options}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _same_protocol(bounds: dict[str, Any]) -> dict[str, Any]:
    """HTTP/2 in, HTTP/2 out: gRPC passes through, and HTTP/1.1 stays what it is."""
    return {
        "common_http_protocol_options": bounds,
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    }


def _route_everything(cluster: str) -> dict[str, Any]:
    # No response timeout: streams may be long; stream_idle_timeout and max_stream_duration bound them.
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {"name": cluster, "virtual_hosts": [{"name": cluster, "domains": ["*"], "routes": [route]}]}


def _overload_manager() -> dict[str, Any]:
    limit = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    config = {"@type": _TYPE + limit, "max_active_downstream_connections": _MAX_CONNECTIONS}
    monitor = {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": config}
    return {"resource_monitors": [monitor]}


_LOG_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    # without the query, which may hold secrets
    "path": "%PATH(NQ:ORIG)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "milliseconds": "%DURATION%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "peer_serial": "%DOWNSTREAM_PEER_SERIAL%",
    "peer_expires": "%DOWNSTREAM_PEER_CERT_V_END%",
    "upstream_peer": "%UPSTREAM_PEER_URI_SAN%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}


def _access_log(target: str) -> dict[str, Any]:
    form = {"log_format": {"json_format": _LOG_FIELDS}}
    if target == "stdout":
        kind, where = (
            "envoy.access_loggers.stdout",
            {"@type": f"{_TYPE}envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"},
        )
    else:
        kind = "envoy.access_loggers.file"
        where = {"@type": f"{_TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": target}
    return {"name": kind, "typed_config": {**where, **form}}
