"""Who is calling: certificates, tokens and join tokens, each alone and all in order."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from meshca.errors import ErrorKind, MeshcaError, internal, unauthenticated, unavailable
from meshca.ports import Authenticator
from meshca.services.authentication import (
    MAX_CACHED_SVIDS,
    Authentication,
    CachedJwks,
    JoinTokenAuthenticator,
    JwtAuthenticator,
    SvidAuthenticator,
    _VerifiedSvid,
    _VerifiedSvids,
)
from meshca.spiffe.bans import NO_BANS, Ban, BanKind, BanList
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller, Peer
from meshca.stores.memory import MemoryJoinTokenStore
from meshca.tokens.identities import identity_mapping
from meshca.tokens.join import JoinToken, format_join_token, hash_join_token
from meshca.tokens.jwks import parse_jwks
from meshca.tokens.verification import TokenRule
from tests.fakes.jwks import FakeJwksSource
from tests.jwts import AUDIENCE, EPOCH, ISSUER, NOW, claims, compact, key_set, p256, public_jwk, token
from tests.svids import TestCa, bundle_of, new_root, uris

DOMAIN = TrustDomain("example.org")
CART = "spiffe://example.org/ns/shop/sa/cart"
WEB = "spiffe://example.org/ns/shop/sa/web"
ADDRESS = "192.0.2.1"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class HandClock:
    """`ports.Clock` that stands still until it is set."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    def advance(self, by: timedelta) -> None:
        self.time += by


def refusal(call: Callable[[], object]) -> MeshcaError:
    with pytest.raises(MeshcaError) as caught:
        call()
    return caught.value


# --- X.509-SVIDs ---------------------------------------------------------------------------------------------------

ROOT = new_root("root")
ISSUING_CA = ROOT.intermediate("issuer")


class Bundles:
    """What the server trusts now, and how often it was asked."""

    def __init__(self, *bundles: TrustBundle) -> None:
        self.set(*bundles)

    def set(self, *bundles: TrustBundle) -> None:
        self.by_domain = {bundle.trust_domain: bundle for bundle in bundles}

    def __call__(self) -> dict[TrustDomain, TrustBundle]:
        return self.by_domain


def svid_peer(*chain: bytes) -> Peer:
    return Peer(ADDRESS, chain)


def good_svid(issuer: TestCa = ISSUING_CA, **changes: datetime) -> bytes:
    return issuer.svid(*uris(CART), **changes)  # type: ignore[arg-type]  # only times are changed


@pytest.fixture
def bundles() -> Bundles:
    return Bundles(bundle_of("example.org", ROOT))


@pytest.fixture
def svids(bundles: Bundles) -> SvidAuthenticator:
    return SvidAuthenticator(bundles, DOMAIN)


def test_an_svid_of_ours_gives_the_same_identity_and_its_serial(svids: SvidAuthenticator) -> None:
    leaf = good_svid()
    serial = x509.load_der_x509_certificate(leaf).serial_number
    caller = svids.authenticate(svid_peer(leaf, ISSUING_CA.der), NOW)
    ends = x509.load_der_x509_certificate(leaf).not_valid_after_utc
    method = AuthenticationMethod.X509_SVID
    assert caller == Caller(SpiffeId.parse(CART), method, f"serial {serial:x}", "", f"{serial:x}", ends)


def test_a_certificate_that_is_revoked_authenticates_nobody_though_it_was_verified_before(bundles: Bundles) -> None:
    bans = [NO_BANS]
    svids = SvidAuthenticator(bundles, DOMAIN, lambda: bans[0])
    leaf = good_svid()
    caller = svids.authenticate(svid_peer(leaf, ISSUING_CA.der), NOW)
    assert caller is not None
    bans[0] = BanList(1, (Ban(BanKind.SERIAL, caller.serial, CART, "exposed", "operator", NOW),))
    for svid in (svids, SvidAuthenticator(bundles, DOMAIN, lambda: bans[0])):
        error = refusal(lambda svid=svid: svid.authenticate(svid_peer(leaf, ISSUING_CA.der), NOW))  # type: ignore[misc]
        assert (error.kind, "is revoked by its serial" in error.message) == (ErrorKind.UNAUTHENTICATED, True)
    assert svids.authenticate(svid_peer(good_svid(), ISSUING_CA.der), NOW) is not None
    bans[0] = BanList(2)
    assert svids.authenticate(svid_peer(leaf, ISSUING_CA.der), NOW) == caller


