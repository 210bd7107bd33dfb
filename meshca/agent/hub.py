"""The hub of an agent: what is published now, the streams it goes to, and who has accepted it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from meshca.agent.memory import ProxyMemory
from meshca.agent.proxies import ProxyRegistry
from meshca.agent.publication import Publication
from meshca.agent.relying import Debt, KnownProxy, RelyingProxies, Standing
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
        # nodes that must take the trust half before they are served the identity half, and what that was before
        self._held_back: set[str] = set()
        self._before: Publication | None = None
        self._older_until: datetime | None = None  # when the last certificate ends from before the current one
        self._remembered = 0
        self._nonces = new_nonces()
        self._closing = False
        self.proxies = ProxyRegistry()
        self.relying = RelyingProxies()
        self.using = RelyingProxies()  # of the identity half

    async def publish(self, publication: Publication, *, trust_first: bool = False, restored: bool = False) -> None:
        """Serves it from now on: changed trust first and, once every live stream that wants trust gave its verdict on
        that (or after five seconds), the identity (law 4), if that changed too.

        With `trust_first` no proxy is served the identity before it has accepted the trust, however long that takes,
        and none is waited for on behalf of others. `restored` says that it is from before a restart.
        """
        if self._current is None:
            await self._recall(publication, restored=restored)
        elif trust_first and self._current.identity != publication.identity:
            self._hold_back(self._current, publication)
        elif self._current.trust_versions != publication.trust_versions:
            self._serve(self._current.with_trust_of(publication))
            if self._current.identity != publication.identity:
                await self._trust_taken(publication.trust_versions)
        self._serve(publication)

    def debts(self) -> tuple[Debt, ...]:
        """Which proxies have not accepted the trust that is served now, though they rely on it."""
        return self.relying.debts(self._clock.now())

    def identity_debts(self) -> tuple[Debt, ...]:
        """Which proxies may still use a certificate from before the one that is served now."""
        now = self._clock.now()
        if self._older_until is None or self._older_until <= now:
            return ()
        return self.using.debts(now)

    async def remember(self, *, verdicts: bool = False) -> bool:
        """Returns once the relying proxies are on the disk, so that a restart does not lose them; whether they are.

        With `verdicts` also what each has accepted, which a restart may lose: then it is asked for again.
        """
        revision = self.relying.revision
        if self._memory is None or (revision == self._remembered and not verdicts):
            return True
        kept = await self._memory.keep(self._known)
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

    def visible_on(self, stream: SecretStream) -> Snapshot:
        """What that proxy may see now."""
        if not self._is_held_back(stream):
            return self.visible_to(stream.xds)
        assert self._current is not None
        assert self._before is not None
        shown = self._before.with_trust_of(self._current)
        return shown.visible_to(stream.xds.accepted(SECRET_TYPE), self._clock.now())

    def forget(self, stream: SecretStream) -> None:
        """The stream is over."""
        self._streams.discard(stream)
        for relying in (self.relying, self.using):
            relying.left(stream, stream.node_id, self._clock.now())
        self._moved()

    def heard(self, stream: SecretStream, gives: Collection[str]) -> None:
        """A stream heard its peer, or is about to give it the secrets of these names."""
        if self._current is None:
            return
        if any(resource.name in gives for resource in self._current.identity):
            self.relying.gave(stream.node_id, self._current.not_after)
            self.using.gave(stream.node_id, self._current.not_after)
        halves = (self.relying, self._current.trust_versions), (self.using, self._current.identity_versions)
        moved = [
            relying.stands(stream, stream.node_id, stream.standing(versions), self._clock.now(), stream.refusal)
            for relying, versions in halves
        ]
        if any(moved):
            self._release(stream.node_id)
            self._moved()

    def _moved(self) -> None:
        self._moves += 1
        self._progress.set()

    def _serve(self, publication: Publication) -> None:
        before, self._current = self._current, publication
        if before is not None and before.identity != publication.identity:
            self._older_until = max(before.not_after, self._older_until or before.not_after)
        self.relying.served(publication.trust_version)
        self.using.served(publication.identity_version)
        self._moved()
        self._published.set()
        for stream in self._streams:
            stream.wake()

    async def _recall(self, publication: Publication, *, restored: bool) -> None:
        """What was known before a restart. Where that is lost, somebody may hold a certificate as long as the one to be
        served."""
        known = () if self._memory is None else await self._memory.recall(restored=restored)
        self.relying = RelyingProxies(known or ())
        self.using = RelyingProxies(replace(each, trust=each.identity) for each in known or ())
        self._older_until = max((each.until for each in known or ()), default=None)
        if known is None:
            self._older_until = publication.not_after
            for relying in (self.relying, self.using):
                relying.add_unnamed(publication.not_after)

    def _known(self) -> tuple[KnownProxy, ...]:
        now = self._clock.now()
        uses = {each.node_id: each.trust or "" for each in self.using.known(now)}
        return tuple(replace(each, identity=uses.get(each.node_id, "")) for each in self.relying.known(now))

    def _hold_back(self, before: Publication, publication: Publication) -> None:
        """Who has not taken that trust yet goes on with what it has until it has."""
        self._serve(before.with_trust_of(publication))
        self._before = self._before if self._held_back and self._before is not None else before
        self._held_back |= {debt.node_id for debt in self.debts()}

    def _is_held_back(self, stream: SecretStream) -> bool:
        """Proxies that give no node id cannot be told from each other, so each of their streams goes by itself."""
        node_id = stream.claimed_id
        if node_id not in self._held_back or self._current is None:
            return False
        if not node_id:
            return stream.standing(self._current.trust_versions) in (Standing.OWES, Standing.REFUSED)
        return self.relying.owes(node_id, self._clock.now())

    def _release(self, node_id: str) -> None:
        """It has taken the trust: now it is served the identity."""
        if node_id not in self._held_back or self.relying.owes(node_id, self._clock.now()):
            return
        self._held_back.discard(node_id)
        for stream in self._streams:
            if stream.node_id == node_id:
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
        return [stream.node_id for stream in self._streams if stream.standing(versions) is Standing.OWES]


class SecretStream(DiscoveryStream):
    """One proxy's stream."""

    __slots__ = ("_clock", "_hub", "_name", "_refusal", "claimed_id")

    def __init__(self, hub: SecretHub, xds: XdsStream, clock: Clock) -> None:
        super().__init__(xds)
        self._hub = hub
        self._clock = clock
        self._name: str | None = None
        self._refusal = ""
        self.claimed_id = ""  # what it calls itself, known before its first request is answered

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
        return self._hub.visible_on(self)

    def receive(self, request: Any) -> list[Effect]:
        """See `DiscoveryStream`. The first request that is in order makes the proxy known."""
        if self._name is None:
            self.claimed_id = str(request.node.id)
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
