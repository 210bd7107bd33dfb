"""JSON Web Key Sets (RFC 7517): the public keys that a token issuer signs with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import cast

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from meshca.errors import MeshcaError, invalid
from meshca.pki.keys import KeyFamily, PublicKey, key_family, spki_der
from meshca.tokens.json_objects import parse_json_object

MAX_JWKS_BYTES = 256 * 1024
MAX_KEYS = 100

# The signature algorithms that can be verified with a public key (RFC 7518 section 3.1, RFC 8037), and the key of each.
ALGORITHMS: dict[str, KeyFamily] = {
    "RS256": KeyFamily.RSA,
    "RS384": KeyFamily.RSA,
    "RS512": KeyFamily.RSA,
    "PS256": KeyFamily.RSA,
    "PS384": KeyFamily.RSA,
    "PS512": KeyFamily.RSA,
    "ES256": KeyFamily.P256,
    "ES384": KeyFamily.P384,
    "ES512": KeyFamily.P521,
    "EdDSA": KeyFamily.ED25519,
}

_READERS = {
    "RSA": (RSAAlgorithm.from_jwk, ("n", "e")),
    "EC": (ECAlgorithm.from_jwk, ("crv", "x", "y")),
    "OKP": (OKPAlgorithm.from_jwk, ("crv", "x")),
}
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth")


@dataclass(frozen=True, slots=True)
class JwksKey:
    """One public key. `algorithm` is what the set declares for it, if anything; `spki` is its DER form."""

    kid: str | None
    algorithm: str | None
    family: KeyFamily
    spki: bytes = field(repr=False)
    public_key: PublicKey = field(repr=False, compare=False)

    def fits(self, algorithm: str) -> bool:
        """Whether signatures of `algorithm` may be verified with it."""
        return ALGORITHMS.get(algorithm) is self.family and self.algorithm in (None, algorithm)


@dataclass(frozen=True, slots=True)
class JwksDocument:
    """A key set: at least one key, and the hex SHA-256 of the text it came from."""

    keys: tuple[JwksKey, ...]
    content_hash: str


class _UnusableError(Exception):
    """Why one key is passed over."""


def parse_jwks(data: bytes) -> JwksDocument:
    """The usable keys of a key set; keys of unknown or symmetric type, other use or too little strength are ignored.

    Raises INVALID where it is too large, no key set, holds private key material, or no key of it is usable.
    """
    if len(data) > MAX_JWKS_BYTES:
        raise invalid(f"key set: it is longer than {MAX_JWKS_BYTES} bytes")
    keys: dict[tuple[str | None, str | None, bytes], JwksKey] = {}
    ignored: list[str] = []
    for position, jwk in enumerate(_parse_members(data)):
        try:
            key = _parse_key(position, jwk)
        except _UnusableError as error:
            ignored.append(f"keys[{position}] {error}")
        else:
            keys.setdefault((key.kid, key.algorithm, key.spki), key)
    if not keys:
        raise invalid(f"key set: it has no usable key ({'; '.join(ignored[:5]) or 'keys is empty'})")
    return JwksDocument(tuple(keys.values()), hashlib.sha256(data).hexdigest())


def _parse_members(data: bytes) -> list[object]:
    try:
        document = parse_json_object(data)
    except ValueError as error:
        raise invalid(f"key set: it is {error}") from error
    members = document.get("keys")
    if not isinstance(members, list):
        raise invalid("key set: it has no list 'keys' (RFC 7517 section 5)")
    if len(members) > MAX_KEYS:
        raise invalid(f"key set: it has {len(members)} keys: at most {MAX_KEYS} are read")
    return cast("list[object]", members)


def _parse_key(position: int, jwk: object) -> JwksKey:
    if not isinstance(jwk, dict):
        raise _UnusableError("is no object")
    if jwk.get("kty") == "oct":
        raise _UnusableError("is symmetric")
    _refuse_private(position, jwk)
    _check_purpose(jwk)
    kid, algorithm = _text(jwk, "kid"), _text(jwk, "alg")
    public_key, family = _read_public_key(jwk)
    if algorithm is not None and ALGORITHMS.get(algorithm) is not family:
        raise _UnusableError("declares an 'alg' that is unknown or not for its type")
    return JwksKey(kid, algorithm, family, spki_der(public_key), public_key)


def _refuse_private(position: int, jwk: dict[str, object]) -> None:
    for member in _PRIVATE_MEMBERS:
        if member in jwk:
            raise invalid(
                f"key set: keys[{position}] holds the private member {member!r}: that key is no secret any more;"
                " replace it and publish public keys only"
            )


def _check_purpose(jwk: dict[str, object]) -> None:
    """RFC 7517 sections 4.2 and 4.3."""
    if jwk.get("use", "sig") != "sig":
        raise _UnusableError("is not for signatures ('use')")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableError("is not for verifying ('key_ops')")


def _text(jwk: dict[str, object], member: str) -> str | None:
    value = jwk.get(member)
    if value is not None and not isinstance(value, str):
        raise _UnusableError(f"has a {member!r} that is no string")
    return value


def _read_public_key(jwk: dict[str, object]) -> tuple[PublicKey, KeyFamily]:
    kty = _text(jwk, "kty")
    if kty not in _READERS:
        raise _UnusableError("is of a type that is not supported ('kty')")
    read, members = _READERS[kty]
    for member in members:
        if _text(jwk, member) is None:
            raise _UnusableError(f"lacks {member!r}")
    try:
        key = read(jwk)
        return cast("PublicKey", key), key_family(key)
    except (InvalidKeyError, ValueError) as error:
        # without the library's words: they may quote the whole key
        raise _UnusableError("does not parse") from error
    except MeshcaError as error:
        raise _UnusableError(f"is not admitted: {error.message}") from error
