"""What others signed is taken only where every relying party would take it; what is refused says what mends it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.imports import CaChain, ImportRules, check_chain, check_root, parse_certificates, spki_of
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.foreign import DAY, ForeignCa, foreign_ca, subject, usage

RULES = ImportRules(MESH, FOUNDED, DAY)
ROOT, BETWEEN, ISSUER = subject("Corp Root"), subject("Corp Policy"), subject("Mesh")
CORP = foreign_ca(ROOT)
POLICY = foreign_ca(BETWEEN, CORP)
KEY = ec.generate_private_key(ec.SECP256R1())
EKU, Purpose = x509.ExtendedKeyUsage, ExtendedKeyUsageOID


def issuing(above: ForeignCa = CORP, name: x509.Name = ISSUER, **options: Any) -> ForeignCa:
    return foreign_ca(name, above, key=options.pop("key", KEY), **options)


def taken(*cas: ForeignCa, roots: Sequence[ForeignCa] = (CORP,), others: Sequence[ForeignCa] = ()) -> CaChain:
    certificates = [ca.certificate for ca in cas]
    known = [root.certificate for root in roots]
    return check_chain(certificates, spki_of(issuing().certificate), known, RULES, [ca.certificate for ca in others])


def constraints(
    permitted: Sequence[x509.GeneralName] | None = None, excluded: Sequence[x509.GeneralName] | None = None
) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.NameConstraints(permitted, excluded), True)]


def test_an_issuing_ca_right_under_a_known_root_is_taken() -> None:
    made = issuing()
    assert taken(made) == CaChain(made.certificate, (), CORP.certificate)


@pytest.mark.parametrize("backwards", [False, True])
def test_intermediates_stand_in_the_chain_from_the_issuing_ca_upwards_whatever_their_order(backwards: bool) -> None:
    upper = foreign_ca(subject("Upper"), CORP)
    lower = foreign_ca(subject("Lower"), upper)
    made = issuing(lower)
    rest = (upper, lower) if backwards else (lower, upper)
    found = taken(made, *rest)
    assert found.intermediates == (lower.certificate, upper.certificate)
    assert found.chain == (lower.der, upper.der)
    assert found.root == CORP.certificate


def test_a_root_that_is_new_comes_with_the_chain() -> None:
    other = foreign_ca(subject("Next Root"))
    assert taken(issuing(other), other).root == other.certificate


def test_a_root_that_is_known_may_be_in_the_file_too() -> None:
    assert taken(issuing(POLICY), POLICY, CORP).root == CORP.certificate


@pytest.mark.parametrize(
    "options",
    [
        {"path_length": 0},
        {"uris": ["spiffe://example.org"]},
        {"digest": hashes.SHA512()},
        {"further": [(EKU([Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH]), False)]},
        {"further": [(EKU([Purpose.ANY_EXTENDED_KEY_USAGE]), False)]},
        {"further": constraints(excluded=[x509.DNSName("bad.example")])},
        {"until": FOUNDED + DAY},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_does_no_harm_is_taken(options: dict[str, Any]) -> None:
    made = issuing(**options)
    assert taken(made).issuer == made.certificate


def _under(root: ForeignCa) -> Callable[[], object]:
    return lambda: taken(issuing(root), roots=[root])


def _own(**options: Any) -> Callable[[], object]:
    return lambda: taken(issuing(**options))


def _over_policy(**options: Any) -> Callable[[], object]:
    def take() -> object:
        middle = foreign_ca(BETWEEN, CORP, **options)
        return taken(issuing(middle), middle)

    return take


def _root(**options: Any) -> Callable[[], object]:
    return lambda: check_root(foreign_ca(ROOT, **options).certificate, RULES)


def _tight_root() -> object:
    root = foreign_ca(ROOT, path_length=1)
    middle = foreign_ca(BETWEEN, root)
    return taken(issuing(middle), middle, roots=[root])


MESH_CA, POLICY_CA, CORP_CA = "issuing CA 'CN=Mesh'", "intermediate 'CN=Corp Policy'", "root 'CN=Corp Root'"
NO_CA = "is no CA certificate (cA is not true): have it signed as a CA"
NAMES = (
    "which would forbid leaves of this trust domain, or could not be checked: have it signed without such name"
    " constraints"
)
STRANGER = foreign_ca(subject("Stranger"))
IMPOSTOR = foreign_ca(ROOT)
TLS_SERVER = [(EKU([Purpose.SERVER_AUTH]), False)]

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "another key": (
        _own(key=ec.generate_private_key(ec.SECP256R1())),
        (
            f"{MESH_CA} is not for the pending key: put the certificate of the last request first in the file;"
            " `meshca authority csr` shows that request"
        ),
    ),
    "the root first": (
        lambda: check_chain([CORP.certificate], spki_of(CORP.certificate), [], RULES),
        (
            "issuing CA 'CN=Corp Root' is self-signed: it is a root; have an issuing CA signed under it, which signs"
            " leaves"
        ),
    ),
    "an unknown root": (
        lambda: taken(issuing(STRANGER)),
        (
            f"{MESH_CA} is signed by 'CN=Stranger', which is neither in the file nor a root of this trust domain:"
            " append the intermediates, and the root if it is new"
        ),
    ),
    "an intermediate that is missing": (
        lambda: taken(issuing(foreign_ca(subject("Lower"), POLICY)), foreign_ca(subject("Else"), CORP)),
        (
            f"{MESH_CA} is signed by 'CN=Lower', which is neither in the file nor a root of this trust domain:"
            " append the intermediates, and the root if it is new"
        ),
    ),
    "a root of the same name": (
        lambda: taken(issuing(IMPOSTOR)),
        (
            f"{MESH_CA}: its signature does not verify with the key of the CA of the name of its issuer:"
            " give the certificate of the CA that signed it"
        ),
    ),
    "an intermediate by an impostor": (
        lambda: taken(issuing(middle := foreign_ca(BETWEEN, IMPOSTOR)), middle),
        (
            f"{POLICY_CA}: its signature does not verify with the key of the CA of the name of its issuer:"
            " give the certificate of the CA that signed it"
        ),
    ),
    "one too many": (
        lambda: taken(issuing(), POLICY),
        "certificate 'CN=Corp Policy' is not part of the chain of issuing CA 'CN=Mesh': leave it out",
    ),
    "a root too many": (
        lambda: taken(issuing(), STRANGER),
        "certificate 'CN=Stranger' is not part of the chain of issuing CA 'CN=Mesh': leave it out",
    ),
    "no CA": (_own(ca=False), f"{MESH_CA} {NO_CA}"),
    "an intermediate that is no CA": (_over_policy(ca=False), f"{POLICY_CA} {NO_CA}"),
    "a root that is no CA": (_under(foreign_ca(ROOT, ca=False)), f"{CORP_CA} {NO_CA}"),
    "basic constraints that are not critical": (
        _own(critical=False),
        f"{MESH_CA}: its basic constraints are not critical: have it signed with critical,CA:true",
    ),
    "no key usage": (
        _own(key_usage=None),
        f"{MESH_CA} may not sign certificates: have it signed with the key usage keyCertSign",
    ),
    "a key usage without keyCertSign": (
        _over_policy(key_usage=usage(sign=False)),
        f"{POLICY_CA} may not sign certificates: have it signed with the key usage keyCertSign",
    ),
    "a path length in the intermediate": (
        _over_policy(path_length=0),
        (
            f"{POLICY_CA}: its path length 0 is too small for the 1 CA certificates below it:"
            " use a CA with a path length of at least 1, or none"
        ),
    ),
    "a path length in the root": (
        _tight_root,
        (
            f"{CORP_CA}: its path length 1 is too small for the 2 CA certificates below it:"
            " use a CA with a path length of at least 2, or none"
        ),
    ),
    "an EKU without clientAuth": (
        _own(further=TLS_SERVER),
        (
            f"{MESH_CA}: its extended key usage lacks clientAuth, which every leaf has: have it signed without"
            " extended key usage"
        ),
    ),
    "an EKU without serverAuth above": (
        _over_policy(further=[(EKU([Purpose.CLIENT_AUTH]), False)]),
        (
            f"{POLICY_CA}: its extended key usage lacks serverAuth, which every leaf has: have it signed without"
            " extended key usage"
        ),
    ),
    "another trust domain": (
        _own(uris=["spiffe://other.example"]),
        (
            f"{MESH_CA} has the URI SAN 'spiffe://other.example': only spiffe://example.org may stand there, or no"
            " URI at all"
        ),
    ),
    "a workload's id": (
        _own(uris=["spiffe://example.org/ns/a"]),
        (
            f"{MESH_CA} has the URI SAN 'spiffe://example.org/ns/a': only spiffe://example.org may stand there, or no"
            " URI at all"
        ),
    ),
    "permitted DNS names": (
        _own(further=constraints([x509.DNSName("corp.example")])),
        f"{MESH_CA} permits only certain DNS names ('corp.example'), {NAMES}",
    ),
    "permitted addresses": (
        _over_policy(further=constraints([x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))])),
        f"{POLICY_CA} permits only certain IP address names ('10.0.0.0/8'), {NAMES}",
    ),
    "permitted URIs": (
        _own(further=constraints([x509.UniformResourceIdentifier("other.example")])),
        f"{MESH_CA} permits only certain URI names ('other.example'), {NAMES}",
    ),
    "excluded URIs": (
        _under(foreign_ca(ROOT, further=constraints(None, [x509.UniformResourceIdentifier("example.org")]))),
        f"{CORP_CA} excludes certain URI names ('example.org'), {NAMES}",
    ),
    "permitted directory names": (
        _own(further=constraints([x509.DirectoryName(subject("x"))])),
        f"{MESH_CA} permits only certain directory names ('<Name(CN=x)>'), {NAMES}",
    ),
    "expired": (
        _own(since=FOUNDED - 2 * DAY, until=FOUNDED),
        f"{MESH_CA} expired at 2026-06-01T12:00:00Z: have a new one signed",
    ),
    "not valid yet": (
        _own(since=FOUNDED + timedelta(seconds=1)),
        f"{MESH_CA} is not valid before 2026-06-01T12:00:01Z: wait, or check the clocks",
    ),
    "too short": (
        _own(until=FOUNDED + DAY - timedelta(seconds=1)),
        f"{MESH_CA} ends at 2026-06-02T11:59:59Z, but leaves may live for 1 day, 0:00:00: have it signed for longer",
    ),
    "longer than what is above": (
        _over_policy(until=FOUNDED + 9 * DAY),
        (
            f"{MESH_CA} ends at 2027-06-01T12:00:00Z, after {POLICY_CA}, which vouches for it until"
            " 2026-06-10T12:00:00Z: have it signed for no longer than that"
        ),
    ),
    "no key identifier": (
        _own(key_identifier=False),
        f"{MESH_CA} has no subject key identifier of 4 to 32 bytes: have it signed with one (hash)",
    ),
    "no subject": (
        _own(name=x509.Name([])),
        "has an empty subject: have it signed with the subject of the request",
    ),
    "a subject of another": (
        lambda: taken(issuing(), others=[foreign_ca(ISSUER, CORP)]),
        "with another key: have it signed with the subject of the request, which no other CA has",
    ),
    "a curve that Envoy refuses": (
        _under(foreign_ca(ROOT, key=ec.generate_private_key(ec.SECP521R1()))),
        f"{CORP_CA}: key: type p521 is not allowed here: use one of p256, p384, rsa",
    ),
    "a weak RSA key": (
        _under(foreign_ca(ROOT, key=rsa.generate_private_key(65537, 1024))),
        f"{CORP_CA}: key: RSA of 1024 bits is not supported: use 2048 to 8192 bits",
    ),
    "a hash of SHA-224": (
        _own(digest=hashes.SHA224()),
        f"{MESH_CA} is signed with sha224: have it signed with SHA-256, SHA-384 or SHA-512",
    ),
    "a root that is none": (
        lambda: check_root(POLICY.certificate, RULES),
        "root 'CN=Corp Policy' is not self-signed: give the root, which is at the top of the chain",
    ),
    "a root with another's signature": (
        lambda: check_root(foreign_ca(ROOT, IMPOSTOR).certificate, RULES),
        f"{CORP_CA}: its signature does not verify with its own key: the file is damaged or forged",
    ),
    "a root that signs leaves only": (
        _root(path_length=0),
        (
            f"{CORP_CA}: its path length 0 is too small for the 1 CA certificates below it:"
            " use a CA with a path length of at least 1, or none"
        ),
    ),
    "a root at its end": (
        _root(until=FOUNDED + timedelta(hours=1)),
        f"{CORP_CA} ends at 2026-06-01T13:00:00Z, but leaves may live for 1 day, 0:00:00: have it signed for longer",
    ),
    "an Ed25519 root": (
        lambda: check_root(_ed25519_root().certificate, RULES),
        f"{CORP_CA}: key: type ed25519 is not allowed here: use one of p256, p384, rsa",
    ),
}


def _ed25519_root() -> ForeignCa:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(ROOT).issuer_name(ROOT).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(FOUNDED - DAY).not_valid_after(FOUNDED + 9 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage(), True)
    return ForeignCa(builder.sign(key, None), key)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_which_certificate_and_what_mends_it(case: str) -> None:
    attempt, words = REFUSED[case]
    with pytest.raises(MeshcaError) as refused:
        attempt()
    assert refused.value.kind is ErrorKind.INVALID
    message = refused.value.message
    assert message == words if message.startswith(words[:12]) else message.endswith(words)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "the file holds no certificate: give PEM, the issuing CA's own certificate first"),
        (
            CORP.pem + CORP.key_pem,
            "the file holds a private key: give certificates only, and keep that key where it was made",
        ),
        (
            CORP.pem.replace(b"CERTIFICATE", b"X509 CRL"),
            "the file holds a 'X509 CRL' block: give PEM blocks of CERTIFICATE only",
        ),
        (CORP.pem * 9, "the file holds 9 certificates: at most 8 are read"),
        (b"x" * (128 * 1024 + 1), "the file is 131073 bytes long: at most 131072 are read"),
    ],
    ids=["empty", "a private key", "a CRL", "too many", "too long"],
)
def test_a_file_that_is_no_chain_is_refused(pem: bytes, words: str) -> None:
    with pytest.raises(MeshcaError) as refused:
        parse_certificates(pem, "the file")
    assert (refused.value.kind, refused.value.message) == (ErrorKind.INVALID, words)


def test_a_certificate_that_is_cut_off_is_refused() -> None:
    lines = CORP.pem.splitlines(keepends=True)
    with pytest.raises(MeshcaError, match=r"^the file holds a certificate that does not parse: "):
        parse_certificates(b"".join((*lines[:3], *lines[-1:])), "the file")


def test_doubles_and_what_openssl_writes_around_certificates_are_left_out() -> None:
    assert parse_certificates(b"Certificate:\n    Data:\n" + CORP.pem * 2, "the file") == (CORP.certificate,)
