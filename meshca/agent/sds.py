"""Envoy's Secret Discovery Service on a Unix socket: SDS and ADS, state of the world and delta, and Fetch."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meshca.agent.hub import SecretHub, SecretStream
from meshca.agent.sockets import SocketPlace, private_umask
from meshca.errors import internal
from meshca.rpc.calls import BoundedCalls
from meshca.rpc.discovery import ADS, SDS, discovery_handlers
from meshca.xds.snapshot import SECRET_TYPE
from meshca.xds.stream import StreamMode, fetch

MAX_RECEIVE_BYTES = 1024 * 1024  # an Envoy's node alone takes 61 KB
SPARE_CALLS = 100  # beside the streams: Fetch, health, reflection
STOP_GRACE = timedelta(seconds=2)
MAX_METADATA_BYTES = 32 * 1024
PATIENCE = timedelta(seconds=5)  # for a Fetch without its request
_log = structlog.get_logger("meshca.agent")


class SdsServer:
    """The gRPC server on the agent's socket, with health and reflection beside the discovery services."""

    def __init__(self, hub: SecretHub, place: SocketPlace, *, max_streams: int) -> None:
        self._hub = hub
        self._place = place
        self._health = health.aio.HealthServicer()
        self._max_calls = max_streams + SPARE_CALLS
        self._server: grpc.aio.Server | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listens. Raises INVALID or CONFLICT where the place is unfit or taken, INTERNAL where it cannot be bound."""
        self._place.prepare()
        await self.set_serving(False)
        await self._listen()

    async def keep_listening(self) -> bool:
        """Listens anew where somebody removed or replaced the socket; whether that was needed.

        Proxies that are connected hold what they have and come back to the new socket. Raises as `start` does.
        """
        if self._server is None or self._place.inode() == self._inode:
            return False
        self._place.prepare()
        await self._server.stop(None)  # before there is a new socket: gRPC removes whatever has the old one's name
        await self._listen()
        _log.warning("socket_was_gone", path=str(self._place.path))
        return True

    async def set_serving(self, serving: bool) -> None:
        """What the health service tells: whether a valid identity is served."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SDS, ADS):
            await self._health.set(service, status)

    async def _listen(self) -> None:
        server = self._build()
        try:
            with private_umask():
                server.add_insecure_port(f"unix:{self._place.path.absolute()}")
        except RuntimeError as error:
            raise internal(f"--socket {self._place.path}: cannot be bound") from error
        self._server = server
        self._place.open_to_group()
        self._inode = self._place.inode()
        await server.start()

    async def stop(self) -> None:
        """Takes no new calls, ends the streams and removes the socket."""
        self._hub.close()
        if self._server is not None:
            await self._server.stop(STOP_GRACE.total_seconds())
            self._place.path.unlink(missing_ok=True)

    def _build(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            maximum_concurrent_rpcs=self._max_calls,
            options=[
                ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
                # proxies keep idle streams alive with pings; by default gRPC would hang up on them
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        handlers = discovery_handlers(_Proxies(self._hub))
        server.add_generic_rpc_handlers((BoundedCalls(handlers, SPARE_CALLS, MAX_METADATA_BYTES, PATIENCE),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SDS, ADS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server


class _Proxies:
    """See `rpc.discovery.StreamSource`: whoever can open the socket is served."""

    def __init__(self, hub: SecretHub) -> None:
        self._hub = hub

    async def open(self, _: object, mode: StreamMode, *, aggregated: bool) -> SecretStream:
        return self._hub.open(mode, aggregated=aggregated)

    async def fetch(self, _: object, request: Any) -> Any:
        return fetch(request, SECRET_TYPE, self._hub.fetchable())
