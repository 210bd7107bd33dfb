"""What holds for every call of a listener: bounded metadata, a request that comes in time, and that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from meshca.rpc.patience import Patience

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs only


class BoundedCalls(grpc.GenericRpcHandler):
    """The methods of `handlers`, behind these rules; only unary ones and bidirectional streams."""

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler], patience: Patience, max_metadata_bytes: int) -> None:
        self._handlers = tuple(handlers)
        self._patience = patience
        self._max_metadata_bytes = max_metadata_bytes
        self._known: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method; None for one that does not exist."""
        # gRPC's own bound is for single headers: by HPACK a frame of 16 KB can repeat one of them 16,000 times
        size = 0
        for name, value in handler_call_details.invocation_metadata or ():
            size += len(name) + len(value)
        if size > self._max_metadata_bytes:
            return _TOO_MUCH_METADATA
        known = self._known.get(handler_call_details.method)
        return known if known is not None else self._find(handler_call_details)

    def _find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        for handlers in self._handlers:
            found = handlers.service(details)
            if found is not None:
                return self._known.setdefault(details.method, _bounded(found, self._patience))
        return None


def _bounded(handler: Handler, patience: Patience) -> Handler:
    if handler.unary_unary is not None:
        call = _unary(handler.unary_unary, handler.request_deserializer, patience)
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _stream(handler.stream_stream, patience), handler.request_deserializer, handler.response_serializer
        )
    raise NotImplementedError("streams in one direction are not bounded here")


def _unary(
    answer: Callable[[Any, grpc.ServicerContext], Any], parse: Callable[[bytes], Any] | None, patience: Patience
) -> Callable[[Iterator[bytes], grpc.ServicerContext], Any]:
    """A unary call, as a stream of one request: that looks the same on the wire, and lets us do the waiting."""
    assert parse is not None

    def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        wait = patience.begin(context.cancel)
        try:
            data = next(requests, None)
        finally:
            wait.over()
        if data is None:
            _refuse(context, "the call ended without a request")
        try:
            request = parse(data)
        except DecodeError:
            _refuse(context, "the request is not a message of this method's type")
        return answer(request, context)

    return call


def _stream(
    answer: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]], patience: Patience
) -> Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]:
    """A stream, which holds a thread for as long as it lives: so that is not long."""

    def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        wait = patience.begin(context.cancel)
        try:
            yield from answer(requests, context)
        finally:
            wait.over()

    return call


def _refuse(context: grpc.ServicerContext, why: str) -> NoReturn:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
    raise AssertionError("abort returned")


def _refuse_metadata(_: Iterator[bytes], context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the call's metadata is too large")
    raise AssertionError("abort returned")


_TOO_MUCH_METADATA: Handler = grpc.stream_unary_rpc_method_handler(_refuse_metadata, None, None)
