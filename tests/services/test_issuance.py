"""Laws 2 and 3: no certificate without a record, and no identity but the caller's."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.evidence import CertificateFact
from meshca.authority.ring import AuthorityKind
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm, KeyFamily
from meshca.pki.prepare import serial_from
from meshca.pki.profiles import IssuanceProfile
from meshca.pki.records import CertificateRecord, LedgerPage, LedgerQuery
from meshca.ports import CertificateLedger, Signer, Tail
from meshca.services.issuance import Issuance, IssuedChain, SigningRequest, random_serial
from meshca.services.signing import Signing
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.peers import AuthenticationMethod, Caller
from meshca.stores.memory import MemoryJoinTokenStore
from meshca.tokens.join import JoinToken
from tests.assets.authorities import FOUNDED
from tests.assets.csrs import good_der, good_pem, key_of
from tests.assets.founded import WORKLOAD, FoundedCa, found_ca

CSR = good_pem(key_of(KeyAlgorithm.P256))
REQUEST = SigningRequest(CSR)
BAD = SigningRequest(b"nonsense")


def records(ca: FoundedCa) -> tuple[CertificateRecord, ...]:
    """The ledger's leaves, oldest first."""
    found = ca.ledger.find(LedgerQuery(limit=10_000)).records
    return tuple(record for record in reversed(found) if record.kind == "leaf")


def refusal(ca: FoundedCa, request: SigningRequest, caller: Caller = WORKLOAD) -> MeshcaError:
    """Why a request is refused; nothing was recorded and nothing signed."""
    with pytest.raises(MeshcaError) as refused:
        ca.issue(caller, request)
    assert ca.journal == []
    return refused.value


@dataclass
class HeldLedger:
    """A ledger whose durable writes are answered when the test says so; `written` tells that there is one."""

    inner: CertificateLedger
    written: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, records: Sequence[CertificateRecord]) -> None:
        raise AssertionError("not used")

    async def record_async(self, records: Sequence[CertificateRecord]) -> None:
        await self.inner.record_async(records)
        self.written.set()
        await self.answered.wait()

    def find(self, query: LedgerQuery) -> LedgerPage:
        return self.inner.find(query)

    def tail(self, after: int, now: datetime, limit: int) -> Tail[CertificateFact]:
        return self.inner.tail(after, now, limit)


class HeldJoinTokens(MemoryJoinTokenStore):
    """A store that spends a token when the test says so; `asked` tells that it shall."""

    def __init__(self, inner: MemoryJoinTokenStore) -> None:
        super().__init__()
        self._inner = inner
        self.asked = threading.Event()
        self.answered = threading.Event()

    def redeem(self, token_hash: str, now: datetime) -> JoinToken:
        self.asked.set()
        assert self.answered.wait(10)
        return self._inner.redeem(token_hash, now)


@dataclass(frozen=True)
class WatchedSigner:
    """Notes the threads that sign."""

    inner: Signer
    threads: list[threading.Thread]

    @property
    def algorithm(self) -> KeyAlgorithm:
        return self.inner.algorithm

    @property
    def public_key_der(self) -> bytes:
        return self.inner.public_key_der

    @property
    def blocks(self) -> bool:
        return self.inner.blocks

    def sign(self, data: bytes) -> bytes:
        self.threads.append(threading.current_thread())
        return self.inner.sign(data)


def test_recording_comes_before_signing() -> None:
    ca = found_ca()
    issued = ca.issue(WORKLOAD, REQUEST)
    assert ca.journal == ["record", "sign"]
    (_, recorded), (_, signed) = ca.ledger.journal
    assert recorded == records(ca)
    assert signed == issued.certificate.prepared.tbs
    assert x509.load_der_x509_certificate(issued.certificate.der).tbs_certificate_bytes == signed


