"""The server's hub: trust bundles to every stream that asks, and what their peers say of them as evidence.

What is evidence, and of what. A peer with a certificate of ours is a relying party; the fact is about that certificate.
It has the bundle of sequence N when on each of its open streams, for each form of our bundle that it wants there, all
that it may hold has the content of N or a later one: what it acknowledged last, and what is on its way to it since. A
peer that comes back and names the version that it would be sent has acknowledged it before. A version that is none of
the latest publications proves nothing; neither does a peer without a certificate, which is nobody's relying party until
it gets one, and then has its bundle along with that. What a stream that is not open would say, nobody knows: where one
of several ends, its peer counts by the others after a while, long enough for a lost connection to take them all.

Who fetches our bundle in a single call, and has no stream open here, is taken to have what it was answered: it asks
again where the answer is lost.

An agent speaks for its proxies: it acknowledges when all of them have, and passes on a refusal as its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from meshca.authority.evidence import BundleFact, Channel
from meshca.compile.bundles import BUNDLE_TYPE, NO_RENEWAL, RENEWAL_TYPE, RenewalWindow, trust_names, trust_snapshot
from meshca.errors import MeshcaError, denied, exhausted, unauthenticated, unavailable
from meshca.ports import Clock
from meshca.services.acknowledgements import AcknowledgementQueue
from meshca.services.streams import DiscoveryStream, new_nonces
from meshca.spiffe.bans import NO_BANS, BanList
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import Caller
from meshca.xds.effects import Acked, Effect, Nacked, Send
from meshca.xds.snapshot import SECRET_TYPE, Snapshot
from meshca.xds.stream import StreamMode, XdsStream, fetch

SECRETS_ONLY = frozenset((SECRET_TYPE,))
ALL_TYPES = frozenset((SECRET_TYPE, BUNDLE_TYPE, RENEWAL_TYPE))

REMEMBERED = 64  # publications whose contents can still be told from others
AFTERTHOUGHT = 5.0  # seconds from the end of a stream until its peer counts by its other streams alone
FETCH_REPEAT = 60.0  # seconds until it is told again that a certificate's holder has fetched the same
_AT_ONCE = 50  # streams that are pushed to between two turns of the loop: a few milliseconds of work

_log = structlog.get_logger("meshca.hub")
_Key = tuple[str, str, str]  # type URL, name, version


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Most streams in all and of one identity; how long one lives whose caller has no certificate that ends."""

    total: int = 20_000
    per_identity: int = 1_000
    max_age: timedelta = timedelta(hours=1)


class StreamMetrics(Protocol):
    """What the hub counts."""

    def streams_open(self, count: int) -> None: ...
    def pushed(self) -> None: ...
    def acknowledged(self) -> None: ...
    def push_refused(self) -> None: ...