def test_a_peer_without_certificate_is_none_of_the_svid_authenticators_business(svids: SvidAuthenticator) -> None:
    assert svids.authenticate(Peer(ADDRESS, (), ("token",)), NOW) is None


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((b"garbage",), "certificate: chain[0] is not a DER certificate"),
        ((good_svid(),), "certificate: no valid path to a root of example.org (bundle 1)"),
        ((good_svid(new_root("root")),), "certificate: no valid path to a root of example.org (bundle 1)"),
        ((ROOT.der,), "certificate: it has 0 URI SANs"),
        ((good_svid(not_after=NOW - SECOND), ISSUING_CA.der), "certificate: it expired at 2026-06-01T11:59:59Z"),
        ((good_svid(), *[ISSUING_CA.der] * 8), "certificate: the chain has 9 certificates"),
    ],
    ids=["garbage", "no intermediate", "foreign root", "CA", "expired", "too long"],
)
def test_a_bad_chain_is_refused_each_time(svids: SvidAuthenticator, chain: tuple[bytes, ...], reason: str) -> None:
    for _ in range(2):
        error = refusal(lambda: svids.authenticate(svid_peer(*chain), NOW))
        assert error.kind is ErrorKind.UNAUTHENTICATED
        assert error.message.startswith(reason)


def test_an_svid_of_another_trust_domain_is_refused_even_where_its_bundle_is_known(
    bundles: Bundles, svids: SvidAuthenticator
) -> None:
    partner = new_root("partner")
    bundles.set(bundle_of("example.org", ROOT), bundle_of("partner.org", partner))
    leaf = partner.svid(*uris("spiffe://partner.org/ns/shop/sa/cart"))
    for _ in range(2):
        error = refusal(lambda: svids.authenticate(svid_peer(leaf), NOW))
        assert error.message == (
            "certificate: spiffe://partner.org/ns/shop/sa/cart is not of our trust domain example.org"
        )


def test_a_remembered_svid_is_refused_from_its_expiry_on_and_before_its_time(svids: SvidAuthenticator) -> None:
    peer = svid_peer(good_svid(not_before=NOW, not_after=NOW + MINUTE), ISSUING_CA.der)
    for inside in (NOW, NOW + MINUTE, NOW + MINUTE + 0.9 * SECOND):
        assert svids.authenticate(peer, inside) is not None
    for outside in (NOW - SECOND, NOW + MINUTE + SECOND):
        assert refusal(lambda at=outside: svids.authenticate(peer, at)).kind is ErrorKind.UNAUTHENTICATED  # type: ignore[misc]
    assert svids.authenticate(peer, NOW) is not None


def test_a_remembered_svid_is_refused_from_the_expiry_of_its_issuer_on(svids: SvidAuthenticator) -> None:
    issuer = ROOT.intermediate("short", not_after=NOW + MINUTE)
    peer = svid_peer(good_svid(issuer), issuer.der)
    assert svids.authenticate(peer, NOW) is not None
    error = refusal(lambda: svids.authenticate(peer, NOW + MINUTE + SECOND))
    assert error.message.startswith("certificate: no valid path")


@pytest.mark.parametrize("sequence", [2, 1], ids=["next sequence", "same sequence, after a restored backup"])
def test_a_remembered_svid_is_refused_once_its_root_left_the_bundle(
    bundles: Bundles, svids: SvidAuthenticator, sequence: int
) -> None:
    peer = svid_peer(good_svid(), ISSUING_CA.der)
    assert svids.authenticate(peer, NOW) is not None
    bundles.set(bundle_of("example.org", new_root("next"), sequence=sequence))
    assert refusal(lambda: svids.authenticate(peer, NOW)).kind is ErrorKind.UNAUTHENTICATED


def test_a_leaf_is_not_remembered_for_another_chain(svids: SvidAuthenticator) -> None:
    leaf = good_svid()
    assert svids.authenticate(svid_peer(leaf, ISSUING_CA.der), NOW) is not None
    assert refusal(lambda: svids.authenticate(svid_peer(leaf), NOW)).kind is ErrorKind.UNAUTHENTICATED
    joined = svid_peer(leaf + ISSUING_CA.der)
    assert refusal(lambda: svids.authenticate(joined, NOW)).kind is ErrorKind.UNAUTHENTICATED