def test_nothing_is_signed_while_the_ledger_is_out_and_it_recovers_by_itself() -> None:
    ca = found_ca()
    ca.ledger.out = True
    with pytest.raises(MeshcaError) as refused:
        ca.issue(WORKLOAD, REQUEST)
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(MeshcaError, match="cannot be written"):
        ca.issue_batch(WORKLOAD, [REQUEST, REQUEST])
    assert ca.journal == ["record", "record"]
    assert records(ca) == ()
    ca.ledger.out = False
    ca.issue(WORKLOAD, REQUEST)
    assert len(records(ca)) == 1


def test_a_serial_that_is_known_is_not_signed_again() -> None:
    ca = found_ca()
    twice = Issuance(ca.signing, ca.ledger, ca.join_tokens, ca.clock, ca.profile, lambda: serial_from(b"\7" * 20))
    asyncio.run(twice.issue(WORKLOAD, REQUEST))
    with pytest.raises(MeshcaError) as refused:
        asyncio.run(twice.issue(WORKLOAD, REQUEST))
    assert refused.value.kind is ErrorKind.CONFLICT
    assert ca.journal == ["record", "sign", "record"]


def test_a_serial_source_that_fails_the_lint_gets_nothing_recorded_or_signed() -> None:
    ca = found_ca()
    weak = Issuance(ca.signing, ca.ledger, ca.join_tokens, ca.clock, ca.profile, lambda: 1)
    with pytest.raises(MeshcaError) as refused:
        asyncio.run(weak.issue(WORKLOAD, REQUEST))
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert ca.journal == []


@given(st.integers(-5, 86400), st.sampled_from([KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA2048]), st.data())
def test_the_record_says_what_the_certificate_says(ttl: int, algorithm: KeyAlgorithm, data: st.DataObject) -> None:
    ca = found_ca()
    ca.clock.move(data.draw(st.timedeltas(timedelta(0), timedelta(days=29))))
    method = data.draw(st.sampled_from(AuthenticationMethod))
    caller = Caller(SpiffeId.parse("spiffe://example.org/repo/x"), method, "issuer https://ci.example sub x")
    issued = ca.issue(caller, SigningRequest(good_der(key_of(algorithm)), ttl))
    certificate = x509.load_der_x509_certificate(issued.certificate.der)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    issuer = ca.ring.active(AuthorityKind.ISSUER)
    assert issuer is not None
    assert records(ca) == (
        CertificateRecord(
            serial=f"{certificate.serial_number:x}",
            kind="leaf",
            spiffe_id=san.get_values_for_type(x509.UniformResourceIdentifier)[0],
            dns_names=tuple(san.get_values_for_type(x509.DNSName)),
            caller_id="spiffe://example.org/repo/x",
            method=method.value,
            attested="issuer https://ci.example sub x",
            key_fingerprint=hashlib.sha256(spki).hexdigest(),
            issuer_id=issuer.id,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            bundle_sequence=ca.ring.sequence,
            recorded_at=ca.clock.now().replace(microsecond=0),
        ),
    )


def test_the_answer_carries_the_chain_and_the_bundle_it_was_signed_under() -> None:
    ca = found_ca()
    issued = ca.issue(WORKLOAD, REQUEST)
    leaf = x509.load_der_x509_certificate(issued.certificate.der)
    chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in issued.state.issuer.pem_chain]
    roots = list(issued.state.bundle.certificates)
    verifier = PolicyBuilder().store(Store(roots)).time(ca.clock.now()).build_client_verifier()
    assert [c.serial_number for c in verifier.verify(leaf, chain).chain] == [
        c.serial_number for c in (leaf, *chain, *roots)
    ]


@pytest.mark.parametrize(
    ("ttl", "life"),
    [(0, timedelta(hours=1)), (-7, timedelta(hours=1)), (5, timedelta(seconds=5)), (86400, timedelta(days=1))],
)
def test_the_ttl_is_the_wish_or_the_default(ttl: int, life: timedelta) -> None:
    ca = found_ca()
    prepared = ca.issue(WORKLOAD, SigningRequest(CSR, ttl)).certificate.prepared
    assert prepared.not_after - FOUNDED == life


