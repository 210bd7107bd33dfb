"""What holds for every call of a listener: bounded metadata, a request that comes in time, and that can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

_log = structlog.get_logger("meshca.door")

Q = TypeVar("Q")
A = TypeVar("A")

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]


class Refusal(Exception):
    """Ends a unary call: what the caller is told, and what its trailing metadata says beside."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.metadata = metadata


class BoundedCalls(grpc.GenericRpcHandler):
    """The methods of `handlers`, behind these rules. Handlers are coroutines; unary ones raise `Refusal`.

    Of unary calls that have their request, `max_concurrent` are served at once; one above is refused. What only waits
    for its request takes nobody's place: it costs a little memory, for no longer than `patience`. Streams live as long
    as they like, and look after themselves.
    """

    def __init__(
        self,
        handlers: Iterable[grpc.GenericRpcHandler],
        max_concurrent: int,
        max_metadata_bytes: int,
        patience: timedelta,
    ) -> None:
        self._handlers = tuple(handlers)
        self._max_concurrent = max_concurrent
        self._max_metadata_bytes = max_metadata_bytes
        self._patience = patience.total_seconds()
        self._known: dict[str, Handler] = {}
        self._served = 0

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
                return self._known.setdefault(details.method, self._bounded(found))
        return None

    def _bounded(self, handler: Handler) -> Handler:
        """A unary call becomes a stream of one request: that looks the same on the wire, and lets us do the waiting."""
        if handler.stream_stream is not None:
            return handler
        if handler.unary_unary is None:
            raise NotImplementedError("streams in one direction are not bounded here")
        answer: Any = handler.unary_unary  # a coroutine here, which the stubs cannot know
        call = self._unary(answer, handler.request_deserializer)
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _unary(
        self, answer: Callable[[Q, Context], Awaitable[A]], parse: Callable[[bytes], Q] | None
    ) -> Callable[[object, Context], Awaitable[A]]:
        assert parse is not None

        async def call(_: object, context: Context) -> A:
            try:
                request = _parsed(parse, await self._request(context))
                return await self._served_one(answer, request, context)
            except Refusal as error:
                refusal = error.with_traceback(None)  # it holds this frame, and this frame would hold it
            except grpc.aio.BaseError:
                raise  # gRPC's own: the call is over anyway
            except Exception:  # noqa: BLE001  # nobody foresaw it: it is logged; gRPC would tell the caller its text
                _log.exception("call_failed")
                refusal = Refusal(grpc.StatusCode.INTERNAL, "internal error")
            # Not before now: a peer that does not read may make us wait here, so it holds no place any more.
            await context.abort(refusal.code, refusal.message, refusal.metadata)
            raise AssertionError("abort returned")

        return call

    async def _request(self, context: Context) -> bytes:
        """The bytes of the call's request. It is over for whoever does not send them in time."""
        try:
            async with asyncio.timeout(self._patience):
                data = await context.read()
        except TimeoutError:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's request did not come in time") from None
        if data is grpc.aio.EOF:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request")
        return data  # type: ignore[no-any-return]

    async def _served_one(self, answer: Callable[[Q, Context], Awaitable[A]], request: Q, context: Context) -> A:
        if self._served >= self._max_concurrent:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls are under way: try again later")
        self._served += 1
        try:
            return await answer(request, context)
        finally:
            self._served -= 1


def _parsed(parse: Callable[[bytes], Q], data: bytes) -> Q:
    try:
        return parse(data)
    except DecodeError:
        why = "the request is not a message of this method's type"
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, why) from None


async def _refuse_metadata(_: object, context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the call's metadata is too large")
    raise AssertionError("abort returned")


_TOO_MUCH_METADATA: Handler = grpc.stream_unary_rpc_method_handler(_refuse_metadata, None, None)
