"""The listeners' way to the server's hub: who asks is admitted and authenticated first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog

from meshca.errors import ErrorKind, MeshcaError
from meshca.ports import Clock
from meshca.rpc.discovery import ServedStream
from meshca.rpc.limits import PeerLimiter
from meshca.services.authentication import Authentication
from meshca.services.distribution import Distribution
from meshca.spiffe.peers import Caller, Peer
from meshca.xds.stream import StreamMode

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]  # generic in the stubs only

_OPAQUE = "request authenticate failure"
_log = structlog.get_logger("meshca.door")


class DiscoveryDoor:
    """A `StreamSource` of one listener; `read_peer` gives a call's peer and its name for the limiter."""

    def __init__(
        self,
        distribution: Distribution,
        authentication: Authentication,
        limiter: PeerLimiter,
        clock: Clock,
        read_peer: Callable[[Any], tuple[Peer, str]],
    ) -> None:
        self._distribution = distribution
        self._authentication = authentication
        self._limiter = limiter
        self._clock = clock
        self._read_peer = read_peer

    async def open(self, context: Context, mode: StreamMode, *, aggregated: bool) -> ServedStream:
        """See `StreamSource`. Raises UNAUTHENTICATED, DENIED and UNAVAILABLE with opaque words, EXHAUSTED for one who
        opens too many streams or too fast."""
        caller = await self._admit(context)
        return self._distribution.open(mode, caller, aggregated=aggregated)

    async def fetch(self, context: Context, request: Any) -> Any:
        """See `StreamSource`. Raises as `open` does, and what `xds.stream.fetch` raises."""
        return self._distribution.fetch(await self._admit(context), request)

    async def _admit(self, context: Context) -> Caller:
        peer, name = self._read_peer(context)
        self._limiter.admit(name)
        try:
            return await self._authenticate(peer)
        except MeshcaError as error:
            _log.info("authentication_failed", peer=peer.address, kind=error.kind.value, reason=error.message)
            is_out = error.kind is ErrorKind.UNAVAILABLE
            kind = ErrorKind.UNAVAILABLE if is_out else ErrorKind.UNAUTHENTICATED
            raise MeshcaError(kind, _OPAQUE, retry_after=error.retry_after) from error

    async def _authenticate(self, peer: Peer) -> Caller:
        """A certificate takes but a little computing; for a token, keys may be fetched or a store read."""
        now = self._clock.now()
        if peer.bearer_tokens:
            return await asyncio.to_thread(self._authentication.authenticate, peer, now)
        return self._authentication.authenticate(peer, now)
