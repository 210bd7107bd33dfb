"""Certificate signing requests, good and bad. `good` uses cryptography's builder; `forge` writes each field by hand."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.pki.keys import KeyAlgorithm, PrivateKey, generate_private_key
from tests.assets.der import NULL, SEQUENCE, bit_string, integer, oid, spki_of, tlv

ECDSA_SHA1 = tlv(SEQUENCE, oid("1.2.840.10045.4.1"))
ECDSA_SHA256 = tlv(SEQUENCE, oid("1.2.840.10045.4.3.2"))
ECDSA_SHA384 = tlv(SEQUENCE, oid("1.2.840.10045.4.3.3"))
RSA_MD5 = tlv(SEQUENCE, oid("1.2.840.113549.1.1.4"), tlv(NULL))
RSA_SHA1 = tlv(SEQUENCE, oid("1.2.840.113549.1.1.5"), tlv(NULL))
RSA_SHA256 = tlv(SEQUENCE, oid("1.2.840.113549.1.1.11"), tlv(NULL))

Sign = Callable[[bytes], bytes]
Extensions = Sequence[tuple[x509.ExtensionType, bool]]


@cache
def key_of(algorithm: KeyAlgorithm, index: int = 0) -> PrivateKey:
    """A key that is made once in a test process: RSA keys take long. `index` tells several of a kind apart."""
    return generate_private_key(algorithm)


def signing(key: object, algorithm: hashes.HashAlgorithm | None = None) -> Sign:
    """How `key` signs, with SHA-256 unless told otherwise."""
    chosen = algorithm or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return lambda data: key.sign(data, ec.ECDSA(chosen))
    if isinstance(key, rsa.RSAPrivateKey):
        return lambda data: key.sign(data, padding.PKCS1v15(), chosen)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return key.sign


def good(
    key: PrivateKey,
    *,
    subject: x509.Name | None = None,
    extensions: Extensions = (),
) -> x509.CertificateSigningRequest:
    """A properly signed request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None)
    return builder.sign(key, hashes.SHA256())


def good_der(key: PrivateKey, *, subject: x509.Name | None = None, extensions: Extensions = ()) -> bytes:
    """A properly signed request as DER."""
    return good(key, subject=subject, extensions=extensions).public_bytes(Encoding.DER)


def good_pem(key: PrivateKey, *, subject: x509.Name | None = None, extensions: Extensions = ()) -> bytes:
    """A properly signed request as PEM."""
    return good(key, subject=subject, extensions=extensions).public_bytes(Encoding.PEM)


def pem(der: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    """DER in PEM armour, whatever the label claims."""
    body = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def forge(
    spki: bytes,
    sign: Sign = lambda _: b"\x30\x06\x02\x01\x01\x02\x01\x01",
    *,
    subject: bytes = b"\x30\x00",
    attributes: bytes = b"\xa0\x00",
    version: int = 0,
    algorithm: bytes = ECDSA_SHA256,
    trailer: bytes = b"",
) -> bytes:
    """A request whose fields are given as they stand on the wire; signed, by default, with nonsense."""
    info = tlv(SEQUENCE, integer(version), subject, spki, attributes)
    return tlv(SEQUENCE, info, algorithm, bit_string(sign(info)), trailer)


def forge_signed(key: PrivateKey, *, subject: bytes = b"\x30\x00", attributes: bytes = b"\xa0\x00") -> bytes:
    """A request with a P-256 key whose subject or attributes no builder would write, and a signature that verifies."""
    return forge(spki_of(key.public_key()), signing(key), subject=subject, attributes=attributes)


def extension_request(*extensions: bytes) -> bytes:
    """The attributes field with one extensionRequest (RFC 2985 section 5.4.2) of DER extensions."""
    return tlv(0xA0, tlv(SEQUENCE, oid("1.2.840.113549.1.9.14"), tlv(0x31, tlv(SEQUENCE, *extensions))))
