"""Health and reflection for peers that nobody knows: what they can make the server keep or wait for is bounded.

grpc's own health service is not used: its `Watch` keeps every service name that a peer ever made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from meshca.rpc.calls import Refusal

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

# A stream of questions about reflection; tools ask a few and go.
_REFLECTION_SECONDS = 5.0
_REFLECTION_STREAMS = 64

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

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """SERVING or NOT_SERVING; NOT_FOUND for a service that is not ours."""
        if request.service not in self._services:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a listener."""
        check = grpc.unary_unary_rpc_method_handler(
            self.check, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": check})


class Reflection:
    """Server reflection, which tells the methods of `services`.

    A stream ends after five seconds; of 64 that are open at once, whoever sends and reads what, a further one is
    refused.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
        self._open = 0

    async def info(self, questions: Any, context: Context) -> None:
        """`ServerReflectionInfo`."""
        try:
            async with asyncio.timeout(_REFLECTION_SECONDS), self._place():
                async for answer in self._servicer.ServerReflectionInfo(questions, context):
                    await context.write(answer)
        except Refusal as error:
            refusal = error.with_traceback(None)  # it holds this frame, and this frame would hold it
        except TimeoutError:
            refusal = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "reflection streams are short: ask again")
        else:
            return
        await context.abort(refusal.code, refusal.message)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._open >= _REFLECTION_STREAMS:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams: try again later")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def reflection_handler(services: Iterable[str]) -> grpc.GenericRpcHandler:
    """Server reflection, for a listener."""
    info = grpc.stream_stream_rpc_method_handler(
        Reflection(services).info,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": info})
