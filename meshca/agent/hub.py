"""The hub of an agent: what is published now, the streams it goes to, and who has accepted it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from meshca.agent.proxies import ProxyRegistry
from meshca.agent.publication import Publication
from meshca.errors import exhausted, unavailable
from meshca.ports import Clock
from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.snapshot import SECRET_TYPE, Snapshot
from meshca.xds.stream import StreamMode, XdsStream

MAX_STREAMS = 1000
TRUST_WAIT = timedelta(seconds=5)

_log = structlog.get_logger("meshca.agent")


class SecretHub:
    """Publishes secrets to streams. Each stream has a mailbox of one: a slow proxy skips versions and slows nobody."""

    def __init__(self, clock: Clock, *, max_streams: int = MAX_STREAMS, trust_wait: timedelta = TRUST_WAIT) -> None:
        self._clock = clock
        self._max_streams = max_streams
        self._trust_wait = trust_wait
        self._streams: set[SecretStream] = set()
        self._current: Publication | None = None
        self._published = asyncio.Event()
        self._progress = asyncio.Event()
        self._closing = False
        self.proxies = ProxyRegistry()

    async def publish(self, publication: Publication) -> None:
        """Serves it from now on: changed trust first and, once every live stream that wants trust gave its verdict on
        that (or after five seconds), the identity (law 4)."""
        if self._current is not None and self._current.trust_versions != publication.trust_versions:
            self._serve(self._current.with_trust_of(publication))
            await self._trust_taken(publication.trust_versions)
        self._serve(publication)

    def fetchable(self) -> Snapshot:
        """What a caller without a stream may see. Raises UNAVAILABLE before there is anything."""
        if self._current is None:
            raise unavailable("this agent has no identity yet: try again")
        return self._current.visible_to((), self._clock.now())

    def open(self, mode: StreamMode, *, aggregated: bool) -> SecretStream:
        """A new stream; `aggregated`: of ADS. Raises EXHAUSTED where there are too many, UNAVAILABLE while the agent
        stops."""
        if self._closing:
            raise unavailable("this agent is stopping")
        if len(self._streams) >= self._max_streams:
            raise exhausted(f"{len(self._streams)} streams are open: no more are taken")
        xds = XdsStream(mode, frozenset((SECRET_TYPE,)), lambda: secrets.token_hex(8), aggregated=aggregated)
        stream = SecretStream(self, xds, self._clock)
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """Ends all streams; each returns as soon as it is not writing."""
        self._closing = True
        self._published.set()
        for stream in self._streams:
            stream.wake()

    @property
    def closing(self) -> bool:
        """Whether streams are to end."""
        return self._closing

    async def first_publication(self) -> None:
        """Returns once there is something to serve (or the agent stops). Until then no request is even looked at: an
        answer from nothing could tell a delta client that its secrets are gone."""
        await self._published.wait()

    def visible_to(self, stream: XdsStream) -> Snapshot:
        """What that stream may see now."""
        assert self._current is not None, "streams wait for the first publication"
        return self._current.visible_to(stream.accepted(SECRET_TYPE), self._clock.now())

    def forget(self, stream: SecretStream) -> None:
        """The stream is over."""
        self._streams.discard(stream)
        self._progress.set()

    def progressed(self) -> None:
        """A stream heard a verdict."""
        self._progress.set()

    def _serve(self, publication: Publication) -> None:
        self._current = publication
        self._published.set()
        for stream in self._streams:
            stream.wake()

    async def _trust_taken(self, versions: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(self._trust_wait.total_seconds()):
                while self._behind(versions):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            nodes = sorted(self._behind(versions))
            _log.warning("trust_not_taken_in_time", nodes=nodes[:20], count=len(nodes))

    def _behind(self, versions: dict[str, str]) -> list[str]:
        return [stream.node_id for stream in self._streams if stream.owes_verdict(versions)]


class SecretStream:
    """One stream: requests in, responses out."""

    def __init__(self, hub: SecretHub, xds: XdsStream, clock: Clock) -> None:
        self._hub = hub
        self._clock = clock
        self._xds = xds
        self._woken = asyncio.Event()
        self._name: str | None = None

    @property
    def node_id(self) -> str:
        """The peer's name for itself as of its first request; empty before, or where it gave none."""
        return self._name or ""

    def wake(self) -> None:
        """There is something new."""
        self._woken.set()

    def owes_verdict(self, versions: dict[str, str]) -> bool:
        """Whether it wants one of these names and neither accepted nor refused that version of it."""
        accepted, parked = self._xds.accepted(SECRET_TYPE), self._xds.parked(SECRET_TYPE)
        return any(
            accepted.get(name) != versions[name] and versions[name] not in parked.get(name, frozenset())
            for name in self._xds.subscribed(SECRET_TYPE) & versions.keys()
        )

    async def run(self, requests: AsyncIterator[Any], write: Callable[[Any], Awaitable[None]]) -> None:
        """Serves until the peer or the agent ends the stream. Raises what `XdsStream.receive` raises."""
        await self._hub.first_publication()
        reading, waking = _task(_next(requests)), _task(self._woken.wait())
        try:
            while not self._hub.closing:
                await asyncio.wait((reading, waking), return_when=asyncio.FIRST_COMPLETED)
                if waking.done():
                    self._woken.clear()
                    waking = _task(self._woken.wait())
                    await self._answer(self._xds.push(self._hub.visible_to(self._xds)), write)
                if reading.done():
                    request = reading.result()
                    if request is None:
                        return
                    await self._answer(self._receive(request), write)
                    reading = _task(_next(requests))
        finally:
            await _end(reading, waking)

    def close(self) -> None:
        """The stream is over."""
        self._hub.forget(self)
        if self._name is not None:
            self._hub.proxies.closed(self.node_id, self._clock.now())

    def _receive(self, request: Any) -> list[Effect]:
        effects = self._xds.receive(request, self._hub.visible_to(self._xds))
        if self._name is None:
            self._name = self._xds.node_id
            self._hub.proxies.opened(self.node_id, self._clock.now())
        return effects

    async def _answer(self, effects: list[Effect], write: Callable[[Any], Awaitable[None]]) -> None:
        """Tells registry and log what was learnt, then writes; a peer that does not read holds up nobody but itself."""
        for effect in effects:
            if isinstance(effect, Acked):
                self._hub.proxies.accepted(self.node_id, effect.versions)
            elif isinstance(effect, Nacked):
                self._refused(effect)
        if any(not isinstance(effect, Send) for effect in effects):
            self._hub.progressed()
        for effect in effects:
            if isinstance(effect, Send):
                await write(effect.response)

    def _refused(self, refusal: Nacked) -> None:
        parked = self._xds.parked(SECRET_TYPE)
        culprits = [(name, v) for name, v in refusal.versions.items() if v in parked.get(name, frozenset())]
        self._hub.proxies.refused(self.node_id, culprits, refusal.reason, self._clock.now())
        _log.warning("proxy_refused_secret", node=self.node_id, versions=dict(refusal.versions), reason=refusal.reason)


def _task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next(requests: AsyncIterator[Any]) -> Any:
    """The next request, or None at the end of the stream."""
    return await anext(requests, None)