def test_the_memory_for_svids_is_bounded_and_forgets_what_was_used_least_recently() -> None:
    entry = _VerifiedSvid(Caller(SpiffeId.parse(CART), AuthenticationMethod.X509_SVID, ""), NOW, NOW)
    memory = _VerifiedSvids(2)
    memory.put((b"a", None), entry)
    memory.put((b"b", None), entry)
    assert memory.get((b"a", None)) is entry
    memory.put((b"c", None), entry)
    assert [memory.get((name, None)) is entry for name in (b"a", b"b", b"c")] == [True, False, True]


def test_many_threads_with_more_svids_than_are_remembered_get_each_their_own_identity(bundles: Bundles) -> None:
    svids = SvidAuthenticator(bundles, DOMAIN)
    svids._verified = _VerifiedSvids(4)
    ids = [f"spiffe://example.org/w/{number}" for number in range(8)]
    peers = [svid_peer(ISSUING_CA.svid(*uris(text)), ISSUING_CA.der) for text in ids]

    def ask(turn: int) -> bool:
        caller = svids.authenticate(peers[turn % 8], NOW)
        return caller is not None and str(caller.id) == ids[turn % 8]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(400)))
    assert len(svids._verified._entries) == 4
    assert MAX_CACHED_SVIDS == 4096


# --- key set cache -------------------------------------------------------------------------------------------------

KEY, NEXT_KEY = p256(), p256()
OLD_SET = key_set(public_jwk(KEY, kid="k1"))
NEW_SET = key_set(public_jwk(KEY, kid="k1"), public_jwk(NEXT_KEY, kid="k2"))
OLD, NEW = parse_jwks(OLD_SET), parse_jwks(NEW_SET)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def source() -> Iterator[FakeJwksSource]:
    fake = FakeJwksSource(OLD_SET)
    yield fake
    fake.gate.set()


@pytest.fixture
def keys(source: FakeJwksSource, clock: HandClock) -> CachedJwks:
    return CachedJwks(source, clock, refresh_every=5 * MINUTE, min_refetch_interval=10 * SECOND, stale_for=HOUR)


def test_a_key_set_is_fetched_once_until_it_is_due(keys: CachedJwks, source: FakeJwksSource, clock: HandClock) -> None:
    assert (keys.current(), keys.current()) == (OLD, OLD)
    clock.advance(5 * MINUTE - SECOND)
    source.data = NEW_SET
    assert (keys.current(), source.fetches) == (OLD, 1)
    clock.advance(SECOND)
    assert (keys.current(), source.fetches) == (NEW, 2)


