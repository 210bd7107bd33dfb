"""Which CSRs are accepted, and with what words the others are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.csr import MAX_CSR_BYTES, CertificateRequest, parse_csr
from meshca.pki.keys import DEFAULT_FAMILIES, KeyAlgorithm, KeyFamily
from tests.assets.csrs import (
    ECDSA_SHA1,
    RSA_MD5,
    RSA_SHA1,
    RSA_SHA256,
    extension_request,
    forge,
    forge_signed,
    good_der,
    good_pem,
    key_of,
    pem,
    signing,
)
from tests.assets.der import (
    BIT_STRING,
    NULL,
    OCTET_STRING,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    bit_string,
    elements,
    inside,
    integer,
    oid,
    spki_of,
    tlv,
)
from tests.svids import new_root

KEY, OTHER, RSA = key_of(KeyAlgorithm.P256), key_of(KeyAlgorithm.P256, 1), key_of(KeyAlgorithm.RSA2048)
SPKI, OTHER_SPKI, RSA_SPKI = (spki_of(key.public_key()) for key in (KEY, OTHER, RSA))
DER, PEM = good_der(KEY), good_pem(KEY)
EC_KEY, P256_CURVE = oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")
ALL_FAMILIES = frozenset(KeyFamily)


def modulus() -> int:
    assert isinstance(RSA, rsa.RSAPrivateKey)
    return RSA.public_key().public_numbers().n


RSA_ENCRYPTION = tlv(SEQUENCE, oid("1.2.840.113549.1.1.1"), tlv(NULL))
RSASSA_PSS = tlv(SEQUENCE, oid("1.2.840.113549.1.1.10"))


def rsa_spki(n: int, e: int = 65537, algorithm: bytes = RSA_ENCRYPTION) -> bytes:
    return tlv(SEQUENCE, algorithm, bit_string(tlv(SEQUENCE, integer(n), integer(e))))


def odd_multiple_of(prime: int) -> int:
    candidate = (1 << 2047) // prime * prime + prime
    return candidate if candidate % 2 else candidate + prime


def forge_rsa(spki: bytes) -> bytes:
    return forge(spki, algorithm=RSA_SHA256)


def ec_spki(point: bytes, *parameters: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(SEQUENCE, EC_KEY, *parameters), bit_string(point))


def on_curve(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve)
    return forge(spki_of(key.public_key()), signing(key))


def named(tag: int, value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(SET, tlv(SEQUENCE, oid("2.5.4.3"), tlv(tag, value))))


def san(*names: bytes) -> bytes:
    general_names = tlv(SEQUENCE, *(tlv(0x82, name) for name in names))
    return tlv(SEQUENCE, oid("2.5.29.17"), tlv(OCTET_STRING, general_names))


def with_names(count: int) -> bytes:
    names = san(*(f"{index:05}.example.org".encode() for index in range(count)))
    return forge_signed(KEY, attributes=extension_request(names))


def empty_builder() -> x509.CertificateSigningRequestBuilder:
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def ed448_request() -> bytes:
    return empty_builder().sign(ed448.Ed448PrivateKey.generate(), None).public_bytes(Encoding.DER)


def dsa_request() -> bytes:
    return empty_builder().sign(dsa.generate_private_key(2048), hashes.SHA256()).public_bytes(Encoding.DER)


def pss_request() -> bytes:
    assert isinstance(RSA, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return empty_builder().sign(RSA, hashes.SHA256(), rsa_padding=pss).public_bytes(Encoding.DER)


def compressed_point() -> bytes:
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return forge(ec_spki(point, P256_CURVE), signing(KEY))


def with_signature(*element: bytes) -> bytes:
    info, algorithm, _ = elements(inside(DER))
    return tlv(SEQUENCE, info, algorithm, *element)


def signed_as(algorithm: str, sign: Callable[[bytes], bytes]) -> bytes:
    return forge(SPKI, sign, algorithm=tlv(SEQUENCE, oid(algorithm)))


def private_key_pem() -> bytes:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


BOMB = with_names(1800)

EMPTY = "csr is empty: send a PEM or DER PKCS #10 request"
UNPARSED = "csr does not parse as a PKCS #10 request: "
ASN1 = UNPARSED + "error parsing asn1 value: ParseError { kind: "
LABEL = "Valid PEM but no BEGIN CERTIFICATE REQUEST/END CERTIFICATE REQUEST delimiters. Are you sure this is a CSR?"
ARMOUR = (
    "Unable to load PEM file. See https://cryptography.io/en/latest/faq/#why-can-t-i-import-my-pem-file"
    " for more details. "
)
UNVERIFIED = "csr signature does not verify: it must be made with the private half of its own key"
SMALL_FACTOR = "csr key: the RSA modulus has a small prime factor: generate a new key"
IN_INFO = ' } }, location: ["Csr::csr_info", '
BAD_KEY = "csr key is not supported: "
BAD_ALGORITHM = "csr signature algorithm is not supported: Signature algorithm OID: "
USE = "is not supported: use P-256, P-384 or RSA of at least 2048 bits"


def unexpected_tag(value: int, tag_class: str, *, constructed: bool, rest: str = " } } }") -> str:
    form = "true" if constructed else "false"
    return f"{ASN1}UnexpectedTag {{ actual: Tag {{ value: {value}, constructed: {form}, class: {tag_class}{rest}"


# What is sent, and the whole message that answers it.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    # nothing, too much, not one
    "empty": (lambda: b"", EMPTY),
    "whitespace": (lambda: b" \n\t\r\n", EMPTY),
    "DER over the bound": (lambda: DER.ljust(16385, b"\0"), "csr is 16385 bytes long: at most 16384 are allowed"),
    "PEM over the bound": (lambda: PEM.ljust(16385, b"\n"), "csr is 16385 bytes long: at most 16384 are allowed"),
    "bomb of 1800 names": (lambda: BOMB, f"csr is {len(BOMB)} bytes long: at most 16384 are allowed"),
    "two requests": (lambda: PEM + PEM, "csr holds 2 PEM blocks: send exactly one"),
    "private key beside it": (lambda: private_key_pem() + PEM, "csr holds 2 PEM blocks: send exactly one"),
    "sixty begin lines": (lambda: b"-----BEGIN A-----\n" * 60, "csr holds 60 PEM blocks: send exactly one"),
    # PEM of something else, or no PEM
    "certificate": (lambda: pem(new_root().der, "CERTIFICATE"), UNPARSED + LABEL),
    "private key": (private_key_pem, UNPARSED + LABEL),
    "CSR with the label of a CRL": (lambda: pem(DER, "X509 CRL"), UNPARSED + LABEL),
    "lower-case label": (lambda: pem(DER, "certificate request"), UNPARSED + LABEL),
    "labels differ": (
        lambda: PEM.replace(b"END CERTIFICATE REQUEST", b"END CERTIFICATE"),
        UNPARSED + ARMOUR + 'MismatchedTags("CERTIFICATE REQUEST", "CERT',
    ),
    "PEM without its end": (lambda: PEM[:-30], UNPARSED + ARMOUR + "MalformedFraming"),
    "a begin line alone": (lambda: b"-----BEGIN CERTIFICATE REQUEST-----", UNPARSED + ARMOUR + "MalformedFraming"),
    "NUL in the base64": (
        lambda: PEM[:60] + b"\0" + PEM[60:],
        UNPARSED + ARMOUR + "InvalidData(Invalid symbol 0, offset 24.)",
    ),
    "NULs for line ends": (
        lambda: PEM.replace(b"\n", b"\0", 1),
        UNPARSED + ARMOUR + "InvalidData(Invalid symbol 0, offset 0.)",
    ),
    "base64 broken": (
        lambda: PEM.replace(b"M", b"!", 1),
        UNPARSED + ARMOUR + "InvalidData(Invalid symbol 33, offset 0.)",
    ),
    "nothing in the armour": (lambda: pem(b""), ASN1 + "ShortData { needed: 1 } }"),
    "text in the armour": (lambda: pem(b"hello world"), ASN1 + "ShortData { needed: 92 } }"),
    "PEM in the armour": (lambda: pem(PEM), unexpected_tag(13, "Universal", constructed=True)),
    "base64 without armour": (
        lambda: b"".join(PEM.splitlines()[1:-1]),
        unexpected_tag(13, "Application", constructed=False),
    ),
    "PEM as UTF-16": (lambda: PEM.decode().encode("utf-16-le"), unexpected_tag(13, "Universal", constructed=True)),
    # DER that is none, or of something else
    "NUL bytes": (lambda: bytes(100), unexpected_tag(0, "Universal", constructed=False)),
    "certificate as DER": (
        lambda: new_root().der,
        unexpected_tag(0, "ContextSpecific", constructed=True, rest=IN_INFO),
    ),
    "public key as DER": (lambda: SPKI, unexpected_tag(6, "Universal", constructed=False, rest=IN_INFO + '"Cert')),
    "last byte missing": (lambda: DER[:-1], ASN1 + "ShortData { needed: 1 } }"),
    "half of it": (lambda: DER[:100], f"{ASN1}ShortData {{ needed: {len(DER) - 100} }} }}"),
    "trailing byte": (lambda: DER + b"\0", ASN1 + "ExtraData }"),
    "two requests as DER": (lambda: DER + DER, ASN1 + "ExtraData }"),
    "trailing element inside": (lambda: forge(SPKI, signing(KEY), trailer=tlv(NULL)), ASN1 + "ExtraData }"),
    "indefinite length": (lambda: b"\x30\x80" + inside(DER) + b"\0\0", ASN1 + "InvalidLength }"),
    "length not minimal": (lambda: b"\x30\x83\0" + DER[2:], ASN1 + "InvalidLength }"),
    "length of 4 GiB": (
        lambda: b"\x30\x84\xff\xff\xff\xff" + inside(DER),
        f"{ASN1}ShortData {{ needed: {0xFFFFFFFF - len(inside(DER))} }} }}",
    ),
    "nested 4000 deep": (lambda: b"\x30\x80" * 4000, ASN1 + "InvalidLength }"),
    "version 2": (lambda: forge(SPKI, signing(KEY), version=1), UNPARSED + "1 is not a valid CSR version"),
    "no attributes field": (
        lambda: forge_signed(KEY, attributes=b""),
        ASN1 + 'ShortData { needed: 1 }, location: ["Csr::csr_info", "CertificationRequestInfo::attributes"] }',
    ),
    "attributes of another tag": (
        lambda: forge_signed(KEY, attributes=tlv(0xA1)),
        unexpected_tag(1, "ContextSpecific", constructed=True, rest=IN_INFO),
    ),
    "attributes that are no DER": (
        lambda: forge_signed(KEY, attributes=tlv(0xA0, b"\xff\xff")),
        ASN1 + 'ShortData { needed: 1 }, location: ["Csr::csr_info", "CertificationRequestInfo::attributes", 0] }',
    ),
    "subject with bytes no PrintableString has": (
        lambda: forge_signed(KEY, subject=named(PRINTABLE_STRING, b"\xff@*")),
        ASN1 + 'InvalidValue, location: [0, 0, "AttributeTypeValue::value", "AttributeValue::PrintableString"] }',
    ),
    # signatures
    "signature bit flipped": (lambda: DER[:-1] + bytes([DER[-1] ^ 1]), UNVERIFIED),
    "signed by another key": (lambda: forge(SPKI, signing(OTHER)), UNVERIFIED),
    "key exchanged after signing": (lambda: DER.replace(SPKI, OTHER_SPKI), UNVERIFIED),
    "signature empty": (lambda: with_signature(bit_string(b"")), UNVERIFIED),
    "signature with unused bits": (lambda: with_signature(tlv(BIT_STRING, b"\x07\x80")), UNVERIFIED),
    "signature no DER": (lambda: forge(SPKI, lambda _: b"abc"), UNVERIFIED),
    "signature of zeros": (lambda: forge(SPKI, lambda _: tlv(SEQUENCE, integer(0), integer(0))), UNVERIFIED),
    "signature missing": (with_signature, ASN1 + 'ShortData { needed: 1 }, location: ["Csr::signature"] }'),
    "ECDSA signature for an RSA key": (lambda: forge(RSA_SPKI, signing(KEY)), UNVERIFIED),
    "RSA signature for an EC key": (lambda: forge(SPKI, signing(RSA), algorithm=RSA_SHA256), UNVERIFIED),
    "SHA-1 with ECDSA": (
        lambda: forge(SPKI, signing(KEY, hashes.SHA1()), algorithm=ECDSA_SHA1),
        "csr signature uses sha1: use SHA-256, SHA-384 or SHA-512",
    ),
    "SHA-1 with RSA": (
        lambda: forge(RSA_SPKI, signing(RSA, hashes.SHA1()), algorithm=RSA_SHA1),
        "csr signature uses sha1: use SHA-256, SHA-384 or SHA-512",
    ),
    "MD5 with RSA": (
        lambda: forge(RSA_SPKI, signing(RSA, hashes.MD5()), algorithm=RSA_MD5),
        "csr signature uses md5: use SHA-256, SHA-384 or SHA-512",
    ),
    "SHA-224": (
        lambda: signed_as("1.2.840.10045.4.3.1", signing(KEY, hashes.SHA224())),
        "csr signature uses sha224: use SHA-256, SHA-384 or SHA-512",
    ),
    "SHA3-256": (
        lambda: signed_as("2.16.840.1.101.3.4.3.10", signing(KEY, hashes.SHA3_256())),
        "csr signature uses sha3-256: use SHA-256, SHA-384 or SHA-512",
    ),
    "HMAC": (
        lambda: signed_as("1.2.840.113549.2.9", signing(KEY)),
        BAD_ALGORITHM + "1.2.840.113549.2.9 not recognized",
    ),
    "algorithm unknown": (
        lambda: signed_as("1.3.6.1.4.1.99999.1", signing(KEY)),
        BAD_ALGORITHM + "1.3.6.1.4.1.99999.1 not recognized",
    ),
    # keys
    "RSA of 1024 bits": (
        lambda: forge_rsa(rsa_spki(modulus() >> 1024 | 1)),
        "key: RSA of 1024 bits is not supported: use 2048 to 8192 bits",
    ),
    "RSA of 2047 bits": (
        lambda: forge_rsa(rsa_spki(modulus() >> 1 | 1)),
        "key: RSA of 2047 bits is not supported: use 2048 to 8192 bits",
    ),
    "RSA of 8193 bits": (
        lambda: forge_rsa(rsa_spki(1 << 8192 | 1)),
        "key: RSA of 8193 bits is not supported: use 2048 to 8192 bits",
    ),
    "RSA exponent 1": (lambda: forge_rsa(rsa_spki(modulus(), 1)), BAD_KEY + "e must be >= 3 and < n."),
    "RSA exponent 3": (
        lambda: forge_rsa(rsa_spki(modulus(), 3)),
        "key: RSA public exponent 3 is not supported: use 65537",
    ),
    "RSA exponent even": (lambda: forge_rsa(rsa_spki(modulus(), 65538)), BAD_KEY + "e must be odd."),
    "RSA exponent of 65 bits": (
        lambda: forge_rsa(rsa_spki(modulus(), (1 << 64) + 1)),
        "key: RSA public exponent 18446744073709551617 is not supported: use 65537",
    ),
    "RSA modulus even": (lambda: forge_rsa(rsa_spki(modulus() - 1)), SMALL_FACTOR),
    "RSA modulus divisible by 3": (lambda: forge_rsa(rsa_spki(odd_multiple_of(3))), SMALL_FACTOR),
    "RSA modulus divisible by 751": (lambda: forge_rsa(rsa_spki(odd_multiple_of(751))), SMALL_FACTOR),
    "P-224": (lambda: on_curve(ec.SECP224R1()), "key: curve secp224r1 is not supported: use P-256 or P-384"),
    "secp256k1": (lambda: on_curve(ec.SECP256K1()), "key: curve secp256k1 is not supported: use P-256 or P-384"),
    "brainpool": (
        lambda: on_curve(ec.BrainpoolP256R1()),
        "key: curve brainpoolP256r1 is not supported: use P-256 or P-384",
    ),
    "curve unknown": (
        lambda: forge(ec_spki(b"\x04" + bytes(64), oid("1.3.6.1.4.1.99999.2"))),
        BAD_KEY + "Curve 1.3.6.1.4.1.99999.2 is not supported",
    ),
    "curve spelled out": (
        lambda: forge(ec_spki(b"\x04" + bytes(64), tlv(SEQUENCE, integer(1)))),
        ASN1 + 'ShortData { needed: 1 }, location: ["SubjectPublicKeyInfo::algorithm", "AlgorithmIdentifier::params",'
        ' "EcParameters',
    ),
    "point off the curve": (lambda: forge(ec_spki(b"\x04" + b"\1" * 64, P256_CURVE)), BAD_KEY + "Invalid key"),
    "point at infinity": (
        lambda: forge(ec_spki(b"\0", P256_CURVE)),
        BAD_KEY + "Cannot load an EC public key where the point is at infinity",
    ),
    "P-521": (
        lambda: good_der(key_of(KeyAlgorithm.P521)),
        "key: type p521 is not allowed here: use one of p256, p384, rsa",
    ),
    "Ed25519": (
        lambda: good_der(key_of(KeyAlgorithm.ED25519)),
        "key: type ed25519 is not allowed here: use one of p256, p384, rsa",
    ),
    "Ed448": (ed448_request, "key: type Ed448PublicKey " + USE),
    "X25519": (
        lambda: forge(spki_of(x25519.X25519PrivateKey.generate().public_key())),
        "key: type X25519PublicKey " + USE,
    ),
    "DSA": (dsa_request, "key: type DSAPublicKey " + USE),
    "key type unknown": (
        lambda: forge(tlv(SEQUENCE, tlv(SEQUENCE, oid("1.3.6.1.4.1.99999.3")), bit_string(b"abc"))),
        BAD_KEY + "Unknown key type: 1.3.6.1.4.1.99999.3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_these_words(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(MeshcaError) as refused:
        parse_csr(make(), DEFAULT_FAMILIES)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INVALID, "CSR_ERROR")
    assert refused.value.message == message


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "PEM": lambda: PEM,
    "DER": lambda: DER,
    "PEM with Windows line ends": lambda: PEM.replace(b"\n", b"\r\n"),
    "PEM with text around it": lambda: b"Certificate Request:\n Version: 1\n" + PEM + b"and a note",
    "PEM with the label of old tools": lambda: pem(DER, "NEW CERTIFICATE REQUEST"),
    "PEM with the NUL that C programs append": lambda: PEM + b"\0",
    "exactly as large as the bound": lambda: PEM.ljust(MAX_CSR_BYTES, b"\n"),
    "as many names as fit": lambda: with_names(800),
    "subject that is not UTF-8": lambda: forge_signed(KEY, subject=named(UTF8_STRING, b"\xff\xfe")),
    "extension twice": lambda: forge_signed(KEY, attributes=extension_request(san(b"a"), san(b"b"))),
    "extension request twice": lambda: forge_signed(
        KEY, attributes=tlv(0xA0, *[inside(extension_request(san(b"a")))] * 2)
    ),
    "extension that is no DER": lambda: forge_signed(
        KEY, attributes=extension_request(tlv(SEQUENCE, oid("2.5.29.17"), tlv(OCTET_STRING, b"\xff")))
    ),
    "compressed point": compressed_point,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_takes_the_key_and_looks_at_nothing_else(name: str) -> None:
    assert parse_csr(ACCEPTED[name](), DEFAULT_FAMILIES) == CertificateRequest(SPKI, KeyFamily.P256)


@pytest.mark.parametrize(
    ("algorithm", "family"),
    [
        (KeyAlgorithm.P256, KeyFamily.P256),
        (KeyAlgorithm.P384, KeyFamily.P384),
        (KeyAlgorithm.P521, KeyFamily.P521),
        (KeyAlgorithm.RSA2048, KeyFamily.RSA),
        (KeyAlgorithm.RSA3072, KeyFamily.RSA),
        (KeyAlgorithm.ED25519, KeyFamily.ED25519),
    ],
)
def test_accepts_each_family_only_where_it_is_allowed(algorithm: KeyAlgorithm, family: KeyFamily) -> None:
    key = key_of(algorithm)
    data = good_pem(key)
    assert parse_csr(data, frozenset({family})) == CertificateRequest(spki_of(key.public_key()), family)
    others = ", ".join(sorted(f.value for f in ALL_FAMILIES - {family}))
    with pytest.raises(MeshcaError) as refused:
        parse_csr(data, ALL_FAMILIES - {family})
    assert refused.value.message == f"key: type {family.value} is not allowed here: use one of {others}"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pss_request, id="RSASSA-PSS signature"),
        pytest.param(
            lambda: forge(rsa_spki(modulus(), algorithm=RSASSA_PSS), signing(RSA), algorithm=RSA_SHA256),
            id="RSASSA-PSS key",
        ),
    ],
)
def test_an_rsa_key_is_written_as_rsa_encryption_however_it_came(data: Callable[[], bytes]) -> None:
    assert parse_csr(data(), DEFAULT_FAMILIES) == CertificateRequest(RSA_SPKI, KeyFamily.RSA)


def parses_or_refuses(data: bytes) -> CertificateRequest | None:
    outcome = parsed(data)
    if isinstance(outcome, CertificateRequest):
        return outcome
    assert (outcome.kind, outcome.reason) == (ErrorKind.INVALID, "CSR_ERROR")
    assert len(outcome.message) < 300
    return None


def parsed(data: bytes) -> CertificateRequest | MeshcaError:
    try:
        return parse_csr(data, ALL_FAMILIES)
    except MeshcaError as error:
        return error


@given(st.binary(max_size=600))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert parses_or_refuses(data) is None


@given(st.binary(max_size=600), st.sampled_from(["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "CERTIFICATE", ""]))
def test_random_bytes_in_armour_are_refused(data: bytes, label: str) -> None:
    assert parses_or_refuses(pem(data, label)) is None


SEEDS = tuple(
    good_der(key_of(algorithm)) for algorithm in (KeyAlgorithm.P256, KeyAlgorithm.RSA2048, KeyAlgorithm.ED25519)
)
EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=4)


@given(st.sampled_from(SEEDS), EDITS, st.booleans())
def test_a_damaged_request_never_yields_another_key(
    seed: bytes, edits: list[tuple[int, int, int]], armoured: bool
) -> None:
    damaged = bytearray(seed)
    for position, edit, value in edits:
        index = position % len(damaged)
        damaged[index : index + min(edit, 2)] = bytes([value] * min(3 - edit, 2))
    data = bytes(damaged)
    request = parses_or_refuses(pem(data) if armoured else data)
    assert request is None or request.spki in seed


def test_every_flipped_bit_of_a_request_is_noticed() -> None:
    unused_bits = len(DER) - len(inside(elements(inside(DER))[2]))  # of the signature: only a form of the same value
    for index in (i for i in range(len(DER)) if i != unused_bits):
        for bit in range(8):
            damaged = DER[:index] + bytes([DER[index] ^ 1 << bit]) + DER[index + 1 :]
            assert parses_or_refuses(damaged) is None, f"bit {bit} of byte {index}"
