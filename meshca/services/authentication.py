"""Who is calling: each way of proving it, and all of them in order.

Everything here is called from the signing door's loop and from its threads at once: a certificate is checked on the
loop; for tokens, which may take a fetch or a read, the call hops.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from meshca.errors import ErrorKind, MeshcaError, detached, invalid, unauthenticated, unavailable
from meshca.ports import Authenticator, Clock, JoinTokenStore, JwksSource
from meshca.spiffe.bans import NO_BANS, BanList
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller, Peer
from meshca.spiffe.verification import verify_x509_path
from meshca.tokens.identities import IdentityMapping
from meshca.tokens.join import hash_join_token, looks_like_join_token
from meshca.tokens.jwks import JwksDocument
from meshca.tokens.verification import (
    TokenRule,
    UnknownKeyError,
    VerifiedClaims,
    shown,
    unverified_issuer,
    verify_token,
)

MAX_BEARER_TOKENS = 3
MAX_CACHED_SVIDS = 4096

_log = structlog.get_logger("meshca.authentication")


class Authentication:
    """All the ways of proving an identity, in the order in which they are tried: the first that succeeds wins.

    As in Istio, a certificate that does not convince is no obstacle to a token that does. The order is X.509-SVID, JWT,
    join token, so that a single-use token is spent only where nothing else serves.
    """

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    def authenticate(self, peer: Peer, now: datetime) -> Caller:
        """The caller. Of the bearer tokens only the first three are looked at.

        Raises UNAVAILABLE where nothing convinced and something could not be decided now, UNAUTHENTICATED where nothing
        convinced; the message has every reason and is for our log only.
        """
        bounded = replace(peer, bearer_tokens=peer.bearer_tokens[:MAX_BEARER_TOKENS])
        caller = _first_success(partial(a.authenticate, bounded, now) for a in self._authenticators)
        if caller is None:
            raise unauthenticated(f"nothing of what {peer!r} offers can prove an identity here")
        return caller


class SvidAuthenticator:
    """The certificate of the mTLS handshake, by SPIFFE's rules; only of our own trust domain (a renewal).

    `bundles` and `bans` give the bundles and the bans as they are now. Verified chains are remembered, since a
    verification costs hundreds of µs and an agent sends the same chain with each call.
    """

    def __init__(
        self,
        bundles: Callable[[], Mapping[TrustDomain, TrustBundle]],
        trust_domain: TrustDomain,
        bans: Callable[[], BanList] = lambda: NO_BANS,
    ) -> None:
        self._bundles = bundles
        self._trust_domain = trust_domain
        self._bans = bans
        self._verified = _VerifiedSvids(MAX_CACHED_SVIDS)

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        """See `ports.Authenticator`."""
        chain = peer.certificate_chain
        if not chain:
            return None
        bundles = self._bundles()
        # the whole bundle is in the key, not its sequence alone: a root that is taken out counts from that moment on,
        # even where a restored backup gives a sequence out twice
        key = (_digest(chain), bundles.get(self._trust_domain))
        known = self._verified.get(key)
        if known is None or not known.valid_at(now):
            known = self._verify(chain, bundles, now)
            self._verified.put(key, known)
        if self._bans().has_serial(known.caller.serial):
            raise unauthenticated(f"certificate: {known.caller.id} is revoked by its serial {known.caller.serial}")
        return known.caller

    def _verify(
        self, chain: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], now: datetime
    ) -> _VerifiedSvid:
        path = verify_x509_path(chain, bundles, now=now)
        if path.id.trust_domain != self._trust_domain:
            raise unauthenticated(f"certificate: {path.id} is not of our trust domain {self._trust_domain}")
        serial = f"{path.serial:x}"
        caller = Caller(
            path.id, AuthenticationMethod.X509_SVID, f"serial {serial}", serial=serial, valid_until=path.not_after
        )
        return _VerifiedSvid(caller, path.not_before, path.not_after)


class JwtAuthenticator:
    """A bearer JWT of one issuer. With several issuers there is one of these for each; a token's `iss` picks it."""

    def __init__(self, rule: TokenRule, identity: IdentityMapping, keys: CachedJwks, trust_domain: TrustDomain) -> None:
        self._rule = rule
        self._identity = identity
        self._keys = keys
        self._trust_domain = trust_domain

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        """See `ports.Authenticator`. Tokens of other issuers are refused before any key is fetched or used."""
        tokens = [token for token in peer.bearer_tokens if not looks_like_join_token(token)]
        return _first_success(partial(self._caller, token, now) for token in tokens)

    def _caller(self, token: str, now: datetime) -> Caller:
        issuer = unverified_issuer(token)
        if issuer != self._rule.issuer:
            raise unauthenticated(f"token: iss {shown(issuer)} is not {self._rule.issuer!r}")
        claims = self._verify(token, now)
        spiffe_id = self._identity.spiffe_id(claims, self._trust_domain)
        return Caller(spiffe_id, AuthenticationMethod.JWT, f"issuer {claims.issuer}")

    def _verify(self, token: str, now: datetime) -> VerifiedClaims:
        jwks = self._keys.current()
        try:
            return verify_token(token, jwks, self._rule, now=now)
        except UnknownKeyError:
            newer = self._keys.newer_than(jwks)
            if newer is None:
                raise
        return verify_token(token, newer, self._rule, now=now)


