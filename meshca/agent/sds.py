"""Envoy's Secret Discovery Service on a Unix socket: SDS and ADS, state of the world and delta, and Fetch."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import ads_pb2, ads_pb2_grpc
from envoy.service.secret.v3 import sds_pb2, sds_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meshca.agent.hub import SecretHub
from meshca.agent.sockets import SocketPlace, private_umask
from meshca.errors import MeshcaError, internal
from meshca.rpc.status import CODES
from meshca.xds.snapshot import SECRET_TYPE
from meshca.xds.stream import StreamMode, fetch

MAX_RECEIVE_BYTES = 1024 * 1024  # an Envoy's node alone takes 61 KB
SPARE_CALLS = 100  # beside the streams: Fetch, health, reflection
STOP_GRACE = timedelta(seconds=2)
SDS = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].full_name
ADS = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name


class SecretDiscovery(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]  # generated without types
    """`envoy.service.secret.v3.SecretDiscoveryService`."""

    def __init__(self, hub: SecretHub) -> None:
        self._hub = hub

    async def StreamSecrets(self, requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """State of the world."""
        await _serve(self._hub, StreamMode.SOTW, requests, context)

    async def DeltaSecrets(self, requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Incremental."""
        await _serve(self._hub, StreamMode.DELTA, requests, context)

    async def FetchSecrets(self, request: Any, context: Any) -> Any:  # noqa: N802
        """One answer with the named secrets."""
        try:
            return fetch(request, SECRET_TYPE, self._hub.fetchable())
        except MeshcaError as error:
            await context.abort(CODES[error.kind], error.message)


class AggregatedDiscovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # likewise
    """`envoy.service.discovery.v3.AggregatedDiscoveryService`, for secrets alone."""

    def __init__(self, hub: SecretHub) -> None:
        self._hub = hub

    async def StreamAggregatedResources(self, requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """State of the world."""
        await _serve(self._hub, StreamMode.SOTW, requests, context)

    async def DeltaAggregatedResources(self, requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Incremental."""
        await _serve(self._hub, StreamMode.DELTA, requests, context)


class SdsServer:
    """The gRPC server on the agent's socket, with health and reflection beside the discovery services."""

    def __init__(self, hub: SecretHub, place: SocketPlace, *, max_streams: int) -> None:
        self._hub = hub
        self._place = place
        self._health = health.aio.HealthServicer()
        self._max_calls = max_streams + SPARE_CALLS
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises INVALID or CONFLICT where the place is unfit or taken, INTERNAL where it cannot be bound."""
        self._place.prepare()
        server = self._build()
        try:
            with private_umask():
                server.add_insecure_port(f"unix:{self._place.path.absolute()}")
        except RuntimeError as error:
            raise internal(f"--socket {self._place.path}: cannot be bound") from error
        self._server = server
        self._place.open_to_group()
        await self.set_serving(False)
        await server.start()

    async def set_serving(self, serving: bool) -> None:
        """What the health service tells: whether a valid identity is served."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SDS, ADS):
            await self._health.set(service, status)

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
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(SecretDiscovery(self._hub), server)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(AggregatedDiscovery(self._hub), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SDS, ADS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server


async def _serve(hub: SecretHub, mode: StreamMode, requests: Any, context: Any) -> None:
    try:
        stream = hub.open(mode)
        try:
            await stream.run(aiter(requests), context.write)
        finally:
            stream.close()
    except MeshcaError as error:
        await context.abort(CODES[error.kind], error.message)
