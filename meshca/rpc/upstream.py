"""`meshca.plugin.v1.UpstreamAuthority` as this server serves it to servers below it. Bytes to values and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog

from meshca.errors import ErrorKind, MeshcaError, exhausted, unauthenticated, unavailable
from meshca.ports import Clock
from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.rpc.calls import Refusal
from meshca.rpc.limits import PeerLimiter
from meshca.rpc.status import CODES, retry_metadata
from meshca.services.authentication import Authentication
from meshca.services.downstream import Downstream
from meshca.spiffe.peers import Caller, Peer

_log = structlog.get_logger("meshca.door")
if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]  # generic in the stubs only

UPSTREAM_SERVICE = "meshca.plugin.v1.UpstreamAuthority"
MAX_TTL_SECONDS = 10 * 365 * 86400
MAX_STREAMS = 64
_OPAQUE = "request authenticate failure"
_LOOK_SECONDS = 0.5  # between two looks for news, of each stream; there are few


class UpstreamDoor:
    """Answers the protocol on the mTLS listener. `mints` bounds how often one server may ask."""

    def __init__(
        self,
        downstream: Downstream,
        authentication: Authentication,
        limiter: PeerLimiter,
        mints: PeerLimiter,
        clock: Clock,
        read_peer: Callable[[Any], tuple[Peer, str]],
    ) -> None:
        self._downstream = downstream
        self._authentication = authentication
        self._limiter = limiter
        self._mints = mints
        self._clock = clock
        self._read_peer = read_peer
        self._streams = 0
        self._closed = asyncio.Event()

    async def mint(self, request: pb.MintRequest, context: Context) -> pb.MintResponse:
        """Signs an issuing CA."""
        try:
            caller = self._admit(context)
            self._mints.admit(str(caller.id))
            ttl = timedelta(seconds=min(max(request.ttl_seconds, 0), MAX_TTL_SECONDS))
            chain = await asyncio.to_thread(self._downstream.mint, caller, request.csr, ttl)
        except MeshcaError as error:
            raise _refused("Mint", error) from error
        return pb.MintResponse(chain=chain)

    async def acknowledge(self, request: pb.AcknowledgeRootsRequest, context: Context) -> pb.AcknowledgeRootsResponse:
        """Hears what is trusted below."""
        try:
            caller, trusted = self._admit(context), tuple(request.trusted)
            await asyncio.to_thread(self._downstream.acknowledge, caller, trusted, request.issuing)
        except MeshcaError as error:
            raise _refused("AcknowledgeRoots", error) from error
        return pb.AcknowledgeRootsResponse()

    async def watch(self, _: object, context: Context) -> None:
        """The roots, at once and after each change, until the caller's certificate ends."""
        try:
            await self._watch(context)
        except MeshcaError as error:
            refusal = _refused("WatchRoots", error).with_traceback(None)
        else:
            return
        # last of all: a peer that does not read may keep us here, and must hold no place
        await context.abort(refusal.code, refusal.message, refusal.metadata)

    def close(self) -> None:
        """Ends the streams."""
        self._closed.set()

    async def _watch(self, context: Context) -> None:
        caller = self._admit(context)
        if self._streams >= MAX_STREAMS:
            raise exhausted("too many streams of roots are open: try again later", retry_after=1.0)
        self._streams += 1
        try:
            await self._tell(caller, context)
        finally:
            self._streams -= 1

    async def _tell(self, caller: Caller, context: Context) -> None:
        told: tuple[bytes, ...] = ()
        while not self._closed.is_set():
            self._downstream.check(caller)
            if caller.valid_until is not None and caller.valid_until <= self._clock.now():
                raise unauthenticated("the certificate has ended: come again with the next one")
            roots = self._downstream.roots()
            if roots != told:
                told = roots
                await context.write(pb.Roots(roots=roots).SerializeToString())
            try:
                await asyncio.wait_for(self._closed.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue
        raise unavailable("the server is stopping")

    def _admit(self, context: Context) -> Caller:
        """Who calls, by its certificate alone."""
        peer, name = self._read_peer(context)
        self._limiter.admit(name)
        try:
            caller = self._authentication.authenticate(Peer(peer.address, peer.certificate_chain), self._clock.now())
        except MeshcaError as error:
            _log.info("authentication_failed", peer=peer.address, kind=error.kind.value, reason=error.message)
            kind = ErrorKind.UNAVAILABLE if error.kind is ErrorKind.UNAVAILABLE else ErrorKind.UNAUTHENTICATED
            raise MeshcaError(kind, _OPAQUE) from error
        self._downstream.check(caller)
        self._downstream.check_issued_here(peer.certificate_chain[0])
        return caller


def upstream_handlers(door: UpstreamDoor) -> tuple[grpc.GenericRpcHandler, ...]:
    """The generic handlers, for `BoundedCalls`."""
    mint = grpc.unary_unary_rpc_method_handler(door.mint, pb.MintRequest.FromString, pb.MintResponse.SerializeToString)
    acknowledge = grpc.unary_unary_rpc_method_handler(
        door.acknowledge, pb.AcknowledgeRootsRequest.FromString, pb.AcknowledgeRootsResponse.SerializeToString
    )
    # a stream in one direction looks the same on the wire, and its one request says nothing
    watch: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(door.watch, None, None)
    methods = {"Mint": mint, "WatchRoots": watch, "AcknowledgeRoots": acknowledge}
    return (grpc.method_handlers_generic_handler(UPSTREAM_SERVICE, methods),)


def _refused(method: str, error: MeshcaError) -> Refusal:
    """Who asks is a server of ours, and is told everything but what is wrong inside."""
    _log.info("downstream_refused", method=method, kind=error.kind.value, reason=error.message)
    code, message = CODES[error.kind], "internal error" if error.kind is ErrorKind.INTERNAL else error.message
    metadata = () if error.retry_after is None else retry_metadata(code, message, error.retry_after)
    return Refusal(code, message, metadata)
