"""Workload keys: made here, new for every request, never sent anywhere (law 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.pki.keys import KeyAlgorithm, PrivateKey, generate_private_key, spki_der


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new key and its request: `csr` is DER (PKCS #10), `spki` the DER public key, `private_key_pem` PKCS #8 PEM."""

    private_key_pem: bytes = field(repr=False)
    spki: bytes = field(repr=False)
    csr: bytes = field(repr=False)


def new_key_request(algorithm: KeyAlgorithm) -> KeyRequest:
    """A key nobody has seen and the request that proves its possession. The subject is empty: the CA decides names."""
    key = generate_private_key(algorithm)
    return KeyRequest(
        private_key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        spki=spki_der(key.public_key()),
        csr=_csr(key).public_bytes(Encoding.DER),
    )


def _csr(key: PrivateKey) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None)
    return builder.sign(key, SHA256())
