"""Health and reflection for peers that nobody knows: what they can make the server keep or wait for is bounded.

grpc's own health service is not used. Its `Watch` keeps every service name that a peer ever made up, and holds a lock
while it sends, so that one peer that does not read stops all health checks and the server's shutdown.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

HEALTH_SERVICE = "grpc.health.v1.Health"


class Health:
    """`grpc.health.v1.Health/Check` for a fixed set of services and "", which stands for all of them.

    `Watch` is not there: the protocol has UNIMPLEMENTED tell clients that they must do without.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False

    def set_serving(self, serving: bool) -> None:
        """What every service answers from now on."""
        self._serving = serving

    def check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """SERVING or NOT_SERVING; NOT_FOUND for a service that is not ours."""
        if request.service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a listener."""
        check = grpc.unary_unary_rpc_method_handler(
            self.check, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": check})


def reflection_handler(services: Iterable[str]) -> grpc.GenericRpcHandler:
    """Server reflection, which tells the methods of `services`."""
    servicer = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME))
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": info})