class JoinTokenAuthenticator:
    """A single-use join token. It is only looked at here; issuance spends it, when nothing else can refuse the call."""

    def __init__(self, store: JoinTokenStore) -> None:
        self._store = store

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        """See `ports.Authenticator`."""
        tokens = [token for token in peer.bearer_tokens if looks_like_join_token(token)]
        return _first_success(partial(self._find, token, now) for token in tokens)

    def _find(self, token: str, now: datetime) -> Caller:
        found = self._store.find(hash_join_token(token), now)
        attested = f"join token {found.short_id}"
        return Caller(found.spiffe_id, AuthenticationMethod.JOIN_TOKEN, attested, join_token=found.token_hash)


@dataclass(frozen=True, slots=True)
class _Held:
    """What a `CachedJwks` knows: the last good set, when it was fetched, and how the last attempt went."""

    document: JwksDocument | None = None
    fetched_at: datetime | None = None
    attempted_at: datetime | None = None
    failure: str | None = None


class CachedJwks:
    """An issuer's key set, kept and renewed.

    It is fetched by the call that finds it older than `refresh_every`, or that meets an unknown key; never more often
    than every `min_refetch_interval`, whatever callers send. While it cannot be fetched the last good set serves, until
    it is `stale_for` old. Raises INVALID where these do not grow in the order interval, refresh, stale.
    """

    def __init__(
        self,
        source: JwksSource,
        clock: Clock,
        *,
        refresh_every: timedelta = timedelta(minutes=5),
        min_refetch_interval: timedelta = timedelta(seconds=10),
        stale_for: timedelta = timedelta(hours=24),
    ) -> None:
        if not timedelta(0) < min_refetch_interval <= refresh_every < stale_for:
            raise invalid("key set cache: it takes 0 < min_refetch_interval <= refresh_every < stale_for")
        self._source = source
        self._clock = clock
        self._refresh_every = refresh_every
        self._min_refetch_interval = min_refetch_interval
        self._stale_for = stale_for
        # Threads share one frozen value, which is replaced as a whole, so reading takes no lock. This one lets a single
        # thread fetch; the others never wait for it, or a slow issuer would hold every thread of the process.
        self._fetching = threading.Lock()
        self._held = _Held()

    def current(self) -> JwksDocument:
        """The key set. Raises UNAVAILABLE where there is none that is not too old."""
        held, now = self._held, self._clock.now()
        if not _within(held.fetched_at, now, self._refresh_every):
            held = self._refresh()
        why = held.failure or "it is being fetched"
        if held.document is None or held.fetched_at is None:
            raise self._unavailable(f"no key set is loaded yet: {why}")
        if now - held.fetched_at >= self._stale_for:
            raise self._unavailable(
                f"the key set was fetched at {held.fetched_at:%Y-%m-%dT%H:%M:%SZ}, too long ago: {why}"
            )
        return held.document

    def newer_than(self, document: JwksDocument) -> JwksDocument | None:
        """A key set other than `document`, fetched if that is due; None where `document` is what the issuer has.

        Raises UNAVAILABLE where that cannot be told now: another thread is fetching, or the last fetch failed.
        """
        held = self._refresh()
        if _differs(held, document):
            return held.document
        being_fetched = self._fetching.locked()
        held = self._held
        if _differs(held, document):
            return held.document
        if being_fetched or held.failure is not None:
            raise self._unavailable(f"the token's key is not in the key set at hand: {held.failure or 'fetching anew'}")
        return None

    def _refresh(self) -> _Held:
        """What is known after a fetch, or as it is where another thread fetches or the last attempt is too recent."""
        if not self._fetching.acquire(blocking=False):
            return self._held
        try:
            now = self._clock.now()
            if not _within(self._held.attempted_at, now, self._min_refetch_interval):
                self._held = self._fetch(now)
            return self._held
        finally:
            self._fetching.release()

    def _fetch(self, now: datetime) -> _Held:
        try:
            document = self._source.fetch()
        except MeshcaError as error:
            _log.warning("jwks_fetch_failed", reason=error.message)
            return replace(self._held, attempted_at=now, failure=error.message)
        return _Held(document, now, now)

    def _unavailable(self, problem: str) -> MeshcaError:
        return unavailable(f"token: {problem}", retry_after=self._min_refetch_interval.total_seconds())


