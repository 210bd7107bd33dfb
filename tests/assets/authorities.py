"""Certificate authorities in memory, made by `meshca.pki` itself: a root, an issuing CA and their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from meshca.pki.certificates import IssuedCertificate, Issuer, PreparedCertificate
from meshca.pki.csr import CertificateRequest
from meshca.pki.keys import KeyAlgorithm, KeyFamily, PrivateKey, key_family
from meshca.pki.prepare import prepare_cross, prepare_issuer, prepare_root, serial_from, subject_key_identifier
from meshca.pki.sign import sign
from meshca.spiffe.ids import TrustDomain
from tests.assets.csrs import key_of
from tests.assets.der import spki_of

FOUNDED = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
MESH = TrustDomain("example.org")
ROOT_TTL, ISSUER_TTL = timedelta(days=3650), timedelta(days=30)

_HASHES = {KeyAlgorithm.P384: hashes.SHA384(), KeyAlgorithm.P521: hashes.SHA512()}


@dataclass(frozen=True)
class MemorySigner:
    """A private key as `ports.Signer`."""

    algorithm: KeyAlgorithm
    key: PrivateKey = field(repr=False)

    @property
    def public_key_der(self) -> bytes:
        return spki_of(self.key.public_key())

    @property
    def blocks(self) -> bool:
        return isinstance(self.key, rsa.RSAPrivateKey)

    def sign(self, data: bytes) -> bytes:
        digest = _HASHES.get(self.algorithm, hashes.SHA256())
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(data, ec.ECDSA(digest))
        return self.key.sign(data, padding.PKCS1v15(), digest)


@dataclass(frozen=True)
class MemoryCa:
    """A CA certificate with its key; `prepared` is what the certificate was signed from."""

    issuer: Issuer
    signer: MemorySigner
    prepared: PreparedCertificate

    @property
    def der(self) -> bytes:
        return self.issuer.certificate_der


def serial(number: int = 1) -> int:
    """A serial number that is as long as those in use."""
    return serial_from(number.to_bytes(20, "big"))


def signer_of(algorithm: KeyAlgorithm, index: int = 0) -> MemorySigner:
    """A signer whose key is made once in a test process."""
    return MemorySigner(algorithm, key_of(algorithm, index))


def new_root(
    algorithm: KeyAlgorithm = KeyAlgorithm.P256,
    *,
    now: datetime = FOUNDED,
    ttl: timedelta = ROOT_TTL,
    trust_domain: TrustDomain = MESH,
    signer: MemorySigner | None = None,
) -> MemoryCa:
    """A self-signed root."""
    signer = signer or signer_of(algorithm, 100)
    prepared = prepare_root(signer.public_key_der, algorithm, trust_domain, serial=serial(100), now=now, ttl=ttl)
    return _ca(prepared, sign(prepared, signer), signer)


def new_issuer(
    root: MemoryCa,
    algorithm: KeyAlgorithm = KeyAlgorithm.P256,
    *,
    now: datetime = FOUNDED,
    ttl: timedelta = ISSUER_TTL,
    trust_domain: TrustDomain = MESH,
    signer: MemorySigner | None = None,
) -> MemoryCa:
    """An issuing CA under `root`."""
    signer = signer or signer_of(algorithm, 200)
    prepared = prepare_issuer(signer.public_key_der, root.issuer, trust_domain, serial=serial(200), now=now, ttl=ttl)
    return _ca(prepared, sign(prepared, root.signer), signer)


def new_cross(root: MemoryCa, parent: MemoryCa, *, now: datetime = FOUNDED) -> IssuedCertificate:
    """A certificate of the name and key of `root` by `parent`."""
    prepared = prepare_cross(root.issuer, parent.issuer, MESH, serial=serial(300), now=now)
    return sign(prepared, parent.signer)


@cache
def standing_root(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> MemoryCa:
    """The root of that algorithm that every test of a process may share."""
    return new_root(algorithm)


@cache
def standing_issuer(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> MemoryCa:
    """The issuing CA under `standing_root`, with a key of the same algorithm."""
    return new_issuer(standing_root(algorithm), algorithm)


def request_for(key: PrivateKey) -> CertificateRequest:
    """What `parse_csr` gives for a good CSR of `key`."""
    public = key.public_key()
    return CertificateRequest(spki_of(public), key_family(public))


def leaf_family(algorithm: KeyAlgorithm) -> KeyFamily:
    """The family of the keys that `algorithm` makes."""
    return key_family(key_of(algorithm).public_key())


def _ca(prepared: PreparedCertificate, issued: IssuedCertificate, signer: MemorySigner) -> MemoryCa:
    authority_id = subject_key_identifier(prepared.spki).hex()
    return MemoryCa(Issuer(authority_id, signer.algorithm, issued.der), signer, prepared)
