"""CAs that others made, with whatever others may do wrong: certificates by `cryptography`'s own builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.assets.authorities import FOUNDED

DAY = timedelta(days=1)
MESH_URI = x509.UniformResourceIdentifier("spiffe://example.org")


def subject(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def usage(*, sign: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(False, False, False, False, False, sign, True, False, False)


CA_USAGE = usage()


@dataclass(frozen=True)
class ForeignCa:
    """A certificate and its key, neither of them made by us."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        pem: bytes = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem


def foreign_ca(
    name: x509.Name,
    above: ForeignCa | None = None,
    *,
    key: Any = None,
    public_key: Any = None,
    ca: bool = True,
    path_length: int | None = None,
    critical: bool = True,
    key_usage: x509.KeyUsage | None = CA_USAGE,
    key_identifier: bool = True,
    uris: Sequence[str] = (),
    further: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: Any = None,
    since: datetime = FOUNDED - DAY,
    until: datetime = FOUNDED + 365 * DAY,
) -> ForeignCa:
    """A CA under `above`, or a root. `public_key` is for a key whose private half is elsewhere."""
    key = key or (None if public_key is not None else ec.generate_private_key(ec.SECP256R1()))
    public = public_key if public_key is not None else key.public_key()
    signer = key if above is None else above.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if above is None else above.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical)
    )
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if key_identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    if uris:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(san, critical=False)
    for value, is_critical in further:
        builder = builder.add_extension(value, is_critical)
    return ForeignCa(builder.sign(signer, digest or hashes.SHA256()), key)
