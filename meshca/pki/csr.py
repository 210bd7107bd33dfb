"""Certificate signing requests (RFC 2986): what is taken from them, and what makes one unacceptable."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshca.errors import MeshcaError, invalid
from meshca.pki.keys import KeyFamily, PublicKey, check_family, spki_der

MAX_CSR_BYTES = 16 * 1024
REASON = "CSR_ERROR"

_PEM_BEGIN = b"-----BEGIN "
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_SMALL_PRIMES = prod(n for n in range(3, 752, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2)))


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """All that is taken from a CSR: its public key, whose private half the sender has shown to hold.

    `spki` is the DER SubjectPublicKeyInfo, encoded by us.
    """

    spki: bytes
    family: KeyFamily


def parse_csr(data: bytes, allowed: frozenset[KeyFamily]) -> CertificateRequest:
    """The request in `data` (PEM or DER), its self-signature and its key checked.

    Raises INVALID (reason `CSR_ERROR`) where it is too large, not exactly one CSR, its signature does not verify, its
    signature hash is weaker than SHA-256, or its key is not of an allowed family.
    """
    try:
        return _parse(data, allowed)
    except MeshcaError as error:
        error.reason = REASON
        raise


def _parse(data: bytes, allowed: frozenset[KeyFamily]) -> CertificateRequest:
    if not data.strip():
        raise invalid("csr is empty: send a PEM or DER PKCS #10 request")
    if len(data) > MAX_CSR_BYTES:
        raise invalid(f"csr is {len(data)} bytes long: at most {MAX_CSR_BYTES} are allowed")
    csr = _load(data)
    key, family = _public_key(csr, allowed)
    _check_signature(csr, key)
    return CertificateRequest(spki_der(key), family)


def _load(data: bytes) -> x509.CertificateSigningRequest:
    blocks = data.count(_PEM_BEGIN)
    if blocks > 1:
        raise invalid(f"csr holds {blocks} PEM blocks: send exactly one")
    try:
        return x509.load_pem_x509_csr(data) if blocks else x509.load_der_x509_csr(data)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise invalid(f"csr does not parse as a PKCS #10 request: {_brief(error)}") from error


def _public_key(csr: x509.CertificateSigningRequest, allowed: frozenset[KeyFamily]) -> tuple[PublicKey, KeyFamily]:
    try:
        key = csr.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise invalid(f"csr key is not supported: {_brief(error)}") from error
    family = check_family(key, allowed)
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa_modulus(key)
    return key, family  # type: ignore[return-value]  # check_family has admitted only these types


def _check_rsa_modulus(key: rsa.RSAPublicKey) -> None:
    modulus = key.public_numbers().n
    if modulus % 2 == 0 or gcd(modulus, _SMALL_PRIMES) != 1:
        raise invalid("csr key: the RSA modulus has a small prime factor: generate a new key")


def _check_signature(csr: x509.CertificateSigningRequest, key: PublicKey) -> None:
    try:
        algorithm = csr.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, _HASHES):
            raise invalid(f"csr signature uses {algorithm.name}: use SHA-256, SHA-384 or SHA-512")
        verified = _is_signed_by(csr, key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise invalid(f"csr signature algorithm is not supported: {_brief(error)}") from error
    if not verified:
        raise invalid("csr signature does not verify: it must be made with the private half of its own key")


def _is_signed_by(csr: x509.CertificateSigningRequest, key: PublicKey) -> bool:
    """`csr.is_signature_valid`, but for EC keys (the hot path) with the key that is loaded already."""
    parameters = csr.signature_algorithm_parameters
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(parameters, ec.ECDSA):
        return csr.is_signature_valid
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes, parameters)
    except InvalidSignature:
        return False
    return True


def _brief(error: Exception) -> str:
    """A library's words, kept short: they may quote what the peer sent."""
    return " ".join(str(error).split())[:160] or type(error).__name__
