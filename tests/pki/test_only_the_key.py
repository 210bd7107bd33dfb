"""Law 3: of a CSR only its public key reaches the certificate."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from meshca.pki.csr import parse_csr
from meshca.pki.keys import DEFAULT_FAMILIES, KeyAlgorithm, PrivateKey
from meshca.pki.prepare import prepare
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.spiffe.ids import SpiffeId
from tests.assets.authorities import FOUNDED, serial, standing_issuer
from tests.assets.csrs import forge, good_der, good_pem, key_of, signing
from tests.assets.der import spki_of, tlv

GRANT = Grant(SpiffeId.parse("spiffe://example.org/ns/a/sa/b"), timedelta(hours=1), ("b.a.svc",))
KEYS = tuple(key_of(algorithm) for algorithm in (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA2048))


def is_plain(data: bytes) -> bool:
    """Whether no PEM armour hides in binary data: what holds any is read as PEM, and refused."""
    return b"-----BEGIN " not in data


NAME_TYPES = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME, NameOID.USER_ID)
SUBJECTS = st.lists(
    st.builds(x509.NameAttribute, st.sampled_from(NAME_TYPES), st.text(min_size=1, max_size=30)), max_size=5
).map(x509.Name)
ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
GENERAL_NAMES = st.one_of(
    ASCII.map(x509.DNSName),
    st.text("abc.+-019", min_size=1, max_size=20).map(lambda name: x509.RFC822Name(f"a{name}a@example.org")),
    ASCII.map(lambda path: x509.UniformResourceIdentifier("spiffe://example.org/" + path)),
    st.ip_addresses().map(x509.IPAddress),
    SUBJECTS.map(x509.DirectoryName),
)
KEY_USAGES = st.builds(x509.KeyUsage, *[st.booleans()] * 4, st.just(True), *[st.booleans()] * 4)
UNKNOWN = st.builds(
    x509.UnrecognizedExtension,
    st.integers(0, 10**9).map(lambda arc: x509.ObjectIdentifier(f"1.3.6.1.4.1.{arc}")),
    st.binary(max_size=60).filter(is_plain),
)
EXTENSIONS = st.lists(
    st.tuples(
        st.one_of(
            st.lists(GENERAL_NAMES, min_size=1, max_size=8).map(x509.SubjectAlternativeName),
            st.builds(x509.BasicConstraints, ca=st.just(True), path_length=st.none() | st.integers(0, 9)),
            KEY_USAGES,
            st.just(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.OCSP_SIGNING])
            ),
            st.just(x509.NameConstraints(None, [x509.DNSName("example.com")])),
            st.binary(min_size=1, max_size=30).filter(is_plain).map(x509.SubjectKeyIdentifier),
            UNKNOWN,
        ),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda extension: extension[0].oid,
)


def to_be_signed(csr: bytes) -> bytes:
    request = parse_csr(csr, DEFAULT_FAMILIES)
    issuer = standing_issuer().issuer
    return prepare(request, GRANT, issuer, IssuanceProfile(), serial=serial(7), now=FOUNDED).tbs


@given(st.sampled_from(KEYS), SUBJECTS, EXTENSIONS, st.booleans())
def test_subject_and_extensions_of_a_csr_leave_no_trace(
    key: PrivateKey, subject: x509.Name, extensions: list[tuple[x509.ExtensionType, bool]], armoured: bool
) -> None:
    wishful = (good_pem if armoured else good_der)(key, subject=subject, extensions=extensions)
    assert to_be_signed(wishful) == to_be_signed(good_der(key))


@given(st.binary(max_size=200).filter(is_plain), st.binary(max_size=400).filter(is_plain))
def test_attributes_that_no_library_would_write_leave_no_trace(value: bytes, other: bytes) -> None:
    key = KEYS[0]
    values = sorted((tlv(0x04, value), tlv(0x04, other)))  # as DER orders a SET OF
    attributes = tlv(0xA0, tlv(0x30, b"\x06\x03\x2a\x03\x04", tlv(0x31, *values)))
    wishful = forge(spki_of(key.public_key()), signing(key), attributes=attributes)
    assert to_be_signed(wishful) == to_be_signed(good_der(key))


def test_another_key_makes_another_certificate() -> None:
    assert len({to_be_signed(good_der(key)) for key in KEYS}) == len(KEYS)
