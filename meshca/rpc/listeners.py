"""gRPC servers: credentials that are swapped live, keepalive that foreign clients need, bounds on everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import grpc

from meshca.errors import MeshcaError, unavailable
from meshca.rpc.calls import BoundedCalls
from meshca.rpc.probes import HEALTH_SERVICE, Health, reflection_handler
from meshca.services.server_identity import TlsMaterial

MAX_RECEIVE_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 32 * 1024

_THREADS = 4  # for calls whose service has no coroutines

# Calls that gRPC keeps while the loop is busy; above, it answers CANCELLED to anybody. The bound that counts is
# max_concurrent_calls, which answers RESOURCE_EXHAUSTED.
_PENDING_CALLS = 16_384


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Bounds of one listener. Connections beyond `max_connections` are closed at once."""

    max_concurrent_calls: int
    max_connection_age: timedelta
    max_connections: int = 1024
    shared_port: bool = False  # several processes of one server listen on it
    patience: timedelta = timedelta(seconds=5)  # for a call without its request


class Listener:
    """One gRPC server on one address, with health and reflection beside its services. Belongs to the running loop."""

    def __init__(
        self, handlers: Iterable[grpc.GenericRpcHandler], services: Sequence[str], limits: ListenerLimits
    ) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "meshca-call")
        self._server = grpc.aio.server(self._threads, options=_options(limits))
        self._health = Health(services)
        everything = (*handlers, self._health.handler(), reflection_handler((*services, HEALTH_SERVICE)))
        bounded = BoundedCalls(everything, limits.max_concurrent_calls, MAX_METADATA_BYTES, limits.patience)
        self._server.add_generic_rpc_handlers((bounded,))

    @property
    def server(self) -> grpc.aio.Server:
        """The gRPC server, for services that register themselves. Those without coroutines run in four threads."""
        return self._server

    def bind_tls(self, address: str, material: Callable[[], TlsMaterial | None], *, client_certificates: bool) -> int:
        """Binds `host:port`; the port it got. Raises UNAVAILABLE where the address cannot be had."""
        return self._bind(
            address, lambda: self._server.add_secure_port(address, _credentials(material, client_certificates))
        )

    def bind_unix(self, path: str) -> None:
        """Binds a Unix socket. Raises UNAVAILABLE where that fails."""
        self._bind(path, lambda: self._server.add_insecure_port(f"unix:{path}"))

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()
        self._health.set_serving(True)

    async def stop(self, grace: timedelta) -> None:
        """Refuses new calls, lets those under way finish within `grace`, and ends."""
        self._health.set_serving(False)
        await self._server.stop(grace.total_seconds())
        self._threads.shutdown(wait=False)

    def _bind(self, address: str, bind: Callable[[], int]) -> int:
        try:
            port = bind()
        except RuntimeError as error:
            raise _in_use(address) from error
        if port == 0:
            raise _in_use(address)
        return port


def _in_use(address: str) -> MeshcaError:
    return unavailable(f"cannot listen on {address}: the address is in use or not ours")


def _options(limits: ListenerLimits) -> list[tuple[str, int]]:
    age = int(limits.max_connection_age.total_seconds() * 1000)
    return [
        # a second server on the same port is a mistake, unless it is one of our own processes
        ("grpc.so_reuseport", int(limits.shared_port)),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", 128),
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.max_connection_age_ms", age),
        ("grpc.max_connection_age_grace_ms", 30_000),
        # ztunnel and pilot-agent ping idle connections; by default that ends in "too_many_pings". Strikes are counted
        # between two answers, so that a hundred of them are no keepalive but a flood, which takes a core of its own
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.server_handshake_timeout_ms", 10_000),
    ]


def _credentials(material: Callable[[], TlsMaterial | None], client_certificates: bool) -> grpc.ServerCredentials:
    """Credentials that follow `material`. The fetcher runs on a foreign thread at each handshake: it reads one frozen
    value and makes a configuration only where that value is a new one."""
    first = material()
    if first is None:
        raise unavailable("the server has no certificate of its own yet")
    served: list[TlsMaterial] = [first]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        current = material()
        if current is None or current is served[0]:
            return None
        served[0] = current
        return _configuration(current, client_certificates)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first, client_certificates),
        fetch,  # type: ignore[arg-type]  # None means "as before", which the stubs do not know
        require_client_authentication=client_certificates,
    )


def _configuration(material: TlsMaterial, client_certificates: bool) -> grpc.ServerCertificateConfiguration:
    pair = (material.private_key, material.chain)
    return grpc.ssl_server_certificate_configuration([pair], material.roots if client_certificates else None)
