"""Which certificates prove an identity, and why the others do not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.ids import TrustDomain
from meshca.spiffe.verification import MAX_CHAIN_CERTIFICATES, verify_x509_path, verify_x509_svid
from tests.svids import DAY, NOW, TestCa, bundle_of, new_root, uris

ID = "spiffe://example.org/ns/a/sa/b"
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Mesh:
    """A root, an issuing CA below it, and a foreign domain with a root of the same name."""

    root: TestCa
    issuer: TestCa
    foreign_root: TestCa

    def good(self) -> bytes:
        return self.issuer.svid(*uris(ID))


ROOT = new_root("root")
MESH = Mesh(ROOT, ROOT.intermediate("issuer"), new_root("root"))
BUNDLES = {
    TrustDomain("example.org"): bundle_of("example.org", MESH.root),
    TrustDomain("foreign.org"): bundle_of("foreign.org", MESH.foreign_root),
}

Leaf = Callable[[TestCa], bytes]

ACCEPTED: dict[str, Leaf] = {
    "empty subject, critical SAN": lambda ca: ca.svid(*uris(ID)),
    "subject and critical SAN, as Istio's": lambda ca: ca.svid(*uris(ID), subject="x"),
    "subject and non-critical SAN": lambda ca: ca.svid(*uris(ID), subject="x", san_critical=False),
    "no authority key identifier": lambda ca: ca.svid(*uris(ID), authority_key_id=False),
    "no extended key usage": lambda ca: ca.svid(*uris(ID), purposes=None),
    "clientAuth alone": lambda ca: ca.svid(*uris(ID), purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]),
    "no basic constraints": lambda ca: ca.svid(*uris(ID), ca=None),
    "DNS names beside": lambda ca: ca.svid(*uris(ID), x509.DNSName("a.b"), x509.DNSName("c.d")),
    "key encipherment beside": lambda ca: ca.svid(*uris(ID), usages=("digital_signature", "key_encipherment")),
    "RSA key": lambda ca: ca.svid(*uris(ID), key=rsa.generate_private_key(65537, 2048)),
    "P-384 key": lambda ca: ca.svid(*uris(ID), key=ec.generate_private_key(ec.SECP384R1())),
    "P-521 key": lambda ca: ca.svid(*uris(ID), key=ec.generate_private_key(ec.SECP521R1())),
    "Ed25519 key": lambda ca: ca.svid(*uris(ID), key=ed25519.Ed25519PrivateKey.generate()),
    "valid from this second": lambda ca: ca.svid(*uris(ID), not_before=NOW),
    "valid for the rest of this second": lambda ca: ca.svid(*uris(ID), not_after=NOW),
}


def odd_version(der: bytes) -> bytes:
    """The certificate with a version that X.509 does not have; the library's error for it is no ValueError."""
    changed = bytearray(der)
    changed[changed.index(b"\xa0\x03\x02\x01\x02") + 4] = 7
    return bytes(changed)


