"""Signing what was prepared, linted and recorded, and checking that nothing else came out."""

from __future__ import annotations

from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from meshca.errors import internal
from meshca.pki.certificates import IssuedCertificate, Issuer, PreparedCertificate, assemble


class SigningKey(Protocol):
    """What signs: `ports.Signer`, as far as this room needs it."""

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`, as X.509 carries it."""
        ...


def sign(prepared: PreparedCertificate, key: SigningKey) -> IssuedCertificate:
    """The certificate. Raises INTERNAL (reason `CERT_GEN_ERROR`) where its signed bytes are not the prepared ones."""
    der = assemble(prepared.tbs, prepared.signature_algorithm, key.sign(prepared.tbs))
    if not _holds(der, prepared) or not x509.load_der_x509_certificate(der).signature:
        raise internal("the signed certificate is not the prepared one; it was not given out", reason="CERT_GEN_ERROR")
    return IssuedCertificate(der, prepared)


def _holds(der: bytes, prepared: PreparedCertificate) -> bool:
    """Whether the certificate begins with the prepared bytes: behind a header of four octets, as any certificate of
    256 to 65,535 octets has it, and no other is ours."""
    return der[:2] == b"\x30\x82" and der.startswith(prepared.tbs, 4)


def verify_issued(issued: IssuedCertificate, issuer: Issuer) -> None:
    """Checks the signature with the issuer's public key; for CA certificates, where its cost does not matter.

    Raises INTERNAL (reason `CERT_GEN_ERROR`) where it does not verify.
    """
    try:
        x509.load_der_x509_certificate(issued.der).verify_directly_issued_by(issuer.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        message = f"certificate {issued.prepared.serial_hex} does not verify under its issuer: {error!r}"
        raise internal(message, reason="CERT_GEN_ERROR") from error
