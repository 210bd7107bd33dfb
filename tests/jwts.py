"""Token issuers for tests, honest and not: tokens are put together by hand, so that anything can be wrong in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from meshca.pki.keys import PrivateKey
from meshca.tokens.jwks import JwksDocument, parse_jwks

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
EPOCH = int(NOW.timestamp())
ISSUER = "https://issuer.example"
AUDIENCE = "meshca"
SUBJECT = "system:serviceaccount:shop:cart"

_ALGORITHMS = get_default_algorithms()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: PrivateKey, **members: object) -> dict[str, Any]:
    """The JWK of a private key's public half."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return {**jwk, **members}


def key_set(*jwks: Mapping[str, object]) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def document(*jwks: Mapping[str, object]) -> JwksDocument:
    return parse_jwks(key_set(*jwks))


def claims(**changes: object) -> dict[str, object]:
    """Claims that are fine at NOW, with changes; a change to None takes the claim away."""
    fine = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": EPOCH + 600, "iat": EPOCH - 60, "nbf": EPOCH - 60}
    return {name: value for name, value in {**fine, **changes}.items() if value is not None}


def compact(header: object, payload: object, key: Any = None, *, alg: str = "ES256") -> str:
    """A compact JWS of any header and payload (JSON values, or bytes as they are); signed where a key is given."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, payload)]
    signing_input = ".".join(parts)
    signature = b"" if key is None else _ALGORITHMS[alg].sign(signing_input.encode(), key)
    return f"{signing_input}.{b64(signature)}"


def token(key: PrivateKey, kid: str | None = "k1", *, alg: str = "ES256", **changes: object) -> str:
    """A token that is fine at NOW but for the changes to its claims."""
    header = {"alg": alg, "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    return compact(header, claims(**changes), key, alg=alg)
