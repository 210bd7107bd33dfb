"""The hub of an agent: what is published now, the streams it goes to, and who has accepted it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog

from meshca.agent.memory import ProxyMemory
from meshca.agent.proxies import ProxyRegistry
from meshca.agent.publication import Publication
from meshca.agent.relying import Debt, RelyingProxies, Standing
from meshca.errors import exhausted, unavailable
from meshca.ports import Clock
from meshca.services.streams import DiscoveryStream, new_nonces
from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.snapshot import SECRET_TYPE, Snapshot
from meshca.xds.stream import StreamMode, XdsStream

MAX_STREAMS = 1000
TRUST_WAIT = timedelta(seconds=5)

_log = structlog.get_logger("meshca.agent")


class SecretHub:
    """Publishes secrets to streams. Each stream has a mailbox of one: a slow proxy skips versions and slows nobody."""

    def __init__(
        self,
        clock: Clock,
        *,
        max_streams: int = MAX_STREAMS,
        trust_wait: timedelta = TRUST_WAIT,
        memory: ProxyMemory | None = None,
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._max_streams = max_streams
        self._trust_wait = trust_wait
        self._streams: set[SecretStream] = set()
        self._current: Publication | None = None
        self._published = asyncio.Event()
        self._progress = asyncio.Event()
        self._moves = 0
        self._remembered = 0
        self._nonces = new_nonces()
        self._closing = False
        self.proxies = ProxyRegistry()
        self.relying = RelyingProxies()

    async def publish(self, publication: Publication) -> None:
        """Serves it from now on: changed trust first and, once every live stream that wants trust gave its verdict on
        that (or after five seconds), the identity (law 4), if that changed too."""
        if self._current is None:
            await self._recall(publication)
        elif self._current.trust_versions != publication.trust_versions:
            self._serve(self._current.with_trust_of(publication))
            if self._current.identity != publication.identity:
                await self._trust_taken(publication.trust_versions)
        self._serve(publication)

    def debts(self) -> tuple[Debt, ...]:
        """Which proxies have not accepted the trust that is served now, though they rely on it."""
        return self.relying.debts(self._clock.now())

    async def remember(self, *, verdicts: bool = False) -> bool:
        """Returns once the relying proxies are on the disk, so that a restart does not lose them; whether they are.

        With `verdicts` also what each has accepted, which a restart may lose: then it is asked for again.
        """
        revision = self.relying.revision
        if self._memory is None or (revision == self._remembered and not verdicts):
            return True
        kept = await self._memory.keep(lambda: self.relying.known(self._clock.now()))
        if kept:
            self._remembered = max(self._remembered, revision)
        return kept

    @property
    def moves(self) -> int:
        """How often a verdict was heard or a stream ended."""
        return self._moves

    async def progress(self, seen: int, seconds: float) -> int:
        """Returns once more has happened to verdicts than `seen`, or after that time: how much has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._moves == seen:
                    self._progress.clear()
                    await self._progress.wait()
        return self._moves

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
        xds = XdsStream(mode, frozenset((SECRET_TYPE,)), self._nonces, aggregated=aggregated)
        stream = SecretStream(self, xds, self._clock)
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """Ends all streams."""
        self._closing = True
        for stream in self._streams:
            stream.end()

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
        self.relying.left(stream, stream.node_id, self._clock.now())
        self._moved()

    def heard(self, stream: SecretStream, gives: Collection[str]) -> None:
        """A stream heard its peer, or is about to give it the secrets of these names."""
        if self._current is None:
            return
        if any(resource.name in gives for resource in self._current.identity):
            self.relying.gave(stream.node_id, self._current.not_after)
        standing = stream.standing(self._current.trust_versions)
        if self.relying.stands(stream, stream.node_id, standing, self._clock.now(), stream.refusal):
            self._moved()

    def _moved(self) -> None:
        self._moves += 1
        self._progress.set()

    def _serve(self, publication: Publication) -> None:
        self._current = publication
        self.relying.served(publication.trust_version)
        self._published.set()
        for stream in self._streams:
            stream.wake()

    async def _recall(self, publication: Publication) -> None:
        """What was known before a restart. Where that is lost, somebody may hold a certificate as long as the one to be
        served."""
        known = () if self._memory is None else await self._memory.recall()
        self.relying = RelyingProxies(known or ())
        if known is None:
            self.relying.add_unnamed(publication.not_after)

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
        return [stream.node_id for stream in self._streams if stream.standing(versions) is Standing.OWES]


class SecretStream(DiscoveryStream):
    """One proxy's stream."""

    __slots__ = ("_clock", "_hub", "_name", "_refusal")

    def __init__(self, hub: SecretHub, xds: XdsStream, clock: Clock) -> None:
        super().__init__(xds)
        self._hub = hub
        self._clock = clock
        self._name: str | None = None
        self._refusal = ""

    @property
    def refusal(self) -> str:
        """Why the peer refused something last; redacted, empty where it never did."""
        return self._refusal

    @property
    def node_id(self) -> str:
        """The peer's name for itself as of its first request; empty before, or where it gave none."""
        return self._name or ""

    def standing(self, versions: dict[str, str]) -> Standing:
        """What its peer did about these versions of the names that it wants."""
        names = self.xds.subscribed(SECRET_TYPE) & versions.keys()
        if not names:
            return Standing.APART
        accepted, parked = self.xds.accepted(SECRET_TYPE), self.xds.parked(SECRET_TYPE)
        behind = [name for name in names if accepted.get(name) != versions[name]]
        if not behind:
            return Standing.HOLDS
        refused = any(versions[name] in parked.get(name, frozenset()) for name in behind)
        owes = any(versions[name] not in parked.get(name, frozenset()) for name in behind)
        return Standing.REFUSED if refused and not owes else Standing.OWES

    async def ready(self) -> None:
        """See `DiscoveryStream`."""
        await self._hub.first_publication()

    def visible(self) -> Snapshot:
        """See `DiscoveryStream`."""
        return self._hub.visible_to(self.xds)

    def receive(self, request: Any) -> list[Effect]:
        """See `DiscoveryStream`. The first request that is in order makes the proxy known."""
        effects = super().receive(request)
        if self._name is None:
            self._name = self.xds.node_id
            self._hub.proxies.opened(self.node_id, self._clock.now())
        return effects

    def heard(self, effects: Sequence[Effect]) -> None:
        """Tells registry and log what was learnt."""
        for effect in effects:
            if isinstance(effect, Acked):
                self._hub.proxies.accepted(self.node_id, effect.versions)
            elif isinstance(effect, Nacked):
                self._refused(effect)
        if self._name is not None:
            self._hub.heard(self, {name for effect in effects if isinstance(effect, Send) for name in effect.versions})

    async def before_sending(self) -> None:
        """See `DiscoveryStream`. Who may have a certificate is known before it can have one."""
        await self._hub.remember()

    def close(self) -> None:
        """The stream is over."""
        self._hub.forget(self)
        if self._name is not None:
            self._hub.proxies.closed(self.node_id, self._clock.now())

    def _refused(self, refusal: Nacked) -> None:
        parked = self.xds.parked(SECRET_TYPE)
        culprits = [(name, v) for name, v in refusal.versions.items() if v in parked.get(name, frozenset())]
        self._refusal = refusal.reason
        self._hub.proxies.refused(self.node_id, culprits, refusal.reason, self._clock.now())
        _log.warning("proxy_refused_secret", node=self.node_id, versions=dict(refusal.versions), reason=refusal.reason)
