"""Nested servers: who may have an issuing CA, what it may be, and that the root waits for everybody behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.authority.progress import progress_of
from meshca.authority.ring import AuthorityKind, AuthorityState, Step, root_digest
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.imports import ImportRules, check_chain, spki_of
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.records import CertificateRecord, LedgerQuery
from meshca.pki.requests import parse_issuer_request, request_issuer
from meshca.services.control import Order
from meshca.services.downstream import Downstream, DownstreamPolicy
from meshca.services.imports import found_on_root
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.peers import AuthenticationMethod, Caller
from tests.assets.authorities import FOUNDED, MESH, signer_of
from tests.assets.csrs import good_der, key_of
from tests.assets.foreign import DAY, foreign_ca, subject
from tests.assets.founded import SOAK, FoundedCa, found_ca, unfounded_ca

P256 = KeyAlgorithm.P256
ROOT = AuthorityKind.ROOT
EAST = Caller(SpiffeId.parse("spiffe://example.org/ca/east"), AuthenticationMethod.X509_SVID, "serial 1", serial="1")
TTL = timedelta(days=10)


def request(number: int = 0, trust_domain: TrustDomain = MESH) -> bytes:
    """A request as a server below makes it."""
    signer = signer_of(P256, 9000 + number)
    return request_issuer(signer.public_key_der, P256, trust_domain, signer)


@dataclass
class Rig:
    ca: FoundedCa
    service: Downstream = field(init=False)

    def __post_init__(self) -> None:
        policy = DownstreamPolicy(frozenset({EAST.id}), timedelta(days=30))
        ca = self.ca
        self.service = Downstream(ca.signing, ca.maker, ca.ledger, ca.evidence, ca.clock, policy)

    def mint(self, number: int = 0, ttl: timedelta = TTL, caller: Caller = EAST) -> x509.Certificate:
        (made,) = self.service.mint(caller, request(number), ttl)
        return x509.load_der_x509_certificate(made)

    def records(self) -> list[CertificateRecord]:
        found = self.ca.ledger.find(LedgerQuery()).records
        return [record for record in found if record.kind == "downstream"]

    def acknowledge(self, issuing: x509.Certificate, *roots: bytes) -> None:
        digests = [bytes.fromhex(root_digest(root)) for root in roots or self.service.roots()]
        self.service.acknowledge(EAST, digests, issuing.public_bytes(Encoding.DER))

    def tick(self, times: int = 3) -> None:
        for _ in range(times):
            self.ca.rotation.tick()
            self.ca.clock.move(SOAK)

    def roots(self, *states: AuthorityState) -> list[str]:
        return [root.id for root in self.ca.ring.of(ROOT, *states)]


@pytest.fixture
def rig() -> Rig:
    return Rig(found_ca())


def refusal(attempt: Callable[[], object]) -> MeshcaError:
    with pytest.raises(MeshcaError) as refused:
        attempt()
    return refused.value


# --- what is signed --------------------------------------------------------------------------------------------------


def test_an_issuing_ca_for_a_server_below_passes_the_checks_that_it_makes(rig: Rig) -> None:
    made = rig.mint()
    roots = [x509.load_der_x509_certificate(der) for der in rig.service.roots()]
    rules = ImportRules(MESH, FOUNDED, timedelta(days=1))
    key = signer_of(P256, 9000).public_key_der
    assert check_chain([made], key, roots, rules).root == roots[0]
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    assert made.not_valid_after_utc == FOUNDED + TTL
    assert made.subject == x509.load_der_x509_csr(request()).subject


def test_it_is_recorded_with_who_asked_before_it_is_signed(rig: Rig) -> None:
    rig.ca.forget_journal()
    made = rig.mint()
    assert rig.ca.journal == ["record", "sign"]
    (record,) = rig.records()
    assert record.serial == f"{made.serial_number:x}"
    assert (record.caller_id, record.spiffe_id, record.method) == (str(EAST.id), str(EAST.id), "x509_svid")
    assert (record.protocol, record.renews, record.attested) == ("upstream", "", "serial 1")
    assert record.issuer_id == rig.roots()[0]
    rig.mint(1)
    assert rig.records()[0].renews == record.serial, "the server below goes on with another one"


def test_nothing_is_signed_that_cannot_be_recorded(rig: Rig) -> None:
    rig.ca.forget_journal()
    rig.ca.ledger.out = True
    assert refusal(rig.mint).kind is ErrorKind.UNAVAILABLE
    assert rig.ca.journal == ["record"]


def test_it_lives_no_longer_than_the_root_nor_than_is_allowed(rig: Rig) -> None:
    assert rig.mint(ttl=400 * DAY).not_valid_after_utc == FOUNDED + 30 * DAY
    rig.ca.clock.move(3640 * DAY)
    assert rig.mint(ttl=400 * DAY).not_valid_after_utc == FOUNDED + 3650 * DAY


@pytest.mark.parametrize(
    "caller",
    [
        replace(EAST, id=SpiffeId.parse("spiffe://example.org/ca/west")),
        replace(EAST, id=SpiffeId.parse("spiffe://other.org/ca/east")),
        replace(EAST, method=AuthenticationMethod.JOIN_TOKEN),
        replace(EAST, method=AuthenticationMethod.JWT),
    ],
)
def test_whoever_is_not_named_or_has_no_certificate_is_denied(rig: Rig, caller: Caller) -> None:
    refused = [
        refusal(lambda: rig.mint(caller=caller)),
        refusal(lambda: rig.service.acknowledge(caller, [], b"")),
        refusal(lambda: rig.service.check(caller)),
    ]
    assert {each.kind for each in refused} == {ErrorKind.DENIED}
    assert rig.records() == []


def test_who_is_revoked_is_denied(rig: Rig) -> None:
    rig.ca.revocations.revoke(str(EAST.id), "", "stolen")
    assert refusal(rig.mint).message.endswith("it is revoked")


@pytest.mark.parametrize(
    ("csr", "problem"),
    [
        (b"", "csr is empty"),
        (b"garbage", "does not parse"),
        (request(0, TrustDomain("other.org")), "csr is not for spiffe://example.org, and for that alone"),
        (good_der(key_of(P256)), "csr asks for no issuing CA"),
        (request()[:-1] + bytes([request()[-1] ^ 1]), "csr signature does not verify"),
    ],
    ids=["empty", "garbage", "another trust domain", "a leaf", "forged"],
)
def test_a_request_for_anything_else_is_invalid(rig: Rig, csr: bytes, problem: str) -> None:
    refused = refusal(lambda: rig.service.mint(EAST, csr, TTL))
    assert refused.kind is ErrorKind.INVALID
    assert problem in refused.message
    assert rig.records() == []


def test_a_request_for_a_ca_that_signs_cas_is_invalid() -> None:
    key = key_of(P256, 5)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org")])
    for basic in (
        x509.BasicConstraints(True, None),
        x509.BasicConstraints(True, 1),
        x509.BasicConstraints(False, None),
    ):
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject("Deep"))
        built = builder.add_extension(basic, True).add_extension(names, False)
        csr = built.sign(key, hashes.SHA256())
        refused = refusal(lambda csr=csr: parse_issuer_request(csr.public_bytes(Encoding.DER), MESH))  # type: ignore[misc]
        assert refused.message == "csr is not for a CA of path length 0"


def test_a_lifetime_of_nothing_is_invalid(rig: Rig) -> None:
    assert refusal(lambda: rig.mint(ttl=timedelta(0))).kind is ErrorKind.INVALID


def test_a_key_of_this_server_gets_no_certificate_as_anothers(rig: Rig) -> None:
    issuer = rig.ca.ring.of(AuthorityKind.ISSUER)[0]
    signer = rig.ca.memory_keys.signer(issuer.key_id)
    csr = request_issuer(signer.public_key_der, P256, MESH, signer)
    refused = refusal(lambda: rig.service.mint(EAST, csr, TTL))
    assert refused.message == f"csr is for the key of authority {issuer.id} of this server"


def test_nothing_is_signed_while_the_authorities_cannot_be_read(rig: Rig) -> None:
    rig.ca.watch.seconds += 60
    assert refusal(rig.mint).kind is ErrorKind.UNAVAILABLE
    assert rig.records() == []


def test_a_server_whose_own_root_is_elsewhere_signs_nobody() -> None:
    ca = unfounded_ca()
    found_on_root(ca.store, ca.keys, MESH, foreign_ca(subject("Corp")).certificate, P256, FOUNDED)
    ca.keeper.refresh()
    refused = refusal(Rig(ca).mint)
    assert refused.kind is ErrorKind.CONFLICT
    assert "is not here, so no issuing CA can be made" in refused.message


# --- who is waited for -----------------------------------------------------------------------------------------------


def test_a_root_waits_until_everybody_below_trusts_it(rig: Rig) -> None:
    made = rig.mint()
    rig.acknowledge(made)
    rig.ca.control.begin("planned")
    rig.tick(10)
    (old,), (new,) = rig.roots(AuthorityState.ACTIVE), rig.roots(AuthorityState.PREPARED)
    standing = rig.ca.control.standing()
    assert [(each.spiffe_id, each.serial) for each in standing.progress.coverage.laggards] == [
        (str(EAST.id), f"{made.serial_number:x}")
    ]
    rig.acknowledge(made, rig.ca.ring.active(ROOT).certificate)  # type: ignore[union-attr]
    rig.tick(10)
    assert rig.roots(AuthorityState.ACTIVE) == [old], "it does not say that the next one is trusted"
    rig.acknowledge(made)
    rig.tick(5)
    assert rig.roots(AuthorityState.ACTIVE) == [new]
    assert rig.service.roots()[0] == rig.ca.ring.active(ROOT).certificate  # type: ignore[union-attr]


def test_a_root_that_is_no_longer_trusted_below_is_waited_for_anew(rig: Rig) -> None:
    made = rig.mint()
    rig.acknowledge(made)
    rig.ca.control.begin("planned")
    rig.tick(1)
    (old,) = rig.roots(AuthorityState.ACTIVE)
    rig.acknowledge(made)
    rig.acknowledge(made, rig.ca.ring.active(ROOT).certificate)  # type: ignore[union-attr]
    rig.tick(10)
    assert rig.roots(AuthorityState.ACTIVE) == [old]
    (new,) = rig.roots(AuthorityState.PREPARED)
    (laggard,) = rig.ca.control.standing().progress.coverage.laggards
    assert laggard.refusal == f"not everybody below trusts root {new}"
    rig.acknowledge(made)
    rig.tick(5)
    assert rig.roots(AuthorityState.ACTIVE) == [new]


def test_without_any_word_from_below_a_root_is_not_used_either(rig: Rig) -> None:
    rig.mint()
    rig.ca.control.begin("planned")
    rig.tick(10)
    assert rig.roots(AuthorityState.PREPARED)
    rig.ca.clock.move(TTL)
    rig.tick(5)
    assert not rig.roots(AuthorityState.PREPARED), "its issuing CA has ended, and it with it"


def test_an_issuing_ca_that_comes_during_a_rotation_proves_nothing_of_who_will_rely_on_it(rig: Rig) -> None:
    rig.ca.control.begin("planned")
    rig.tick(1)
    made = rig.mint()
    rig.tick(10)
    assert rig.roots(AuthorityState.PREPARED)
    rig.acknowledge(made)
    rig.tick(3)
    assert not rig.roots(AuthorityState.PREPARED)


def rotated(rig: Rig) -> x509.Certificate:
    made = rig.mint()
    rig.acknowledge(made)
    rig.ca.control.begin("planned")
    rig.tick(1)
    rig.acknowledge(made)
    rig.tick(5)
    assert rig.roots(AuthorityState.OLD)
    return made


def test_the_old_root_stays_while_an_issuing_ca_below_is_under_it(rig: Rig) -> None:
    made = rotated(rig)
    rig.ca.clock.move(2 * DAY)  # whatever this server signed itself has ended
    rig.tick(5)
    assert rig.roots(AuthorityState.OLD)
    progress = progress_of(rig.ca.ring, rig.ca.plan.policy, rig.ca.relying.evidence([rig.ca.ring.sequence]))
    assert (progress.holders, progress.renewed) == (1, 0)
    assert progress.old_ends == made.not_valid_after_utc
    rig.ca.clock.moment = made.not_valid_after_utc
    rig.tick(5)
    assert not rig.roots(AuthorityState.OLD)


def test_a_server_below_has_renewed_when_it_uses_nothing_from_before(rig: Rig) -> None:
    first = rotated(rig)
    second = rig.mint(1)
    rig.acknowledge(first)
    evidence = rig.ca.relying.evidence([rig.ca.ring.sequence])
    assert progress_of(rig.ca.ring, rig.ca.plan.policy, evidence).renewed == 0
    rig.acknowledge(second)
    evidence = rig.ca.relying.evidence([rig.ca.ring.sequence])
    assert progress_of(rig.ca.ring, rig.ca.plan.policy, evidence).renewed == 1


def test_a_tainted_root_is_distrusted_once_nobody_below_uses_it(rig: Rig) -> None:
    first = rotated(rig)
    (old,) = rig.roots(AuthorityState.OLD)
    rig.ca.control.carry_out(Order(Step.TAINT, old, "stolen"))
    rig.tick(10)
    assert rig.roots(AuthorityState.TAINTED) == [old]
    second = rig.mint(1)
    rig.acknowledge(first)
    rig.tick(5)
    assert rig.roots(AuthorityState.TAINTED) == [old]
    rig.acknowledge(second)
    rig.tick(5)
    assert rig.roots(AuthorityState.REVOKED) == [old]


@pytest.mark.parametrize("issuing", ["garbage", "stranger", "ended"])
def test_what_is_no_issuing_ca_of_the_caller_vouches_for_nothing(rig: Rig, issuing: str) -> None:
    made = rig.mint()
    if issuing == "ended":
        rig.ca.clock.move(TTL)
    given = {"garbage": b"garbage", "stranger": foreign_ca(subject("X")).der}.get(
        issuing, made.public_bytes(Encoding.DER)
    )
    refused = refusal(lambda: rig.service.acknowledge(EAST, [], given))
    assert refused.kind is ErrorKind.INVALID


def test_no_more_roots_are_read_than_there_can_be(rig: Rig) -> None:
    made = rig.mint()
    refused = refusal(lambda: rig.service.acknowledge(EAST, [bytes(32)] * 65, made.public_bytes(Encoding.DER)))
    assert refused.message == "trusted holds 65 roots: at most 64 are read"


def test_revocation_lists_that_would_cut_off_who_is_below_are_told(rig: Rig) -> None:
    assert rig.service.alarms() == ()
    rig.mint()
    assert rig.service.alarms() == ()
    rig.ca.revocations.revoke("spiffe://example.org/ns/a/sa/b", "", "stolen")
    rig.ca.lists.follow()
    rig.ca.keeper.refresh()
    assert [alarm.subject for alarm in rig.service.alarms()] == ["downstream"]


def test_the_key_of_the_request_is_what_is_signed(rig: Rig) -> None:
    assert spki_of(rig.mint(3)) == signer_of(P256, 9003).public_key_der