def test_a_ttl_that_reaches_beyond_the_issuer_is_cut_there() -> None:
    ca = found_ca()
    ca.clock.move(timedelta(days=30, hours=-1))
    prepared = ca.issue(WORKLOAD, SigningRequest(CSR, 86400)).certificate.prepared
    assert prepared.not_after == FOUNDED + timedelta(days=30)


def test_an_expired_issuer_signs_nothing() -> None:
    ca = found_ca()
    ca.clock.move(timedelta(days=30))
    error = refusal(ca, REQUEST)
    assert (error.kind, error.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert "can sign no more: it expires at 2026-07-01T12:00:00Z" in error.message


def test_nothing_is_signed_when_the_clock_stands_before_the_issuers_life() -> None:
    ca = found_ca()
    ca.clock.move(timedelta(days=-1))
    error = refusal(ca, REQUEST)
    assert (error.kind, error.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")


def test_nothing_is_signed_before_an_authority_is_loaded() -> None:
    ca = found_ca()
    unready = Issuance(Signing(ca.watch), ca.ledger, ca.join_tokens, ca.clock, ca.profile)
    calls: tuple[Callable[[], object], ...] = (
        lambda: asyncio.run(unready.issue(WORKLOAD, REQUEST)),
        lambda: asyncio.run(unready.issue_batch(WORKLOAD, [])),
        unready.bundle,
    )
    for call in calls:
        with pytest.raises(MeshcaError) as refused:
            call()
        assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CA_NOT_READY")
        assert refused.value.message == "no issuing CA is loaded yet"
    assert ca.journal == []


REFUSED: dict[str, tuple[SigningRequest, ErrorKind, str | None, str]] = {
    "bad CSR": (
        SigningRequest(b""),
        ErrorKind.INVALID,
        "CSR_ERROR",
        "csr is empty: send a PEM or DER PKCS #10 request",
    ),
    "key of a type that is not allowed": (
        SigningRequest(good_pem(key_of(KeyAlgorithm.ED25519))),
        ErrorKind.INVALID,
        "CSR_ERROR",
        "key: type ed25519 is not allowed here: use one of p256, p384, rsa",
    ),
    "life too long": (
        SigningRequest(CSR, 86401),
        ErrorKind.INVALID,
        "TTL_ERROR",
        "requested TTL 86401s is greater than the max allowed TTL 86400s",
    ),
    "another identity": (
        SigningRequest(CSR, spiffe_id="spiffe://example.org/ns/a/sa/c"),
        ErrorKind.DENIED,
        None,
        (
            "spiffe_id 'spiffe://example.org/ns/a/sa/c' is not the caller's:"
            " spiffe://example.org/ns/a/sa/b may hold only itself"
        ),
    ),
    "the same path elsewhere": (
        SigningRequest(CSR, spiffe_id="spiffe://example.com/ns/a/sa/b"),
        ErrorKind.DENIED,
        None,
        (
            "spiffe_id 'spiffe://example.com/ns/a/sa/b' is not the caller's:"
            " spiffe://example.org/ns/a/sa/b may hold only itself"
        ),
    ),
    "the trust domain": (
        SigningRequest(CSR, spiffe_id="spiffe://example.org"),
        ErrorKind.INVALID,
        None,
        "SPIFFE id 'spiffe://example.org' names a trust domain: a workload's id needs a path such as /ns/a/sa/b",
    ),
    "no identity": (
        SigningRequest(CSR, spiffe_id="b"),
        ErrorKind.INVALID,
        None,
        "SPIFFE id 'b' does not start with spiffe://",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    request, kind, reason, message = REFUSED[name]
    error = refusal(found_ca(), request)
    assert (error.kind, error.reason, error.message) == (kind, reason, message)


@pytest.mark.parametrize("path", ["/meshca", "/meshca/server", "/meshca/agent/x"])
def test_a_caller_with_one_of_our_own_names_gets_nothing(path: str) -> None:
    caller = replace(WORKLOAD, id=SpiffeId.parse(f"spiffe://example.org{path}"))
    assert refusal(found_ca(), REQUEST, caller).message == (
        f"spiffe_id spiffe://example.org{path} is reserved: paths below /meshca/ are meshca's own"
    )


def test_a_caller_of_another_trust_domain_gets_nothing() -> None:
    caller = replace(WORKLOAD, id=SpiffeId.parse("spiffe://example.com/ns/a/sa/b"))
    assert refusal(found_ca(), REQUEST, caller).message == (
        "spiffe_id spiffe://example.com/ns/a/sa/b is not of this trust domain: it must start with spiffe://example.org/"
    )


def test_asking_for_ones_own_identity_by_name_is_allowed() -> None:
    issued = found_ca().issue(WORKLOAD, SigningRequest(CSR, spiffe_id=str(WORKLOAD.id)))
    assert issued.grant.subject == WORKLOAD.id


def joining(ca: FoundedCa) -> Caller:
    """A caller with an unspent join token."""
    token = JoinToken("5" * 64, WORKLOAD.id, FOUNDED, FOUNDED + timedelta(days=1))
    ca.join_tokens.add(token)
    return Caller(WORKLOAD.id, AuthenticationMethod.JOIN_TOKEN, "join token 5555", token.token_hash)


def test_a_join_token_is_spent_by_the_certificate_and_by_nothing_else() -> None:
    ca = found_ca()
    caller = joining(ca)
    refusal(ca, BAD, caller)
    refusal(ca, replace(REQUEST, ttl_seconds=10**9), caller)
    asyncio.run(ca.issuance.issue(caller, REQUEST))
    with pytest.raises(MeshcaError) as refused:
        asyncio.run(ca.issuance.issue(caller, REQUEST))
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED
    assert ca.journal == ["record", "sign", "record"]  # the loser was recorded, and never signed


async def test_who_is_cancelled_while_the_ledger_writes_leaves_a_record_and_no_signature() -> None:
    ca = found_ca()
    ledger = HeldLedger(ca.ledger)
    issuance = Issuance(ca.signing, ledger, ca.join_tokens, ca.clock, ca.profile)
    call = asyncio.create_task(issuance.issue(joining(ca), REQUEST))
    await ledger.written.wait()
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled()
    assert ca.journal == ["record"]
    assert len(records(ca)) == 1
    assert ca.join_tokens.find("5" * 64, FOUNDED).spiffe_id == WORKLOAD.id, "the join token is still good"


async def test_others_are_served_while_the_ledger_writes() -> None:
    ca = found_ca()
    ledger = HeldLedger(ca.ledger)
    held = Issuance(ca.signing, ledger, ca.join_tokens, ca.clock, ca.profile)
    call = asyncio.create_task(held.issue(WORKLOAD, REQUEST))
    await ledger.written.wait()
    await ca.issuance.issue(WORKLOAD, REQUEST)
    assert not call.done()
    ledger.answered.set()
    assert (await call).grant.subject == WORKLOAD.id
    assert ca.journal == ["record", "record", "sign", "sign"]


async def test_others_are_served_while_a_join_token_is_spent() -> None:
    ca = found_ca()
    store = HeldJoinTokens(ca.join_tokens)
    held = Issuance(ca.signing, ca.ledger, store, ca.clock, ca.profile)
    call = asyncio.create_task(held.issue(joining(ca), REQUEST))
    try:
        assert await asyncio.to_thread(store.asked.wait, 10)
        await ca.issuance.issue(WORKLOAD, REQUEST)
        assert not call.done()
    finally:
        store.answered.set()
    assert (await call).grant.subject == WORKLOAD.id


@pytest.mark.parametrize(("algorithm", "on_the_loop"), [(KeyAlgorithm.P256, True), (KeyAlgorithm.RSA2048, False)])
async def test_a_signer_that_blocks_does_not_sign_on_the_loop(algorithm: KeyAlgorithm, on_the_loop: bool) -> None:
    ca = found_ca(algorithm=algorithm)
    threads: list[threading.Thread] = []
    state = ca.signing.current()
    issuing = (state.issuer, WatchedSigner(state.signer, threads))
    ca.signing.publish(replace(state, issuing=issuing), ca.signing.moment())
    await ca.issuance.issue(WORKLOAD, REQUEST)
    answers = await ca.issuance.issue_batch(WORKLOAD, [REQUEST] * 2)
    assert all(isinstance(answer, IssuedChain) for answer in answers)
    assert [thread is threading.current_thread() for thread in threads] == [on_the_loop] * 3


async def test_others_have_their_turn_during_a_large_batch() -> None:
    ca = found_ca()
    batch = asyncio.create_task(ca.issuance.issue_batch(WORKLOAD, [REQUEST] * 40))
    turns = 0
    while not batch.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10
    assert all(isinstance(answer, IssuedChain) for answer in batch.result())


def test_a_batch_is_recorded_once_and_answers_in_order() -> None:
    ca = found_ca()
    others = [SigningRequest(good_pem(key_of(KeyAlgorithm.P256, index))) for index in range(1, 4)]
    stranger = replace(REQUEST, spiffe_id="spiffe://example.org/x")
    answers = ca.issue_batch(
        WORKLOAD, [BAD, REQUEST, others[0], stranger, others[1], replace(REQUEST, ttl_seconds=10**9)]
    )
    kinds = [answer.kind if isinstance(answer, MeshcaError) else "issued" for answer in answers]
    assert kinds == [ErrorKind.INVALID, "issued", "issued", ErrorKind.DENIED, "issued", ErrorKind.INVALID]
    assert ca.journal == ["record", "sign", "sign", "sign"]
    issued = [answer.certificate.prepared.serial_hex for answer in answers if isinstance(answer, IssuedChain)]
    assert issued == [record.serial for record in records(ca)]


def test_a_batch_without_a_good_one_touches_neither_ledger_nor_key() -> None:
    ca = found_ca()
    assert [isinstance(answer, MeshcaError) for answer in ca.issue_batch(WORKLOAD, [BAD, BAD])] == [True, True]
    assert ca.issue_batch(WORKLOAD, []) == []
    assert ca.journal == []


@given(st.lists(st.sampled_from(["good", "bad"]), max_size=12))
def test_each_request_of_a_batch_gets_what_it_would_get_alone(shape: list[str]) -> None:
    serials = count(1)
    ca = found_ca()
    batch = Issuance(
        ca.signing,
        ca.ledger,
        ca.join_tokens,
        ca.clock,
        ca.profile,
        lambda: serial_from(next(serials).to_bytes(20, "big")),
    )
    answers = asyncio.run(batch.issue_batch(WORKLOAD, [REQUEST if kind == "good" else BAD for kind in shape]))
    assert ["good" if isinstance(answer, IssuedChain) else "bad" for answer in answers] == shape
    assert len({a.certificate.prepared.serial for a in answers if isinstance(a, IssuedChain)}) == shape.count("good")
    assert ca.journal == (["record"] + ["sign"] * shape.count("good") if "good" in shape else [])


def test_families_that_configuration_allows_are_issued() -> None:
    profile = IssuanceProfile(key_types=frozenset({KeyFamily.ED25519}))
    issued = found_ca(profile=profile).issue(WORKLOAD, SigningRequest(good_pem(key_of(KeyAlgorithm.ED25519))))
    assert issued.grant.subject == WORKLOAD.id


def test_random_serials_are_random() -> None:
    serials = {random_serial() for _ in range(1000)}
    assert len(serials) == 1000
    assert {number.bit_length() for number in serials} == {159}