REFUSED: dict[str, tuple[Leaf, str]] = {
    "two URI SANs": (
        lambda ca: ca.svid(*uris(ID, "spiffe://example.org/other")),
        "it has 2 URI SANs: an SVID has exactly one",
    ),
    "the same URI SAN twice": (lambda ca: ca.svid(*uris(ID, ID)), "it has 2 URI SANs"),
    "a second URI SAN that is no SPIFFE id": (lambda ca: ca.svid(*uris(ID, "https://a.b/")), "it has 2 URI SANs"),
    "no SAN": (lambda ca: ca.svid(subject="x"), "it has 0 URI SANs"),
    "DNS SAN alone": (lambda ca: ca.svid(x509.DNSName("a.b")), "it has 0 URI SANs"),
    "SPIFFE id as DNS name": (lambda ca: ca.svid(x509.DNSName(ID)), "it has 0 URI SANs"),
    "https URI": (lambda ca: ca.svid(*uris("https://example.org/ns/a")), "does not start with spiffe://"),
    "root-path id": (lambda ca: ca.svid(*uris("spiffe://example.org")), "names a trust domain"),
    "trailing slash": (lambda ca: ca.svid(*uris("spiffe://example.org/a/")), "has an empty segment"),
    "dot segment": (lambda ca: ca.svid(*uris("spiffe://example.org/a/../b")), "has a dot segment"),
    "percent encoding": (lambda ca: ca.svid(*uris("spiffe://example.org/%61")), "has a character outside"),
    "upper-case trust domain": (lambda ca: ca.svid(*uris("spiffe://EXAMPLE.org/a")), "has a character outside"),
    "upper-case scheme": (lambda ca: ca.svid(*uris("SPIFFE://example.org/a")), "does not start with spiffe://"),
    "port": (lambda ca: ca.svid(*uris("spiffe://example.org:1/a")), "has a character outside"),
    "userinfo": (lambda ca: ca.svid(*uris("spiffe://u@example.org/a")), "has a character outside"),
    "id beyond 2048 bytes": (lambda ca: ca.svid(*uris("spiffe://example.org/" + "a" * 2048)), "characters long"),
    "unknown trust domain": (
        lambda ca: ca.svid(*uris("spiffe://unknown.org/a")),
        "no trust bundle for its trust domain unknown.org",
    ),
    "other trust domain's id from our issuer": (
        lambda ca: ca.svid(*uris("spiffe://foreign.org/a")),
        "no valid path to a root of foreign.org",
    ),
    "empty subject, SAN not critical": (
        lambda ca: ca.svid(*uris(ID), san_critical=False),
        "its subject is empty, but its subject alternative name is not critical",
    ),
    "CA leaf": (lambda ca: ca.svid(*uris(ID), ca=True), "it is a CA certificate, which must not authenticate"),
    "keyCertSign": (
        lambda ca: ca.svid(*uris(ID), usages=("digital_signature", "key_cert_sign")),
        "has keyCertSign or cRLSign",
    ),
    "cRLSign": (lambda ca: ca.svid(*uris(ID), usages=("digital_signature", "crl_sign")), "has keyCertSign or cRLSign"),
    "no digitalSignature": (lambda ca: ca.svid(*uris(ID), usages=("key_agreement",)), "lacks digitalSignature"),
    "no key usage": (lambda ca: ca.svid(*uris(ID), usages=None), "it has no key usage"),
    "serverAuth alone": (
        lambda ca: ca.svid(*uris(ID), purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "its extended key usage lacks clientAuth",
    ),
    "anyExtendedKeyUsage alone": (
        lambda ca: ca.svid(*uris(ID), purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        "its extended key usage lacks clientAuth",
    ),
    "expired": (lambda ca: ca.svid(*uris(ID), not_after=NOW - SECOND), "it expired at 2026-06-01T11:59:59Z"),
    "not yet valid": (
        lambda ca: ca.svid(*uris(ID), not_before=NOW + SECOND),
        "it is not valid before 2026-06-01T12:00:01Z",
    ),
    "unknown critical extension": (
        lambda ca: ca.svid(
            *uris(ID), extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
        ),
        "no valid path",
    ),
    "unreadable SAN": (
        lambda ca: ca.svid(
            extra=[(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x86\x01\xff"), True)]
        ),
        "a field or extension of it cannot be read",
    ),
    "a CA's name that is no SPIFFE leaf": (lambda ca: ca.der, "it has 0 URI SANs"),
    "garbage": (lambda ca: b"garbage", "chain[0] is not a DER certificate"),
    "empty": (lambda ca: b"", "chain[0] is not a DER certificate"),
    "trailing bytes": (lambda ca: ca.svid(*uris(ID)) + b"\x00", "chain[0] is not a DER certificate"),
    "version 8": (lambda ca: odd_version(ca.svid(*uris(ID))), "chain[0] is not a DER certificate"),
    "huge": (lambda ca: b"\x30" * 16385, "chain[0] is 16385 bytes long: at most 16384 are read"),
}


def refusal(*chain: bytes) -> str:
    """Why `chain` is refused."""
    with pytest.raises(MeshcaError) as caught:
        verify_x509_svid(chain, BUNDLES, now=NOW)
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    return caught.value.message


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(case: str) -> None:
    leaf = ACCEPTED[case](MESH.issuer)
    assert str(verify_x509_svid([leaf, MESH.issuer.der], BUNDLES, now=NOW)) == ID


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    leaf, reason = REFUSED[case]
    assert reason in refusal(leaf(MESH.issuer), MESH.issuer.der)


def test_an_empty_chain_is_refused() -> None:
    assert refusal() == "certificate: the chain is empty"


def test_a_leaf_signed_by_the_root_itself_needs_no_intermediate() -> None:
    assert str(verify_x509_svid([MESH.root.svid(*uris(ID))], BUNDLES, now=NOW)) == ID


def test_roots_and_strangers_in_the_chain_do_no_harm() -> None:
    chain = [MESH.good(), MESH.foreign_root.der, MESH.root.der, MESH.issuer.der]
    assert str(verify_x509_svid(chain, BUNDLES, now=NOW)) == ID


def test_the_verdict_does_not_depend_on_the_zone_that_now_is_told_in() -> None:
    tokyo = timezone(timedelta(hours=9))
    chain = [MESH.issuer.svid(*uris(ID), not_before=NOW, not_after=NOW), MESH.issuer.der]
    assert str(verify_x509_svid(chain, BUNDLES, now=NOW.astimezone(tokyo))) == ID


def test_a_missing_intermediate_is_refused() -> None:
    assert "no valid path to a root of example.org (bundle 1)" in refusal(MESH.good())


def test_a_foreign_root_of_the_same_name_vouches_for_nobody_of_ours() -> None:
    assert "no valid path" in refusal(MESH.foreign_root.svid(*uris(ID)))


def test_a_root_that_the_caller_brings_along_is_not_trusted() -> None:
    own = new_root("root")
    assert "no valid path" in refusal(own.svid(*uris(ID)), own.der)


def test_roots_of_different_trust_domains_are_not_pooled() -> None:
    theirs = MESH.foreign_root.svid(*uris("spiffe://foreign.org/a"))
    assert str(verify_x509_svid([theirs], BUNDLES, now=NOW)) == "spiffe://foreign.org/a"
    assert "no valid path to a root of foreign.org" in refusal(MESH.root.svid(*uris("spiffe://foreign.org/a")))


def test_a_workload_cannot_issue_below_its_own_certificate() -> None:
    workload = MESH.root.intermediate("workload", ca=False, usages=("digital_signature",))
    assert "no valid path" in refusal(workload.svid(*uris(ID)), workload.der)


BAD_ISSUERS: dict[str, Callable[[TestCa], TestCa]] = {
    "without CA flag": lambda root: root.intermediate("i", ca=False),
    "without keyCertSign": lambda root: root.intermediate("i", usages=("digital_signature",)),
    "expired": lambda root: root.intermediate("i", not_after=NOW - SECOND),
    "not yet valid": lambda root: root.intermediate("i", not_before=NOW + SECOND),
}


@pytest.mark.parametrize("case", BAD_ISSUERS)
def test_an_intermediate_is_refused(case: str) -> None:
    issuer = BAD_ISSUERS[case](MESH.root)
    assert "no valid path" in refusal(issuer.svid(*uris(ID)), issuer.der)


def test_a_path_length_constraint_is_obeyed() -> None:
    upper = MESH.root.intermediate("upper", path_length=0)
    lower = upper.intermediate("lower")
    assert "path length constraint violated" in refusal(lower.svid(*uris(ID)), lower.der, upper.der)


def test_an_expired_root_vouches_for_nobody() -> None:
    old = new_root("old", not_after=NOW - SECOND)
    bundles = {TrustDomain("example.org"): bundle_of("example.org", old)}
    with pytest.raises(MeshcaError, match="no valid path"):
        verify_x509_svid([old.svid(*uris(ID))], bundles, now=NOW)


def chain_of(length: int) -> list[bytes]:
    """A valid chain of `length` certificates, the leaf included."""
    issuers = [MESH.root]
    for level in range(length - 1):
        issuers.append(issuers[-1].intermediate(f"level {level}"))
    return [issuers[-1].svid(*uris(ID)), *(ca.der for ca in reversed(issuers[1:]))]


def test_the_longest_chain_that_is_read_is_verified() -> None:
    assert str(verify_x509_svid(chain_of(MAX_CHAIN_CERTIFICATES), BUNDLES, now=NOW)) == ID


def test_a_longer_chain_is_refused_unread() -> None:
    assert refusal(*chain_of(9)) == "certificate: the chain has 9 certificates: at most 8 are read"


def test_a_path_is_valid_for_the_time_that_all_its_certificates_share() -> None:
    issuer = MESH.root.intermediate("issuer", not_before=NOW - SECOND, not_after=NOW + 3 * SECOND)
    path = verify_x509_path([issuer.svid(*uris(ID)), issuer.der], BUNDLES, now=NOW)
    assert (path.not_before, path.not_after) == (NOW - SECOND, NOW + 3 * SECOND)
    assert [c.subject.rfc4514_string() for c in path.certificates] == ["", "CN=issuer", "CN=root"]


GOOD_LEAF = MESH.good()
LEAF_TBS_END = len(GOOD_LEAF) - 80  # the signature and its algorithm take the rest


# a changed byte may make the serial number negative, of which `cryptography` warns before the signature is looked at
odd_serials = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@odd_serials
@given(st.integers(0, LEAF_TBS_END), st.integers(1, 255))
def test_a_leaf_with_one_byte_changed_is_refused_and_nothing_else_happens(position: int, mask: int) -> None:
    changed = bytearray(GOOD_LEAF)
    changed[position] ^= mask
    refusal(bytes(changed), MESH.issuer.der)


@odd_serials
@given(st.integers(0, len(MESH.issuer.der) - 1), st.integers(1, 255))
def test_an_intermediate_with_one_byte_changed_never_changes_the_identity(position: int, mask: int) -> None:
    changed = bytearray(MESH.issuer.der)
    changed[position] ^= mask
    proven = None
    with contextlib.suppress(MeshcaError):
        proven = str(verify_x509_svid([GOOD_LEAF, bytes(changed)], BUNDLES, now=NOW))
    assert proven in (None, ID)


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(chain: list[bytes]) -> None:
    refusal(*chain)


def test_a_bundle_may_hold_two_roots_of_one_name() -> None:
    second = new_root("root")
    bundles = {TrustDomain("example.org"): bundle_of("example.org", MESH.root, second)}
    for root in (MESH.root, second):
        assert str(verify_x509_svid([root.svid(*uris(ID), not_after=NOW + DAY)], bundles, now=NOW)) == ID
