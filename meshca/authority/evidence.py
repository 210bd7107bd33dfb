"""Evidence: who relies on the trust bundle, and which sequence of it each is known to hold.

A relying party (holder) is whoever holds the key of an unexpired certificate of ours; a certificate that renews another
belongs to the same holder. Nothing is assumed: a holder has a bundle only where something shows that it has, and it
uses its older certificates until it shows that it uses a newer one.

A holder that is banned, by its identity or by all of its certificates, is nobody whose trust matters while it is: it is
left out of every count but those of certificates, which others accept where no revocation list reaches them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from itertools import takewhile
from typing import TypeVar

from meshca.pki.records import ISTIO, UPSTREAM
from meshca.spiffe.bans import NO_BANS, BanKind, BanList

MAX_LAGGARDS = 100

C = TypeVar("C")
UNKNOWN = "unknown"  # stands for the issuer of a certificate that the ledger does not hold; no authority's id


class Channel(Enum):
    """How it is known what a holder has; the value is what is stored and shown."""

    NONE = "none"  # nothing is known yet
    CERTIFICATE = "certificate"  # the bundle was in the answer that brought the certificate
    STREAM = "stream"  # acknowledged on a discovery stream, by the agent and every proxy behind it
    FETCH = "fetch"  # fetched by itself, over a call that proved who asks


@dataclass(frozen=True, slots=True)
class CertificateFact:
    """A certificate was issued: one line of the ledger.

    `renews` is the serial of the certificate that the caller held and proved ("" for none); `proves` says that whoever
    holds it uses the bundle `bundle_sequence` with it, as clients do that get their roots in the same answer;
    `with_lists` that revocation lists are in that answer, too, while any are in use.
    """

    serial: str
    renews: str
    spiffe_id: str
    issuer_id: str
    not_after: datetime
    bundle_sequence: int
    proves: bool
    at: datetime
    with_lists: bool = True


@dataclass(frozen=True, slots=True)
class BundleFact:
    """The holder of `serial` accepted the bundle of that sequence, or refused it (`refusal` says why, redacted).

    `until` is the end of the certificate by which it proved itself.
    """

    serial: str
    spiffe_id: str
    bundle_sequence: int
    channel: Channel
    until: datetime
    at: datetime
    refusal: str = ""


Fact = CertificateFact | BundleFact


def proves_bundle(protocol: str, renews: str) -> bool:
    """Whether a certificate shows that its holder uses the bundle that was delivered with it.

    Istio's clients get their roots in the same answer, and use both together. So does whoever has nothing older: where
    a certificate renews none, there is no proxy yet, or none that is served it before it has taken the bundle. A server
    below this one speaks for everybody who relies on it, later.
    """
    return protocol != UPSTREAM and (protocol == ISTIO or not renews)


def brings_lists(protocol: str) -> bool:
    """Whether revocation lists come with a certificate, as they do in meshca's own protocol: who asks by Istio's gets
    roots alone."""
    return protocol != ISTIO


@dataclass(frozen=True, slots=True)
class Laggard:
    """A holder that is not known to have a bundle: what it has instead, by which channel that is known and since when.

    `until` is when its last certificate ends, and it with it; `refusal` why it refused the newest it was offered.
    """

    serial: str
    spiffe_id: str
    sequence: int
    channel: Channel
    since: datetime
    until: datetime
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Who is known to have the bundle of `sequence`, or a later one; of the laggards 100 at the most are listed.
    `left_out` are banned, and not among the holders.

    `complete_since` is when the last one was seen to be covered, or None while somebody is not. It is as long ago as
    has really passed, whatever the clock did meanwhile.
    """

    sequence: int
    holders: int
    covered: int
    laggards: tuple[Laggard, ...] = ()
    complete_since: datetime | None = None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of all relying parties at one moment, `at`: never ahead of the time that has really passed. Where
    that is None, nothing is known, and every gate stays shut.

    `coverage` is by bundle sequence; `signed_until` tells for each authority when the last unexpired certificate ends
    that it signed; `depending` how many holders may use certificates of exactly these authorities; `channels` how many
    are known by each channel, and `until` when the last of their certificates ends. Where a certificate is not in the
    ledger, `UNKNOWN` stands for its issuer. `seen` tells for how long this process has seen each authority in the state
    that it is in. `least_checking` is the lowest sequence that is known of a holder who may check revocation lists,
    None where there is none: those that have the bundle with a certificate of Istio's protocol get no lists. `banned`
    is as `depending`, of those alone who are left out of the other counts of holders.
    """

    coverage: Mapping[int, Coverage] = field(default_factory=dict)
    signed_until: Mapping[str, datetime] = field(default_factory=dict)
    depending: Mapping[frozenset[str], int] = field(default_factory=dict)
    channels: Mapping[Channel, int] = field(default_factory=dict)
    seen: Mapping[str, timedelta] = field(default_factory=dict)
    at: datetime | None = None
    until: Mapping[Channel, datetime] = field(default_factory=dict)
    least_checking: int | None = None
    banned: Mapping[frozenset[str], int] = field(default_factory=dict)

    def depend_on(self, authority_ids: Iterable[str]) -> int:
        """How many holders may use a certificate of any of these authorities, banned ones too."""
        return _any_of(self.depending, frozenset(authority_ids))

    def are_to_renew(self, authority_ids: Iterable[str]) -> int:
        """As `depend_on`, without the banned, who get no other certificate."""
        ids = frozenset(authority_ids)
        return _any_of(self.depending, ids) - _any_of(self.banned, ids)

    def last_signed(self, authority_ids: Iterable[str]) -> datetime | None:
        """When the last unexpired certificate ends that any of these may have signed; None where there is none."""
        ends = (self.signed_until.get(each) for each in (*authority_ids, UNKNOWN))
        return max((end for end in ends if end is not None), default=None)

    def has_seen(self, authority_id: str, duration: timedelta) -> bool:
        """Whether this process has seen the authority in its present state for so long."""
        return self.seen.get(authority_id, timedelta(-1)) >= duration


@dataclass(slots=True)
class _Holder:
    serial: str  # of the first certificate; never changes
    spiffe_id: str
    since: datetime
    until: datetime
    sequence: int = 0
    channel: Channel = Channel.NONE
    refusal: str = ""
    refused: int = 0  # the highest sequence that it refused, and has accepted nothing from since
    live: int = 0  # unexpired certificates, and those of them that are banned
    banned: int = 0
    is_left_out: bool = False
    gets_lists: bool = False  # with one of its certificates
    # when the last of those certificates ends by which it said something on a stream
    streams_until: datetime | None = None
    # issuers by serial, in the order of recording: the certificate that it last proved to use, and all later ones
    using: dict[str, str] = field(default_factory=dict)
    by_issuer: dict[str, int] = field(default_factory=dict)  # how many of those each issuer signed

    @property
    def issuers(self) -> frozenset[str]:
        return frozenset(self.by_issuer)

    def begin_use(self, serial: str, issuer_id: str) -> None:
        self._count_use(self.using.get(serial), -1)
        self.using[serial] = issuer_id
        self._count_use(issuer_id, 1)

    def end_use(self, serial: str) -> None:
        self._count_use(self.using.pop(serial, None), -1)

    def _count_use(self, issuer_id: str | None, by: int) -> None:
        if issuer_id is None:
            return
        self.by_issuer[issuer_id] = self.by_issuer.get(issuer_id, 0) + by
        if not self.by_issuer[issuer_id]:
            del self.by_issuer[issuer_id]

    def laggard(self) -> Laggard:
        return Laggard(self.serial, self.spiffe_id, self.sequence, self.channel, self.since, self.until, self.refusal)


class EvidenceBook:
    """All holders, kept up to date by facts in the order in which they were recorded, and by time."""

    def __init__(self) -> None:
        self._holders: dict[str, _Holder] = {}  # by the serial of the first certificate
        self._by_serial: dict[str, _Holder] = {}  # by every unexpired serial
        self._ends: list[tuple[datetime, str, str, str]] = []  # a heap: end, serial, issuer, the holder's serial
        self._signed: dict[str, Counter[datetime]] = {}  # unexpired certificates by issuer and end
        self._sequences: Counter[int] = Counter()  # how many holders have exactly that
        self._depending: Counter[frozenset[str]] = Counter()  # how many may use certificates of exactly these issuers
        self._untils: dict[Channel, Counter[datetime]] = {channel: Counter() for channel in Channel}  # of holders
        self._checking: Counter[int] = Counter()  # as `_sequences`, without those who get no revocation lists
        self._complete: dict[int, float] = {}  # since when, in monotonic seconds
        self._by_id: dict[str, dict[str, _Holder]] = {}  # by SPIFFE id and first serial
        self._bans = NO_BANS
        self._banned_ids: frozenset[str] = frozenset()
        self._banned_serials: frozenset[str] = frozenset()
        self._banned: Counter[frozenset[str]] = Counter()  # as `_depending`, of those who are left out

    def __len__(self) -> int:
        return len(self._holders)

    def learn(self, facts: Iterable[Fact], now: datetime) -> None:
        """Takes facts, oldest first; of certificates that ended by `now` nothing is kept."""
        for fact in facts:
            if isinstance(fact, CertificateFact):
                self._issued(fact, now)
            else:
                self._heard(fact, now)

    def heed(self, bans: BanList) -> None:
        """Leaves out who is banned from now on, and counts who no longer is. Costs nothing where `bans` is what it was
        before."""
        if bans is self._bans:
            return
        self._bans = bans
        ids, serials = self._banned_ids, self._banned_serials
        self._banned_ids = frozenset(ban.subject for ban in bans.bans if ban.kind is BanKind.IDENTITY)
        self._banned_serials = frozenset(ban.subject for ban in bans.bans if ban.kind is BanKind.SERIAL)
        for serial in serials ^ self._banned_serials:
            if (holder := self._by_serial.get(serial)) is not None:
                holder.banned += 1 if serial in self._banned_serials else -1
                self._weigh(holder)
        for spiffe_id in ids ^ self._banned_ids:
            for holder in self._by_id.get(spiffe_id, {}).values():
                self._weigh(holder)

    def expire(self, now: datetime) -> None:
        """Forgets what ended by `now`."""
        while self._ends and self._ends[0][0] <= now:
            end, serial, issuer_id, first = heapq.heappop(self._ends)
            self._unsign(issuer_id, end)
            self._lives_no_more(serial)
            holder = self._holders.get(first)
            if holder is None:
                continue
            self._has_done_with(holder, (serial,))
            if holder.until <= now:
                self._drop(holder)

    def evidence(self, sequences: Iterable[int], now: datetime, monotonic: float) -> Evidence:
        """What is known at `now`, with the coverage of each of these sequences; `monotonic` is in seconds and never
        goes back."""
        self.expire(now)
        wanted = set(sequences)
        self._complete = {sequence: since for sequence, since in self._complete.items() if sequence in wanted}
        return Evidence(
            coverage={sequence: self.coverage(sequence, now, monotonic) for sequence in wanted},
            signed_until={issuer_id: max(ends) for issuer_id, ends in self._signed.items() if ends},
            depending={issuers: count for issuers, count in self._depending.items() if issuers},
            channels={channel: ends.total() for channel, ends in self._untils.items() if ends},
            at=now,
            until={channel: max(ends) for channel, ends in self._untils.items() if ends},
            least_checking=min(self._checking, default=None),
            banned=dict(self._banned),
        )

    def coverage(self, sequence: int, now: datetime, monotonic: float) -> Coverage:
        """Who has the bundle of that sequence, as of now; laggards by id, those that refused first."""
        covered = sum(count for has, count in self._sequences.items() if has >= sequence)
        left_out = self._banned.total()
        holders = len(self._holders) - left_out
        if covered == holders:
            lasted = monotonic - self._complete.setdefault(sequence, monotonic)
            return Coverage(sequence, holders, covered, (), now - timedelta(seconds=lasted), left_out)
        self._complete.pop(sequence, None)
        behind = heapq.nsmallest(
            MAX_LAGGARDS,
            (each for each in self._holders.values() if each.sequence < sequence and not each.is_left_out),
            key=lambda holder: (not holder.refusal, holder.spiffe_id, holder.serial),
        )
        return Coverage(sequence, holders, covered, tuple(holder.laggard() for holder in behind), left_out=left_out)

    def _issued(self, fact: CertificateFact, now: datetime) -> None:
        if fact.not_after <= now:
            return
        # an answer may be lost on its way: what it brings proves nothing of who has only the certificate from before
        holder = self._find(fact.serial) or self._find("" if fact.proves else fact.renews)
        if holder is None:
            holder = self._add(fact.serial, fact.spiffe_id, fact.not_after, fact.at)
            self._inherit(holder, self._find(fact.renews))
        self._lives(holder, fact.serial)
        self._sign(fact.issuer_id, fact.not_after)
        heapq.heappush(self._ends, (fact.not_after, fact.serial, fact.issuer_id, holder.serial))
        if holder.until < fact.not_after or (fact.with_lists and not holder.gets_lists):
            self._count(holder, -1)
            holder.until = max(holder.until, fact.not_after)
            holder.gets_lists = holder.gets_lists or fact.with_lists
            self._count(holder, 1)
        self._may_use(holder, fact.serial, fact.issuer_id)
        if fact.proves:
            self._has(holder, fact.bundle_sequence, Channel.CERTIFICATE, fact.at)

    def _heard(self, fact: BundleFact, now: datetime) -> None:
        if fact.until <= now:
            return
        holder = self._find(fact.serial)
        if holder is None:
            # a certificate that this ledger does not hold, as after the loss of its last lines
            holder = self._add(fact.serial, fact.spiffe_id, fact.until, fact.at)
            self._lives(holder, fact.serial)
            self._sign(UNKNOWN, fact.until)
            heapq.heappush(self._ends, (fact.until, fact.serial, UNKNOWN, holder.serial))
            self._may_use(holder, fact.serial, UNKNOWN)
        if fact.channel is Channel.STREAM:
            holder.streams_until = max(holder.streams_until or fact.until, fact.until)
        elif holder.streams_until is not None and holder.streams_until > now:
            return  # streams may be open, and speak for everybody behind it; a fetch speaks for nobody else
        if fact.refusal:
            self._refuses(holder, fact)
            return
        if fact.channel is Channel.STREAM:
            self._uses(holder, fact.serial)
        self._has(holder, fact.bundle_sequence, fact.channel, fact.at)

    def _find(self, serial: str) -> _Holder | None:
        """The holder that has this certificate, or had it as its first: a clock that is set back brings that back."""
        return self._by_serial.get(serial) or self._holders.get(serial) if serial else None

    def _add(self, serial: str, spiffe_id: str, until: datetime, at: datetime) -> _Holder:
        holder = self._holders[serial] = _Holder(serial, spiffe_id, at, until)
        self._by_id.setdefault(spiffe_id, {})[serial] = holder
        self._count(holder, 1)
        _add_up(self._depending, holder.issuers, 1)
        return holder

    def _drop(self, holder: _Holder) -> None:
        del self._holders[holder.serial]
        others = self._by_id[holder.spiffe_id]
        del others[holder.serial]
        if not others:
            del self._by_id[holder.spiffe_id]
        self._count(holder, -1)
        _add_up(self._depending, holder.issuers, -1)

    def _lives(self, holder: _Holder, serial: str) -> None:
        """A certificate of it has not ended."""
        if serial in self._by_serial:
            return
        self._by_serial[serial] = holder
        holder.live += 1
        holder.banned += serial in self._banned_serials
        self._weigh(holder)

    def _lives_no_more(self, serial: str) -> None:
        holder = self._by_serial.pop(serial, None)
        if holder is not None:
            holder.live -= 1
            holder.banned -= serial in self._banned_serials
            self._weigh(holder)

    def _weigh(self, holder: _Holder) -> None:
        """Whether it is left out, now that something changed."""
        is_left_out = holder.spiffe_id in self._banned_ids or 0 < holder.live == holder.banned
        if is_left_out != holder.is_left_out and holder.serial in self._holders:
            self._count(holder, -1)
            holder.is_left_out = is_left_out
            self._count(holder, 1)

    def _has(self, holder: _Holder, sequence: int, channel: Channel, at: datetime) -> None:
        """What is known already is not known anew, but for the channel: whoever has a stream is reached by that, and
        whoever fetches gets revocation lists. What it refused itself, it does not have because it came with a
        certificate, or was fetched by somebody who has that."""
        if sequence < holder.sequence or (sequence == holder.sequence and not _outranks(channel, holder.channel)):
            return
        if channel is not Channel.STREAM and sequence <= holder.refused:
            return
        self._count(holder, -1)
        holder.channel = channel
        if sequence >= holder.refused:
            holder.refusal, holder.refused = "", 0
        if sequence > holder.sequence:
            holder.sequence, holder.since = sequence, at
        self._count(holder, 1)

    def _refuses(self, holder: _Holder, fact: BundleFact) -> None:
        """What it says itself outweighs what is concluded from a certificate, and what it had said on another stream:
        where it was thought to have what it refuses, nothing is known of what it has instead."""
        holder.refusal, holder.refused = fact.refusal, max(holder.refused, fact.bundle_sequence)
        if holder.sequence < fact.bundle_sequence:
            return
        self._count(holder, -1)
        holder.sequence, holder.channel, holder.since = 0, Channel.NONE, fact.at
        self._count(holder, 1)

    def _inherit(self, holder: _Holder, before: _Holder | None) -> None:
        """Its new certificate does not make it accept what it refused with the one from before."""
        if before is not None:
            holder.refusal, holder.refused = before.refusal, before.refused

    def _count(self, holder: _Holder, by: int) -> None:
        """Takes it into account, or out of it."""
        if holder.is_left_out:
            _add_up(self._banned, holder.issuers, by)
            return
        _add_up(self._sequences, holder.sequence, by)
        _add_up(self._untils[holder.channel], holder.until, by)
        if holder.gets_lists or holder.channel is not Channel.CERTIFICATE:
            _add_up(self._checking, holder.sequence, by)

    def _uses(self, holder: _Holder, serial: str) -> None:
        """It has shown that it uses that certificate, so it has done with those from before.

        That is said on a stream, for everybody behind it. A renewal alone shows only what its holder has: those behind
        it may still use one from before.
        """
        if serial in holder.using:
            self._has_done_with(holder, tuple(takewhile(lambda each: each != serial, holder.using)))

    # what follows costs the same however many certificates a holder has: nobody is kept from asking for many

    def _may_use(self, holder: _Holder, serial: str, issuer_id: str) -> None:
        before = holder.issuers
        holder.begin_use(serial, issuer_id)
        self._depends(holder, before)

    def _has_done_with(self, holder: _Holder, serials: Iterable[str]) -> None:
        before = holder.issuers
        for serial in serials:
            holder.end_use(serial)
        self._depends(holder, before)

    def _depends(self, holder: _Holder, before: frozenset[str]) -> None:
        after = holder.issuers
        if before == after:
            return
        for counter in (self._depending, self._banned) if holder.is_left_out else (self._depending,):
            _add_up(counter, before, -1)
            _add_up(counter, after, 1)

    def _sign(self, issuer_id: str, end: datetime) -> None:
        self._signed.setdefault(issuer_id, Counter())[end] += 1

    def _unsign(self, issuer_id: str, end: datetime) -> None:
        ends = self._signed.get(issuer_id)
        if ends is None:
            return
        ends[end] -= 1
        if not ends[end]:
            del ends[end]
        if not ends:
            del self._signed[issuer_id]


def _any_of(counts: Mapping[frozenset[str], int], ids: frozenset[str]) -> int:
    return sum(count for issuers, count in counts.items() if issuers & ids)


def _outranks(channel: Channel, known: Channel) -> bool:
    """Whether the same bundle by `channel` tells more than by `known`."""
    return channel is Channel.STREAM or (channel is Channel.FETCH and known is Channel.CERTIFICATE)


def _add_up(counter: Counter[C], key: C, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
