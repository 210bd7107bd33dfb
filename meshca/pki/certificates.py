"""Prepared and issued certificates, and the issuer they are prepared for."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from meshca.pki.keys import KeyAlgorithm


class CertificateKind(Enum):
    """What a certificate is for; the value is what the ledger records."""

    LEAF = "leaf"
    SERVER = "server"
    ISSUER = "issuer"
    ROOT = "root"
    DOWNSTREAM = "downstream"  # the issuing CA of a server below this one
    CROSS = "cross"  # the name and key of one root, signed by another
    TRIAL = "trial"  # nobody gets it: it shows whether what an imported CA signs verifies


# What has a holder who relies on the trust bundle, or speaks for others who do.
HELD_KINDS = (CertificateKind.LEAF, CertificateKind.DOWNSTREAM)


@asn1.sequence
class Validity:
    """RFC 5280 section 4.1.2.5."""

    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class Extension:
    """RFC 5280 section 4.2."""

    extn_id: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    extn_value: bytes


@asn1.sequence
class TbsCertificate:
    """RFC 5280 section 4.1, version 3, without the unique identifiers that it forbids CAs to use."""

    version: Annotated[int, asn1.Explicit(0)]
    serial_number: int
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: Validity
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    extensions: Annotated[list[Extension], asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    tbs_certificate: asn1.TLV
    signature_algorithm: asn1.TLV
    signature: asn1.BitString


def extension(oid: x509.ObjectIdentifier, *, critical: bool, value: x509.ExtensionType) -> Extension:
    """An extension with its value encoded."""
    return Extension(extn_id=oid, critical=critical, extn_value=value.public_bytes())


def raw(der: bytes) -> asn1.TLV:
    """DER that goes into a structure as it is."""
    return asn1.decode_der(asn1.TLV, der)


def assemble(tbs: bytes, signature_algorithm: bytes, signature: bytes) -> bytes:
    """The DER certificate of its three parts (RFC 5280 section 4.1)."""
    return asn1.encode_der(
        _Certificate(
            tbs_certificate=raw(tbs),
            signature_algorithm=raw(signature_algorithm),
            signature=asn1.BitString(signature, 0),
        )
    )


@dataclass(frozen=True)
class Issuer:
    """A CA as others see it: its certificate, the chain to its root (without the root) and its authority id.

    `cross` is a certificate (DER) of that root's name and key which another root has signed, for those who trust only
    that one; empty for none. Everything that is the same in each certificate it signs is derived once.
    """

    authority_id: str
    algorithm: KeyAlgorithm
    certificate_der: bytes
    chain: tuple[bytes, ...] = ()
    cross: bytes = b""

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The CA certificate, parsed."""
        return x509.load_der_x509_certificate(self.certificate_der)

    @cached_property
    def name_der(self) -> bytes:
        """The subject, as the `issuer` field of what it signs."""
        return self.certificate.subject.public_bytes()

    @cached_property
    def name(self) -> asn1.TLV:
        """`name_der`, ready to go into a structure."""
        return raw(self.name_der)

    @cached_property
    def authority_key_identifier(self) -> Extension:
        """The authority key identifier extension of whatever it signs."""
        value = x509.AuthorityKeyIdentifier(self.key_identifier, None, None)
        return extension(ExtensionOID.AUTHORITY_KEY_IDENTIFIER, critical=False, value=value)

    @cached_property
    def key_identifier(self) -> bytes:
        """The subject key identifier, as the authority key identifier of what it signs."""
        ski = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return ski.value.digest

    @cached_property
    def not_before(self) -> datetime:
        """Start of validity, UTC."""
        return self.certificate.not_valid_before_utc

    @cached_property
    def not_after(self) -> datetime:
        """End of validity, UTC."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def path_for(self, end: datetime) -> tuple[bytes, ...]:
        """What goes with a certificate of this CA that ends then (DER): this one, those above it without the root, and
        the root's cross certificate if that lasts as long."""
        own = (self.certificate_der, *self.chain)
        return (*own, self.cross) if self._is_crossed_until(end) else own

    def pem_path_for(self, end: datetime) -> tuple[str, ...]:
        """`path_for`, one PEM block each."""
        return self._pem_crossed if self._is_crossed_until(end) else self.pem_chain

    def _is_crossed_until(self, end: datetime) -> bool:
        return bool(self.cross) and self._cross_ends >= end

    @cached_property
    def _cross_ends(self) -> datetime:
        return x509.load_der_x509_certificate(self.cross).not_valid_after_utc

    @cached_property
    def pem_chain(self) -> tuple[str, ...]:
        """This certificate and those above it (without the root), one PEM block each."""
        return tuple(der_to_pem(der) for der in (self.certificate_der, *self.chain))

    @cached_property
    def _pem_crossed(self) -> tuple[str, ...]:
        return (*self.pem_chain, der_to_pem(self.cross))


@dataclass(frozen=True, slots=True)
class PreparedCertificate:
    """The exact bytes that will be signed, and what the ledger must know of them."""

    kind: CertificateKind
    serial: int
    tbs: bytes
    signature_algorithm: bytes
    issuer_id: str
    spki: bytes
    not_before: datetime
    not_after: datetime

    @property
    def serial_hex(self) -> str:
        """The serial as the ledger writes it: lower-case hex."""
        return f"{self.serial:x}"

    def unsigned(self) -> x509.Certificate:
        """The certificate with an empty signature, so that it can be read and linted before it is signed."""
        return x509.load_der_x509_certificate(assemble(self.tbs, self.signature_algorithm, b""))


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A signed certificate (DER) and what it was prepared as."""

    der: bytes
    prepared: PreparedCertificate = field(repr=False)

    @property
    def pem(self) -> str:
        """The certificate as one PEM block."""
        return der_to_pem(self.der)


def der_to_pem(der: bytes) -> str:
    """One DER certificate as one PEM block with a trailing newline (RFC 7468 section 5)."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
