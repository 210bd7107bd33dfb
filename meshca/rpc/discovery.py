"""The discovery services (xDS): SDS and ADS, state of the world and delta, and Fetch. Bytes to values and back.

One set of handlers serves whoever has streams to give: the server's hub, behind authentication, and the agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio
from envoy.service.discovery.v3 import ads_pb2
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3 import sds_pb2
from google.protobuf.message import DecodeError

from meshca.errors import MeshcaError, detached, invalid
from meshca.rpc.calls import Refusal
from meshca.rpc.limits import Pace
from meshca.rpc.status import CODES, retry_metadata
from meshca.services.streams import Write
from meshca.xds.stream import StreamMode

SDS = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].full_name
ADS = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name

_REQUESTS = {StreamMode.SOTW: DiscoveryRequest, StreamMode.DELTA: DeltaDiscoveryRequest}


_FAREWELL_SECONDS = 0.05

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]  # generic in the stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]


class ServedStream(Protocol):
    """A stream of a hub."""

    async def run(self, requests: AsyncIterator[Any], write: Write) -> None: ...
    def close(self) -> None: ...


class StreamSource(Protocol):
    """Whoever has streams to give. Both raise MeshcaError, whose message the peer is told, where they refuse."""

    async def open(self, context: Context, mode: StreamMode, *, aggregated: bool) -> ServedStream: ...
    async def fetch(self, context: Context, request: Any) -> Any: ...


def discovery_handlers(
    source: StreamSource, new_pace: Callable[[], Pace] | None = None
) -> tuple[grpc.GenericRpcHandler, ...]:
    """The discovery services, for `BoundedCalls`. They take bytes: left to gRPC, no message would be our fault.

    `new_pace` gives each stream the pace that it must keep; None for no bound.
    """

    def stream(mode: StreamMode, *, aggregated: bool) -> Handler:
        return _stream(source, mode, new_pace, aggregated=aggregated)

    sds = {
        "StreamSecrets": stream(StreamMode.SOTW, aggregated=False),
        "DeltaSecrets": stream(StreamMode.DELTA, aggregated=False),
        "FetchSecrets": _fetch(source),
    }
    ads = {
        "StreamAggregatedResources": stream(StreamMode.SOTW, aggregated=True),
        "DeltaAggregatedResources": stream(StreamMode.DELTA, aggregated=True),
    }
    return grpc.method_handlers_generic_handler(SDS, sds), grpc.method_handlers_generic_handler(ADS, ads)


def _stream(
    source: StreamSource, mode: StreamMode, new_pace: Callable[[], Pace] | None, *, aggregated: bool
) -> Handler:
    async def serve(_: object, context: Context) -> None:
        try:
            stream = await source.open(context, mode, aggregated=aggregated)
            try:
                pace = None if new_pace is None else new_pace()
                await stream.run(_Requests(context, _REQUESTS[mode], pace), context.write)
            finally:
                stream.close()
        except MeshcaError as error:
            refusal = detached(error)  # its traceback holds this frame, and this frame would hold it
        else:
            # whoever cancels a call seems to end it well for a moment, and then gRPC fails to send it a status
            await asyncio.sleep(_FAREWELL_SECONDS)
            return
        # last of all: a peer that does not read may keep us here until its connection ends, and must hold no place
        await _abort(context, refusal)

    return grpc.stream_stream_rpc_method_handler(serve, _as_it_is, _as_it_is)


def _fetch(source: StreamSource) -> Handler:
    async def answer(request: bytes, context: Context) -> Any:
        try:
            return await source.fetch(context, _parse(DiscoveryRequest, request))
        except MeshcaError as error:
            raise Refusal(CODES[error.kind], error.message, _hint(error)) from error

    return grpc.unary_unary_rpc_method_handler(answer, _as_it_is, _serialized)


class _Requests:
    """The requests of a call, parsed. Raises INVALID for one that cannot be, EXHAUSTED where they come too fast."""

    __slots__ = ("_context", "_message", "_pace")

    def __init__(self, context: Context, message: Any, pace: Pace | None) -> None:
        self._context = context
        self._message = message
        self._pace = pace

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        data = await self._context.read()
        if data is grpc.aio.EOF:
            raise StopAsyncIteration
        if self._pace is not None:
            self._pace.admit()
        return _parse(self._message, data)


async def _abort(context: Context, error: MeshcaError) -> None:
    await context.abort(CODES[error.kind], error.message, _hint(error))


def _hint(error: MeshcaError) -> tuple[tuple[str, str | bytes], ...]:
    if error.retry_after is None:
        return ()
    return retry_metadata(CODES[error.kind], error.message, error.retry_after)


def _parse(message: Any, request: bytes) -> Any:
    try:
        return message.FromString(request)
    except DecodeError as error:
        raise invalid(f"the request is no {message.DESCRIPTOR.name}") from error


def _as_it_is(message: bytes) -> bytes:
    return message


def _serialized(response: Any) -> bytes:
    return bytes(response.SerializeToString())