class Distribution:
    """Publishes trust to streams and takes down who holds it. Belongs to the loop on which `run` runs, but `publish`
    may be called from any thread, also before that.

    `sweep_seconds` is how often it looks for streams whose time is up; `fetch_repeat` after how many it tells again
    that the same was fetched, which may not have counted while a stream from before could be open.
    """

    def __init__(
        self,
        clock: Clock,
        acknowledgements: AcknowledgementQueue,
        metrics: StreamMetrics,
        limits: StreamLimits | None = None,
        *,
        sweep_seconds: float = 1.0,
        afterthought: float = AFTERTHOUGHT,
        fetch_repeat: float = FETCH_REPEAT,
    ) -> None:
        self._clock = clock
        self._acknowledgements = acknowledgements
        self._metrics = metrics
        self._limits = limits or StreamLimits()
        self._sweep_seconds = sweep_seconds
        self._afterthought = afterthought
        self._fetch_repeat = fetch_repeat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offered: _Publication | None = None  # by whichever thread published last
        self._current: _Publication | None = None
        self._published = asyncio.Event()
        self._news = asyncio.Event()
        self._sequences = _Sequences()
        self._streams: dict[TrustStream, None] = {}  # in the order of opening
        self._of_identity: Counter[SpiffeId] = Counter()
        self._holders: dict[str, _Holder] = {}
        self._proven: dict[str, int] = {}  # by serial; outlives the streams, so that nothing is told twice
        self._revisit: dict[_Holder, float] = {}
        self._fetched: dict[str, tuple[int, float]] = {}  # by serial, the oldest first: which sequence, and when told
        self._nonces = new_nonces()
        self._closing = False

    def publish(
        self,
        bundle: TrustBundle,
        renewal: RenewalWindow = NO_RENEWAL,
        federated: Mapping[TrustDomain, TrustBundle] | None = None,
        bans: BanList = NO_BANS,
    ) -> None:
        """Serves these from now on, to every open stream at once but for those of callers in `bans`, which end. From
        any thread. Raises as `trust_snapshot` does."""
        snapshot = trust_snapshot(bundle, federated, renewal)
        self._offered = _Publication(bundle.trust_domain, bundle.sequence, snapshot, bans)
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._take)

    async def run(self) -> None:
        """Pushes what is published, ends what is over and records what is acknowledged, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        self._take()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acknowledgements.run())
                tasks.create_task(self._fan_out())
                tasks.create_task(self._sweep())
        finally:
            self._loop = None

    def open(self, mode: StreamMode, caller: Caller, *, aggregated: bool) -> TrustStream:
        """A new stream; an aggregated one (ADS) serves all types, another one Secrets. `close` it at its end.

        Raises EXHAUSTED where there are too many, of that caller or in all, DENIED for one that is banned, UNAVAILABLE
        while the server stops.
        """
        if self._closing:
            raise unavailable("this server is stopping")
        self.check(caller)
        if len(self._streams) >= self._limits.total:
            raise exhausted(f"{len(self._streams)} streams are open: no more are taken")
        if self._of_identity[caller.id] >= self._limits.per_identity:
            raise exhausted(f"{caller.id} has {self._of_identity[caller.id]} streams open: no more are taken")
        types = ALL_TYPES if aggregated else SECRETS_ONLY
        stream = TrustStream(self, XdsStream(mode, types, self._nonces, aggregated=aggregated), caller, self._age())
        self._add(stream)
        return stream

    def fetchable(self) -> Snapshot:
        """What is served now. Raises UNAVAILABLE before there is anything."""
        if self._current is None:
            raise unavailable("there is no trust bundle to serve yet: try again", retry_after=1.0)
        return self._current.snapshot

    def fetch(self, caller: Caller, request: Any) -> Any:
        """The answer to a single DiscoveryRequest for Secrets; where it brings our bundle, that is evidence.

        Raises DENIED as `check`, UNAVAILABLE as `fetchable`, and what `xds.stream.fetch` raises.
        """
        self.check(caller)
        answer = fetch(request, SECRET_TYPE, self.fetchable())
        assert self._current is not None
        has_bundle = any((SECRET_TYPE, name) in self._current.trust_names for name in request.resource_names)
        if has_bundle and not request.HasField("error_detail") and caller.serial not in self._holders:
            self._note_fetch(caller, self._current.sequence)
        return answer

    def check(self, caller: Caller) -> None:
        """Raises DENIED, in words that tell nothing, where the caller is to be served nothing."""
        if self._current is not None and self._current.bans.concerns(caller):
            raise denied("the request is denied")

    def close(self) -> None:
        """Takes no more streams and ends those that are open."""
        self._closing = True
        for stream in tuple(self._streams):
            stream.end(unavailable("this server is stopping: come back to another one"))

    async def first_publication(self) -> None:
        """Returns once there is something to serve."""
        await self._published.wait()

    def heard(self, stream: TrustStream, effects: Sequence[Effect]) -> None:
        """Counts, and takes down what is evidence. Raises UNAVAILABLE where that cannot be taken down now."""
        is_told_nothing = bool(effects)  # by whom nothing is sent to, a newer publication may hold what it has already
        for effect in effects:
            if isinstance(effect, Send):
                self._metrics.pushed()
                continue
            is_told_nothing = False
            if isinstance(effect, Acked):
                self._metrics.acknowledged()
            else:
                self._metrics.push_refused()
                self._refused(stream, effect)
        if stream.holder is not None and not is_told_nothing:
            self._prove(stream.holder)

    def forget(self, stream: TrustStream) -> None:
        """The stream is over."""
        if stream not in self._streams:
            return
        del self._streams[stream]
        self._metrics.streams_open(len(self._streams))
        self._of_identity[stream.caller.id] -= 1
        if not self._of_identity[stream.caller.id]:
            del self._of_identity[stream.caller.id]
        holder = stream.holder
        if holder is not None:
            holder.streams.remove(stream)
            if holder.streams:
                self._revisit[holder] = self._age() + self._afterthought
            else:
                del self._holders[holder.caller.serial]

    def _add(self, stream: TrustStream) -> None:
        self._streams[stream] = None
        self._of_identity[stream.caller.id] += 1
        self._metrics.streams_open(len(self._streams))
        caller = stream.caller
        if caller.serial and caller.valid_until is not None:
            stream.holder = self._holders.setdefault(caller.serial, _Holder(caller, caller.valid_until))
            stream.holder.streams.append(stream)

    def _take(self) -> None:
        """Makes what was published last the current one; on the loop."""
        offered = self._offered
        if offered is None or offered is self._current:
            return
        self._current = offered
        self._sequences.learn(offered)
        self._end_banned(offered.bans)
        self._published.set()
        self._news.set()

    def _end_banned(self, bans: BanList) -> None:
        """Before the others are woken: nobody who is banned gets what is new."""
        if bans.bans:
            for stream in [stream for stream in self._streams if bans.concerns(stream.caller)]:
                _log.warning("banned_stream_ended", caller=str(stream.caller.id), serial=stream.caller.serial)
                stream.end(denied("the request is denied"))

    async def _fan_out(self) -> None:
        """Wakes all streams at each publication, with room for others in between: ten thousand take a while."""
        while True:
            await self._news.wait()
            self._news.clear()
            for turn, stream in enumerate(tuple(self._streams)):
                stream.wake()
                if turn % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            now, age = self._clock.now(), self._age()
            for stream in tuple(self._streams):
                error = self._end_of(stream, now, age)
                if error is not None:
                    stream.end(error)
            for holder in [holder for holder, due in self._revisit.items() if due <= age]:
                del self._revisit[holder]
                self._think_again(holder)

    def _end_of(self, stream: TrustStream, now: datetime, age: float) -> MeshcaError | None:
        """Why its time is up; None where it is not."""
        until = stream.caller.valid_until
        if until is None and age - stream.opened >= self._limits.max_age.total_seconds():
            return unavailable("this stream is as old as streams get without a certificate: come back", retry_after=0.0)
        if until is not None and until <= now:
            return unauthenticated("the certificate of this connection has ended: come back with a new one")
        return None

    def _think_again(self, holder: _Holder) -> None:
        try:
            self._prove(holder)
        except MeshcaError as error:
            for stream in tuple(holder.streams):
                stream.end(error)

    def _prove(self, holder: _Holder) -> None:
        """Takes down what its streams prove, if that is more than what is known of it."""
        claims = [claim for stream in holder.streams if (claim := self._claim(stream.xds)) is not None]
        serial, sequence = holder.caller.serial, min(claims, default=0)
        if sequence <= self._proven.get(serial, 0):
            return
        self._acknowledgements.offer(self._fact(holder, sequence))
        self._proven.pop(serial, None)
        self._proven[serial] = sequence
        if len(self._proven) > 2 * self._limits.total:
            del self._proven[next(iter(self._proven))]

    def _note_fetch(self, caller: Caller, sequence: int) -> None:
        """Takes it down, but not each time. Where that cannot be done now, the caller is served all the same: it holds
        a rotation up until it fetches again."""
        if not caller.serial or caller.valid_until is None:
            return
        told, age = self._fetched.pop(caller.serial, None), self._age()
        if told is not None and told[0] == sequence and age - told[1] < self._fetch_repeat:
            self._fetched[caller.serial] = told
            return
        try:
            self._acknowledgements.offer(self._fact(_Holder(caller, caller.valid_until), sequence, Channel.FETCH))
        except MeshcaError as error:
            _log.warning("fetch_not_recorded", caller=str(caller.id), serial=caller.serial, reason=error.message)
            return
        self._fetched[caller.serial] = sequence, age
        if len(self._fetched) > 2 * self._limits.total:
            del self._fetched[next(iter(self._fetched))]

    def _claim(self, xds: XdsStream) -> int | None:
        """The lowest sequence among all that the peer may hold of our bundle; 0: not known; None: it wants none."""
        assert self._current is not None
        sequences = [
            min((self._sequences.of(type_url, name, version) for version in versions), default=0)
            for type_url in (SECRET_TYPE, BUNDLE_TYPE)
            for name, versions in xds.may_hold(type_url).items()
            if (type_url, name) in self._current.trust_names
        ]
        return min(sequences, default=None)

    def _refused(self, stream: TrustStream, refusal: Nacked) -> None:
        """Takes it down where it refused our bundle; a version that it had accepted before is not the culprit."""
        caller, parked = stream.caller, stream.xds.parked(refusal.type_url)
        culprits = [name for name, v in refusal.versions.items() if v in parked.get(name, frozenset())]
        _log.warning(
            "bundle_refused",
            caller=str(caller.id),
            serial=caller.serial,
            type=refusal.type_url,
            names=culprits,
            reason=refusal.reason,
        )
        for name in culprits:
            sequence = self._sequences.of(refusal.type_url, name, refusal.versions[name])
            if sequence and stream.holder is not None:
                self._proven.pop(caller.serial, None)  # what it still has is told anew
                self._acknowledgements.offer(self._fact(stream.holder, sequence, refusal=refusal.reason))

    def _fact(
        self, holder: _Holder, sequence: int, channel: Channel = Channel.STREAM, *, refusal: str = ""
    ) -> BundleFact:
        caller = holder.caller
        now = self._clock.now().replace(microsecond=0)  # as stores keep times
        return BundleFact(caller.serial, str(caller.id), sequence, channel, holder.until, now, refusal)

    def _age(self) -> float:
        return asyncio.get_running_loop().time()


class TrustStream(DiscoveryStream):
    """One peer's stream; `opened` is in the loop's seconds."""

    __slots__ = ("_hub", "caller", "holder", "opened")

    def __init__(self, hub: Distribution, xds: XdsStream, caller: Caller, opened: float) -> None:
        super().__init__(xds)
        self._hub = hub
        self.caller = caller
        self.holder: _Holder | None = None
        self.opened = opened

    async def ready(self) -> None:
        """See `DiscoveryStream`."""
        await self._hub.first_publication()

    def visible(self) -> Snapshot:
        """See `DiscoveryStream`."""
        return self._hub.fetchable()

    def heard(self, effects: Sequence[Effect]) -> None:
        """See `DiscoveryStream`."""
        self._hub.heard(self, effects)

    def close(self) -> None:
        """The stream is over."""
        self._hub.forget(self)


class _Holder:
    """A certificate whose holder has streams open."""

    __slots__ = ("caller", "streams", "until")

    def __init__(self, caller: Caller, until: datetime) -> None:
        self.caller = caller
        self.until = until
        self.streams: list[TrustStream] = []


class _Publication:
    """What is served, the sequence of our bundle in it, and who is served nothing."""

    def __init__(self, trust_domain: TrustDomain, sequence: int, snapshot: Snapshot, bans: BanList) -> None:
        self.bans = bans
        self.sequence = sequence
        self.snapshot = snapshot
        self.trust_names = trust_names(trust_domain)


class _Sequences:
    """The latest sequence of our bundle that had a content, for the contents of the last publications."""

    def __init__(self) -> None:
        self._latest: deque[dict[_Key, int]] = deque(maxlen=REMEMBERED)
        self._known: dict[_Key, int] = {}

    def learn(self, publication: _Publication) -> None:
        """It is served from now on."""
        names, named = publication.trust_names, publication.snapshot.named
        self._latest.append({(t, name, named(t)[name].version): publication.sequence for t, name in names})
        self._known = {key: sequence for each in self._latest for key, sequence in each.items()}

    def of(self, type_url: str, name: str, version: str) -> int:
        """The sequence; 0 where the content is not known."""
        return self._known.get((type_url, name, version), 0)