@dataclass(frozen=True, slots=True)
class _VerifiedSvid:
    caller: Caller
    not_before: datetime
    not_after: datetime

    def valid_at(self, now: datetime) -> bool:
        return self.not_before <= now <= self.not_after


_SvidKey = tuple[bytes, TrustBundle | None]


class _VerifiedSvids:
    """The chains that were verified last. Locked, since an ordered dict is not safe to reorder from many threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[_SvidKey, _VerifiedSvid] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _SvidKey) -> _VerifiedSvid | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: _SvidKey, entry: _VerifiedSvid) -> None:
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


def _digest(chain: Sequence[bytes]) -> bytes:
    """One hash for the chain; lengths first, so that no other split of the same bytes has it."""
    digest = hashlib.sha256()
    for der in chain:
        digest.update(len(der).to_bytes(4, "big"))
        digest.update(der)
    return digest.digest()


def _first_success(attempts: Iterable[Callable[[], Caller | None]]) -> Caller | None:
    """The first caller that an attempt gives; None where every attempt gave None.

    Raises what the refusals come to: UNAVAILABLE if one of them is, else UNAUTHENTICATED. Other kinds pass at once.
    """
    refusals: list[MeshcaError] = []
    for attempt in attempts:
        try:
            caller = attempt()
        except MeshcaError as error:
            if error.kind not in (ErrorKind.UNAUTHENTICATED, ErrorKind.UNAVAILABLE):
                raise
            refusals.append(detached(error))
        else:
            if caller is not None:
                return caller
    if refusals:
        raise _joined(refusals)
    return None


def _joined(refusals: Sequence[MeshcaError]) -> MeshcaError:
    message = "; ".join(dict.fromkeys(error.message for error in refusals))
    outages = [error for error in refusals if error.kind is ErrorKind.UNAVAILABLE]
    if not outages:
        return unauthenticated(message)
    hints = [error.retry_after for error in outages if error.retry_after is not None]
    return unavailable(message, retry_after=max(hints, default=None))


def _within(since: datetime | None, now: datetime, span: timedelta) -> bool:
    """Whether `since` is less than `span` ago; not where it lies ahead, since then the clock was set back."""
    return since is not None and timedelta(0) <= now - since < span


def _differs(held: _Held, document: JwksDocument) -> bool:
    return held.document is not None and held.document.content_hash != document.content_hash
