"""Key algorithms: what may sign, what may be certified, and how each signs."""

from __future__ import annotations

import hashlib
from enum import Enum

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.errors import invalid, unreachable

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192


class KeyAlgorithm(Enum):
    """Key types, by the names that configuration and commands use."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    ED25519 = "ed25519"


CA_ALGORITHMS = (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA3072, KeyAlgorithm.RSA4096)


class KeyFamily(Enum):
    """Families of workload keys that a profile may admit."""

    RSA = "rsa"  # 2048 bits or more
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"  # Envoy refuses these leaves unless told otherwise
    ED25519 = "ed25519"  # likewise


DEFAULT_FAMILIES = frozenset({KeyFamily.RSA, KeyFamily.P256, KeyFamily.P384})

_CURVES: dict[str, KeyFamily] = {"secp256r1": KeyFamily.P256, "secp384r1": KeyFamily.P384, "secp521r1": KeyFamily.P521}


def generate_private_key(algorithm: KeyAlgorithm) -> PrivateKey:
    """A new private key of that algorithm."""
    match algorithm:
        case KeyAlgorithm.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyAlgorithm.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyAlgorithm.P521:
            return ec.generate_private_key(ec.SECP521R1())
        case KeyAlgorithm.RSA2048 | KeyAlgorithm.RSA3072 | KeyAlgorithm.RSA4096:
            return rsa.generate_private_key(65537, int(algorithm.value.removeprefix("rsa")))
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            unreachable(algorithm)


def key_family(key: object) -> KeyFamily:
    """The family of a public key. Raises INVALID for a type, curve or size that no configuration can admit."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        family = _CURVES.get(key.curve.name)
        if family is None:
            raise invalid(f"key: curve {key.curve.name} is not supported: use P-256 or P-384")
        return family
    if isinstance(key, rsa.RSAPublicKey):
        return _rsa_family(key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyFamily.ED25519
    raise invalid(f"key: type {type(key).__name__} is not supported: use P-256, P-384 or RSA of at least 2048 bits")


def check_family(key: object, allowed: frozenset[KeyFamily]) -> KeyFamily:
    """The family of `key` if it is allowed; raises INVALID with the allowed ones named."""
    family = key_family(key)
    if family not in allowed:
        names = ", ".join(sorted(f.value for f in allowed))
        raise invalid(f"key: type {family.value} is not allowed here: use one of {names}")
    return family


def spki_der(key: PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(spki: bytes) -> str:
    """The hex SHA-256 of a DER SubjectPublicKeyInfo."""
    return hashlib.sha256(spki).hexdigest()


def _rsa_family(key: rsa.RSAPublicKey) -> KeyFamily:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise invalid(f"key: RSA of {key.key_size} bits is not supported: use {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    exponent = key.public_numbers().e
    if exponent < 65537 or exponent % 2 == 0 or exponent.bit_length() > 64:
        raise invalid(f"key: RSA public exponent {exponent} is not supported: use 65537")
    return KeyFamily.RSA
