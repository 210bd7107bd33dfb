"""Trust bundles as SPIFFE bundle documents: JWK sets (SPIFFE Trust Domain and Bundle, section 4)."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshca.errors import internal
from meshca.spiffe.bundles import TrustBundle


def bundle_document(bundle: TrustBundle) -> str:
    """The bundle as indented JSON: a JWK for each X.509 authority, `use` x509-svid, one `x5c` each, no `kid`."""
    document = {
        "keys": [
            _x509_jwk(certificate, der)
            for certificate, der in zip(bundle.certificates, bundle.x509_authorities, strict=True)
        ],
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": bundle.refresh_hint,
    }
    return json.dumps(document, indent=2) + "\n"


def _x509_jwk(certificate: x509.Certificate, der: bytes) -> dict[str, Any]:
    return {**_public_jwk(certificate), "use": "x509-svid", "x5c": [base64.b64encode(der).decode("ascii")]}


def _public_jwk(certificate: x509.Certificate) -> dict[str, str]:
    """The key members of RFC 7518 section 6."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers, size = key.public_numbers(), (key.key_size + 7) // 8
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
        return {"kty": "EC", "crv": curve, "x": _b64(numbers.x, size), "y": _b64(numbers.y, size)}
    if isinstance(key, rsa.RSAPublicKey):
        rsa_numbers = key.public_numbers()
        return {"kty": "RSA", "n": _b64(rsa_numbers.n), "e": _b64(rsa_numbers.e)}
    raise internal(f"a root with a {type(key).__name__} has no JWK form here")


def _b64(number: int, size: int | None = None) -> str:
    raw = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
