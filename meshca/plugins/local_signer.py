"""A signer whose private key is in this process's memory."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from meshca.errors import invalid
from meshca.pki.keys import KeyAlgorithm, PrivateKey, spki_der

_CURVES = {
    "secp256r1": (KeyAlgorithm.P256, ec.ECDSA(hashes.SHA256())),
    "secp384r1": (KeyAlgorithm.P384, ec.ECDSA(hashes.SHA384())),
    "secp521r1": (KeyAlgorithm.P521, ec.ECDSA(hashes.SHA512())),
}
_RSA_SIZES = {2048: KeyAlgorithm.RSA2048, 3072: KeyAlgorithm.RSA3072, 4096: KeyAlgorithm.RSA4096}


class LocalSigner:
    """`ports.Signer` over a private key object. Raises INVALID for a key that no `KeyAlgorithm` describes."""

    __slots__ = ("_key", "algorithm", "public_key_der")

    def __init__(self, key: object) -> None:
        self._key, self.algorithm = _recognise(key)
        self.public_key_der = spki_der(self._key.public_key())

    @property
    def blocks(self) -> bool:
        """True for RSA, which takes up to a millisecond and a half; elliptic curves take tens of microseconds."""
        return isinstance(self._key, rsa.RSAPrivateKey)

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`: ECDSA as a DER SEQUENCE, RSA as PKCS #1 v1.5 with SHA-256, Ed25519 raw."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data, _CURVES[self._key.curve.name][1])
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"LocalSigner({self.algorithm.value})"


def _recognise(key: object) -> tuple[PrivateKey, KeyAlgorithm]:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key, _CURVES[key.curve.name][0]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size in _RSA_SIZES:
        return key, _RSA_SIZES[key.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key, KeyAlgorithm.ED25519
    raise invalid(f"a private key of type {type(key).__name__} and this size cannot sign here")
