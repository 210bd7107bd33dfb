"""Trust bundles (SPIFFE Trust Domain and Bundle, sections 4 and 5)."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import invalid
from meshca.spiffe.ids import TrustDomain


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The certificates of one CA that are refused before their end: a CRL (DER), and DER certificates of the CA that
    signed it and of those above it, without the root. Nothing is checked here: see `spiffe.revocation_lists`."""

    crl: bytes
    issuers: tuple[bytes, ...]


@dataclass(frozen=True)
class TrustBundle:
    """The roots that vouch for one trust domain; never empty.

    `x509_authorities` are DER certificates, each a CA; `sequence` grows by one with each change of content;
    `refresh_hint` is in seconds. `revocation_lists` is empty, or has a list of every CA that signs leaves.
    Raises INVALID for an empty bundle or a certificate that is no CA.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...]
    sequence: int
    refresh_hint: int = 300
    revocation_lists: tuple[RevocationList, ...] = ()

    def __post_init__(self) -> None:
        if not self.x509_authorities:
            raise invalid(f"the trust bundle of {self.trust_domain} is empty, which would switch verification off")
        if len(set(self.x509_authorities)) != len(self.x509_authorities):
            raise invalid(f"the trust bundle of {self.trust_domain} holds the same certificate twice")
        for certificate in self.certificates:
            _check_is_ca(self.trust_domain, certificate)

    @cached_property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The authorities, parsed, in bundle order."""
        return tuple(_parse_der(der) for der in self.x509_authorities)

    @cached_property
    def pem(self) -> str:
        """All authorities as concatenated PEM."""
        return "".join(c.public_bytes(Encoding.PEM).decode("ascii") for c in self.certificates)


def crl_pem(lists: Iterable[RevocationList]) -> str:
    """Revocation lists as concatenated PEM (RFC 7468 section 6)."""
    return "".join(_pem_block(each.crl) for each in lists)


def _pem_block(crl: bytes) -> str:
    text = base64.b64encode(crl).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN X509 CRL-----", *lines, "-----END X509 CRL-----", ""))


def parse_bundle_pem(trust_domain: TrustDomain, pem: bytes, *, sequence: int = 0) -> TrustBundle:
    """The bundle that a PEM file holds; raises INVALID where it has no certificate or one that is no CA."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise invalid(f"trust bundle is not PEM certificates: {error}") from error
    ders = dict.fromkeys(c.public_bytes(Encoding.DER) for c in certificates)
    return TrustBundle(trust_domain, tuple(ders), sequence)


def _parse_der(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise invalid(f"trust bundle holds something that is no certificate: {error}") from error


def _check_is_ca(trust_domain: TrustDomain, certificate: x509.Certificate) -> None:
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise invalid(f"trust bundle of {trust_domain} holds a certificate with broken extensions: {error}") from error
    if not is_ca:
        serial = certificate.serial_number
        raise invalid(f"trust bundle of {trust_domain} holds certificate {serial:x}, which is no CA (cA is not true)")