def test_without_any_key_set_the_cache_is_unavailable_and_asks_again_after_the_interval(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    source.failure = unavailable("key set: gone")
    for _ in range(3):
        error = refusal(keys.current)
        assert (error.kind, error.retry_after) == (ErrorKind.UNAVAILABLE, 10)
        assert error.message == "token: no key set is loaded yet: key set: gone"
    assert source.fetches == 1
    source.failure = None
    clock.advance(10 * SECOND)
    assert (keys.current(), source.fetches) == (OLD, 2)


@pytest.mark.parametrize("data", [b"<html>", b'{"keys": []}'])
def test_an_unusable_set_does_not_replace_a_good_one(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock, data: bytes
) -> None:
    keys.current()
    source.data = data
    clock.advance(5 * MINUTE)
    assert (keys.current(), source.fetches) == (OLD, 2)


def test_the_last_good_set_serves_through_an_outage_and_no_longer_than_allowed(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    keys.current()
    source.failure = unavailable("key set: gone")
    clock.advance(HOUR - SECOND)
    assert keys.current() == OLD
    clock.advance(SECOND)
    error = refusal(keys.current)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.message == "token: the key set was fetched at 2026-06-01T12:00:00Z, too long ago: key set: gone"
    source.failure = None
    clock.advance(10 * SECOND)
    assert keys.current() == OLD


def test_an_outage_is_not_hammered(keys: CachedJwks, source: FakeJwksSource, clock: HandClock) -> None:
    keys.current()
    source.failure = unavailable("key set: gone")
    clock.advance(5 * MINUTE)
    for _ in range(30):
        assert keys.current() == OLD
        clock.advance(SECOND)
    assert source.fetches == 1 + 3


def test_a_newer_set_is_fetched_at_most_once_per_interval(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    assert keys.newer_than(keys.current()) is None
    assert source.fetches == 1
    clock.advance(10 * SECOND)
    for _ in range(5):
        assert keys.newer_than(OLD) is None
    assert source.fetches == 2
    source.data = NEW_SET
    clock.advance(10 * SECOND)
    assert (keys.newer_than(OLD), source.fetches) == (NEW, 3)


def test_a_set_that_another_call_fetched_meanwhile_is_newer(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    old = keys.current()
    source.data = NEW_SET
    clock.advance(5 * MINUTE)
    keys.current()
    assert (keys.newer_than(old), source.fetches) == (NEW, 2)


def test_whether_there_is_a_newer_set_cannot_be_told_in_an_outage(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    keys.current()
    source.failure = unavailable("key set: gone")
    clock.advance(10 * SECOND)
    for _ in range(2):
        error = refusal(lambda: keys.newer_than(OLD))
        assert error.kind is ErrorKind.UNAVAILABLE
        assert error.message == "token: the token's key is not in the key set at hand: key set: gone"
    assert source.fetches == 2


def test_one_thread_fetches_while_the_others_use_the_old_set(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    keys.current()
    source.entered.clear()
    source.gate.clear()
    source.data = NEW_SET
    clock.advance(5 * MINUTE)
    with ThreadPoolExecutor(1) as fetcher:
        fetching = fetcher.submit(keys.current)
        assert source.entered.wait(10)
        assert [keys.current() for _ in range(20)] == [OLD] * 20
        assert refusal(lambda: keys.newer_than(OLD)).kind is ErrorKind.UNAVAILABLE
        assert source.fetches == 2
        source.gate.set()
        assert fetching.result(10) == NEW
    assert (keys.current(), source.fetches) == (NEW, 2)


def test_no_thread_waits_for_the_first_fetch_of_another(keys: CachedJwks, source: FakeJwksSource) -> None:
    source.gate.clear()
    with ThreadPoolExecutor(1) as fetcher:
        fetching = fetcher.submit(keys.current)
        assert source.entered.wait(10)
        error = refusal(keys.current)
        assert (error.kind, error.message) == (
            ErrorKind.UNAVAILABLE,
            "token: no key set is loaded yet: it is being fetched",
        )
        source.gate.set()
        assert fetching.result(10) == OLD


def test_threads_that_find_a_set_due_at_once_fetch_it_once(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    keys.current()
    clock.advance(5 * MINUTE)
    together = threading.Barrier(8)

    def ask(_: int) -> bool:
        together.wait(10)
        return keys.current() == OLD

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
    assert source.fetches == 2


def test_a_fault_of_the_source_leaves_the_cache_usable(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    source.failure = ValueError("a bug")  # type: ignore[assignment]  # what a source must not raise
    with pytest.raises(ValueError, match="a bug"):
        keys.current()
    source.failure = None
    assert keys.current() == OLD


def test_a_clock_set_back_neither_ages_a_set_nor_keeps_it_for_ever(
    keys: CachedJwks, source: FakeJwksSource, clock: HandClock
) -> None:
    keys.current()
    source.data = NEW_SET
    clock.advance(-24 * HOUR)
    assert (keys.current(), source.fetches) == (NEW, 2)
    assert (keys.current(), source.fetches) == (NEW, 2)


@pytest.mark.parametrize(
    ("refresh", "interval", "stale"),
    [(MINUTE, 2 * MINUTE, HOUR), (HOUR, MINUTE, HOUR), (HOUR, timedelta(0), 2 * HOUR), (-HOUR, -2 * HOUR, HOUR)],
)
def test_times_that_make_no_sense_are_refused(
    source: FakeJwksSource, clock: HandClock, refresh: timedelta, interval: timedelta, stale: timedelta
) -> None:
    error = refusal(
        lambda: CachedJwks(source, clock, refresh_every=refresh, min_refetch_interval=interval, stale_for=stale)
    )
    assert error.kind is ErrorKind.INVALID


# --- JWTs ----------------------------------------------------------------------------------------------------------


def token_peer(*tokens: str) -> Peer:
    return Peer(ADDRESS, (), tokens)


def jwt_authenticator(keys: CachedJwks, issuer: str = ISSUER, identity: str = "kubernetes") -> JwtAuthenticator:
    rule = TokenRule(issuer, (AUDIENCE,), ("ES256",))
    return JwtAuthenticator(rule, identity_mapping(identity), keys, DOMAIN)


@pytest.fixture
def jwts(keys: CachedJwks) -> JwtAuthenticator:
    return jwt_authenticator(keys)


def test_a_service_accounts_token_gives_its_identity_and_issuer(jwts: JwtAuthenticator) -> None:
    caller = jwts.authenticate(token_peer(token(KEY)), NOW)
    assert caller == Caller(SpiffeId.parse(CART), AuthenticationMethod.JWT, f"issuer {ISSUER}")


def test_a_token_by_a_template_gives_an_identity_of_our_trust_domain(keys: CachedJwks) -> None:
    jwts = jwt_authenticator(keys, identity="/repo/{repository}")
    caller = jwts.authenticate(token_peer(token(KEY, repository="cart")), NOW)
    assert caller is not None
    assert str(caller.id) == "spiffe://example.org/repo/cart"


@pytest.mark.parametrize("peer", [Peer(ADDRESS), token_peer(format_join_token(bytes(32)))], ids=["nothing", "join"])
def test_a_peer_without_jwt_is_none_of_the_jwt_authenticators_business(
    jwts: JwtAuthenticator, source: FakeJwksSource, peer: Peer
) -> None:
    assert jwts.authenticate(peer, NOW) is None
    assert source.fetches == 0


BAD_SIGNATURE = "token: its signature does not verify with the key of kid 'k1'"
HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "no token at all": (lambda: "", "token: it is not three base64url segments (JWS compact serialization)"),
    "garbage": (lambda: "garbage", "token: it is not three base64url segments (JWS compact serialization)"),
    "huge": (lambda: "a" * 20000, "token: it is 20000 characters long: at most 16384 are read"),
    "alg none": (lambda: compact({"alg": "none"}, claims()), "token: alg 'none' is not one of ES256"),
    "an algorithm that is not allowed": (
        lambda: token(rsa.generate_private_key(65537, 2048), alg="RS256"),
        "token: alg 'RS256' is not one of ES256",
    ),
    "stranger's key": (lambda: token(NEXT_KEY), BAD_SIGNATURE),
    "unknown kid": (lambda: token(NEXT_KEY, "k9"), "token: kid 'k9' is not in the issuer's key set"),
    "expired": (lambda: token(KEY, exp=EPOCH - 60), "token: it expired at 2026-06-01T11:59:00Z (leeway 30 s)"),
    "other audience": (lambda: token(KEY, aud="vault"), "token: aud 'vault' has none of meshca"),
    "other issuer": (
        lambda: token(KEY, iss="https://evil.example"),
        "token: iss 'https://evil.example' is not 'https://issuer.example'",
    ),
    "no issuer": (lambda: token(KEY, iss=None), "token: iss is missing or not a string"),
    "no subject": (lambda: token(KEY, sub=None), "token: sub is missing"),
    "subject with a slash": (
        lambda: token(KEY, sub="system:serviceaccount:shop:cart/../web"),
        "token: sub has service account 'cart/../web', which is no DNS subdomain",
    ),
    "subject of five parts": (
        lambda: token(KEY, sub="system:serviceaccount:shop:cart:x"),
        "token: sub 'system:serviceaccount:shop:cart:x' is not system:serviceaccount:<ns>:<sa>",
    ),
    "subject in Cyrillic": (
        lambda: token(KEY, sub="system:serviceaccount:shop:сart"),  # noqa: RUF001  # a letter that looks Latin
        "token: sub has service account 'сart', which is no DNS subdomain",  # noqa: RUF001
    ),
    "user's subject": (
        lambda: token(KEY, sub="alice"),
        "token: sub 'alice' is not system:serviceaccount:<ns>:<sa>",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_a_token(jwts: JwtAuthenticator, case: str) -> None:
    make, reason = HOSTILE[case]
    error = refusal(lambda: jwts.authenticate(token_peer(make()), NOW))
    assert (error.kind, error.message) == (ErrorKind.UNAUTHENTICATED, reason)


def test_a_token_signed_with_a_key_published_since_is_believed(
    jwts: JwtAuthenticator, source: FakeJwksSource, clock: HandClock
) -> None:
    jwts.authenticate(token_peer(token(KEY)), NOW)
    source.data = NEW_SET
    clock.advance(10 * SECOND)
    assert jwts.authenticate(token_peer(token(NEXT_KEY, "k2")), clock.now()) is not None
    assert source.fetches == 2


def test_unknown_kids_cannot_make_us_hammer_the_issuer(jwts: JwtAuthenticator, source: FakeJwksSource) -> None:
    for number in range(50):
        error = refusal(lambda kid=f"made up {number}": jwts.authenticate(token_peer(token(KEY, kid)), NOW))  # type: ignore[misc]
        assert error.kind is ErrorKind.UNAUTHENTICATED
    assert source.fetches == 1


def test_tokens_that_the_keys_at_hand_refuse_fetch_nothing(
    jwts: JwtAuthenticator, source: FakeJwksSource, clock: HandClock
) -> None:
    jwts.authenticate(token_peer(token(KEY)), NOW)
    clock.advance(MINUTE)
    for text in (token(NEXT_KEY), token(KEY, exp=EPOCH - 60), token(KEY, iss="https://evil.example"), "x"):
        refusal(lambda text=text: jwts.authenticate(token_peer(text), NOW))  # type: ignore[misc]
    assert source.fetches == 1


def test_a_token_of_another_issuer_fetches_nothing(jwts: JwtAuthenticator, source: FakeJwksSource) -> None:
    refusal(lambda: jwts.authenticate(token_peer(token(KEY, iss="https://evil.example")), NOW))
    assert source.fetches == 0


def test_the_first_token_that_convinces_wins(jwts: JwtAuthenticator) -> None:
    web = token(KEY, sub="system:serviceaccount:shop:web")
    caller = jwts.authenticate(token_peer("garbage", web, token(KEY)), NOW)
    assert caller is not None
    assert str(caller.id) == WEB


def test_without_keys_a_token_cannot_be_judged(jwts: JwtAuthenticator, source: FakeJwksSource) -> None:
    source.failure = unavailable("key set: gone")
    error = refusal(lambda: jwts.authenticate(token_peer(token(KEY)), NOW))
    assert (error.kind, error.retry_after) == (ErrorKind.UNAVAILABLE, 10)


# --- join tokens ---------------------------------------------------------------------------------------------------

JOIN = format_join_token(bytes(range(32)))


@pytest.fixture
def store() -> MemoryJoinTokenStore:
    memory = MemoryJoinTokenStore()
    memory.add(JoinToken(hash_join_token(JOIN), SpiffeId.parse(WEB), NOW, NOW + MINUTE))
    return memory


@pytest.fixture
def joins(store: MemoryJoinTokenStore) -> JoinTokenAuthenticator:
    return JoinTokenAuthenticator(store)


def test_a_join_token_gives_its_identity_and_is_not_spent_by_looking(
    joins: JoinTokenAuthenticator, store: MemoryJoinTokenStore
) -> None:
    hashed = hash_join_token(JOIN)
    expected = Caller(SpiffeId.parse(WEB), AuthenticationMethod.JOIN_TOKEN, f"join token {hashed[:16]}", hashed)
    for _ in range(2):
        assert joins.authenticate(token_peer(JOIN), NOW) == expected
    store.redeem(hashed, NOW)
    error = refusal(lambda: joins.authenticate(token_peer(JOIN), NOW))
    assert error.kind is ErrorKind.UNAUTHENTICATED
    assert JOIN not in error.message


def test_an_expired_or_unknown_join_token_is_refused(joins: JoinTokenAuthenticator) -> None:
    for text, now in ((JOIN, NOW + MINUTE), (format_join_token(bytes(32)), NOW)):
        error = refusal(lambda text=text, now=now: joins.authenticate(token_peer(text), now))  # type: ignore[misc]
        assert error.kind is ErrorKind.UNAUTHENTICATED


def test_a_peer_without_join_token_is_none_of_the_join_authenticators_business(joins: JoinTokenAuthenticator) -> None:
    assert joins.authenticate(token_peer(token(KEY), "mjt_short"), NOW) is None


def test_a_refusal_keeps_nothing_of_the_call_alive(everything: Authentication) -> None:
    """Its traceback would: error, frame, list, error. On a server, that held each refused call until a collection."""

    class Witness:
        pass

    def refuse() -> weakref.ref[Witness]:
        witness = Witness()
        try:
            everything.authenticate(Peer(ADDRESS, BAD_CHAIN, (BAD_TOKEN, format_join_token(bytes(32)))), NOW)
        except MeshcaError:
            return weakref.ref(witness)
        raise AssertionError("it was not refused")

    gc.collect()
    gc.disable()
    try:
        assert refuse()() is None
    finally:
        gc.enable()


# --- all together --------------------------------------------------------------------------------------------------


@pytest.fixture
def everything(svids: SvidAuthenticator, jwts: JwtAuthenticator, joins: JoinTokenAuthenticator) -> Authentication:
    return Authentication((svids, jwts, joins))


GOOD_CHAIN = (good_svid(), ISSUING_CA.der)
BAD_CHAIN = (good_svid(new_root("root")),)
WEB_TOKEN = token(KEY, sub="system:serviceaccount:shop:web")
BAD_TOKEN = token(NEXT_KEY)


@pytest.mark.parametrize(
    ("peer", "method", "spiffe_id"),
    [
        (Peer(ADDRESS, GOOD_CHAIN), AuthenticationMethod.X509_SVID, CART),
        (Peer(ADDRESS, GOOD_CHAIN, (WEB_TOKEN, JOIN)), AuthenticationMethod.X509_SVID, CART),
        (Peer(ADDRESS, GOOD_CHAIN, (BAD_TOKEN,)), AuthenticationMethod.X509_SVID, CART),
        (Peer(ADDRESS, BAD_CHAIN, (WEB_TOKEN,)), AuthenticationMethod.JWT, WEB),
        (Peer(ADDRESS, (), (JOIN, WEB_TOKEN)), AuthenticationMethod.JWT, WEB),
        (Peer(ADDRESS, (), (BAD_TOKEN, WEB_TOKEN)), AuthenticationMethod.JWT, WEB),
        (Peer(ADDRESS, BAD_CHAIN, (BAD_TOKEN, JOIN)), AuthenticationMethod.JOIN_TOKEN, WEB),
    ],
    ids=[
        "certificate",
        "certificate before tokens",
        "certificate beside a bad token",
        "token beside a bad certificate",
        "JWT before join token",
        "second token",
        "join token at last",
    ],
)
def test_the_first_way_that_succeeds_wins(
    everything: Authentication, peer: Peer, method: AuthenticationMethod, spiffe_id: str
) -> None:
    caller = everything.authenticate(peer, NOW)
    assert (caller.method, str(caller.id)) == (method, spiffe_id)


def test_a_join_token_is_not_spent_where_something_else_convinces(
    everything: Authentication, store: MemoryJoinTokenStore
) -> None:
    everything.authenticate(Peer(ADDRESS, GOOD_CHAIN, (JOIN,)), NOW)
    everything.authenticate(Peer(ADDRESS, (), (JOIN, WEB_TOKEN)), NOW)
    assert str(store.redeem(hash_join_token(JOIN), NOW).spiffe_id) == WEB


def test_a_peer_that_offers_nothing_is_refused(everything: Authentication) -> None:
    error = refusal(lambda: everything.authenticate(Peer(ADDRESS), NOW))
    assert error.kind is ErrorKind.UNAUTHENTICATED
    assert error.message == (
        "nothing of what Peer('192.0.2.1', 0 certificates, 0 tokens) offers can prove an identity here"
    )


def test_a_refusal_has_every_reason_and_no_token(everything: Authentication) -> None:
    spent = format_join_token(bytes(32))
    error = refusal(lambda: everything.authenticate(Peer(ADDRESS, BAD_CHAIN, (BAD_TOKEN, spent)), NOW))
    assert error.kind is ErrorKind.UNAUTHENTICATED
    certificate, jwt, join = error.message.split("; ")
    assert certificate.startswith("certificate: no valid path")
    assert jwt == BAD_SIGNATURE
    assert join.startswith("join token")
    assert spent not in error.message
    assert not any(part in error.message for part in BAD_TOKEN.split("."))


def test_only_three_bearer_tokens_are_looked_at(everything: Authentication) -> None:
    assert str(everything.authenticate(token_peer("a", "b", WEB_TOKEN), NOW).id) == WEB
    for last in (WEB_TOKEN, JOIN):
        error = refusal(lambda last=last: everything.authenticate(token_peer("a", "b", "c", last), NOW))  # type: ignore[misc]
        assert error.kind is ErrorKind.UNAUTHENTICATED


def test_nothing_is_believed_where_no_way_is_configured() -> None:
    error = refusal(lambda: Authentication(()).authenticate(Peer(ADDRESS, GOOD_CHAIN, (WEB_TOKEN, JOIN)), NOW))
    assert error.kind is ErrorKind.UNAUTHENTICATED


def test_a_token_is_judged_by_the_rule_and_keys_of_its_own_issuer(
    keys: CachedJwks, clock: HandClock, source: FakeJwksSource
) -> None:
    other_source = FakeJwksSource(key_set(public_jwk(NEXT_KEY, kid="k1")))
    other = jwt_authenticator(CachedJwks(other_source, clock), "https://other.example", "/robot/{sub}")
    both = Authentication((jwt_authenticator(keys), other))
    robot = token(NEXT_KEY, iss="https://other.example", sub="r2d2")
    assert str(both.authenticate(token_peer(robot), NOW).id) == "spiffe://example.org/robot/r2d2"
    assert source.fetches == 0
    assert str(both.authenticate(token_peer(token(KEY)), NOW).id) == CART
    for forged in (token(NEXT_KEY), token(KEY, iss="https://other.example")):
        assert BAD_SIGNATURE in refusal(lambda text=forged: both.authenticate(token_peer(text), NOW)).message  # type: ignore[misc]
    error = refusal(lambda: both.authenticate(token_peer(token(KEY, iss="https://evil.example")), NOW))
    assert error.message == (
        "token: iss 'https://evil.example' is not 'https://issuer.example';"
        " token: iss 'https://evil.example' is not 'https://other.example'"
    )


class Stub:
    """`ports.Authenticator` with one answer."""

    def __init__(self, answer: Caller | MeshcaError | None) -> None:
        self.answer = answer

    def authenticate(self, peer: Peer, now: datetime) -> Caller | None:
        if isinstance(self.answer, MeshcaError):
            raise self.answer
        return self.answer


SOMEBODY = Caller(SpiffeId.parse(CART), AuthenticationMethod.LOCAL, "test")
NO = Stub(unauthenticated("no"))
OUT = Stub(unavailable("out", retry_after=7))
LATER = Stub(unavailable("later", retry_after=9))


@pytest.mark.parametrize(
    ("ways", "kind", "message", "retry_after"),
    [
        ((NO, OUT), ErrorKind.UNAVAILABLE, "no; out", 7),
        ((OUT, NO), ErrorKind.UNAVAILABLE, "out; no", 7),
        ((OUT, Stub(None), LATER), ErrorKind.UNAVAILABLE, "out; later", 9),
        ((Stub(unavailable("out")),), ErrorKind.UNAVAILABLE, "out", None),
        ((NO, NO, Stub(None)), ErrorKind.UNAUTHENTICATED, "no", None),
    ],
)
def test_without_success_an_outage_outweighs_refusals(
    ways: tuple[Authenticator, ...], kind: ErrorKind, message: str, retry_after: float | None
) -> None:
    error = refusal(lambda: Authentication(ways).authenticate(Peer(ADDRESS), NOW))
    assert (error.kind, error.message, error.retry_after) == (kind, message, retry_after)


def test_an_outage_of_one_way_is_no_obstacle_to_another() -> None:
    assert Authentication((OUT, NO, Stub(SOMEBODY))).authenticate(Peer(ADDRESS), NOW) == SOMEBODY


def test_a_fault_of_ours_is_not_taken_for_a_refusal() -> None:
    broken = Authentication((Stub(internal("broken")), Stub(SOMEBODY)))
    assert refusal(lambda: broken.authenticate(Peer(ADDRESS), NOW)).kind is ErrorKind.INTERNAL
