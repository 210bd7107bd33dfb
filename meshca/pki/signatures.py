"""Signature algorithms of certificates: one for each key algorithm (RFC 5758, RFC 4055, RFC 8410)."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import SignatureAlgorithmOID

from meshca.pki.keys import KeyAlgorithm


@asn1.sequence
class _AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier


@asn1.sequence
class _RsaAlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null  # RFC 4055 section 5: NULL for RSASSA-PKCS1-v1_5


def _encode(algorithm: KeyAlgorithm, oid: x509.ObjectIdentifier) -> bytes:
    if algorithm.value.startswith("rsa"):
        return asn1.encode_der(_RsaAlgorithmIdentifier(algorithm=oid, parameters=asn1.Null()))
    return asn1.encode_der(_AlgorithmIdentifier(algorithm=oid))


SIGNATURE_OIDS: dict[KeyAlgorithm, x509.ObjectIdentifier] = {
    KeyAlgorithm.P256: SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    KeyAlgorithm.P384: SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    KeyAlgorithm.P521: SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    KeyAlgorithm.RSA2048: SignatureAlgorithmOID.RSA_WITH_SHA256,
    KeyAlgorithm.RSA3072: SignatureAlgorithmOID.RSA_WITH_SHA256,
    KeyAlgorithm.RSA4096: SignatureAlgorithmOID.RSA_WITH_SHA256,
    KeyAlgorithm.ED25519: SignatureAlgorithmOID.ED25519,
}

# The DER AlgorithmIdentifier of the signatures that a key of each algorithm makes.
SIGNATURE_ALGORITHMS: dict[KeyAlgorithm, bytes] = {a: _encode(a, oid) for a, oid in SIGNATURE_OIDS.items()}
