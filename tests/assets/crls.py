"""Bundles with revocation lists, and lists that are broken in one way each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.spiffe.bundles import RevocationList, TrustBundle
from tests.svids import TestCa

HOUR = timedelta(hours=1)


def a_list(
    issuer: TestCa,
    now: datetime,
    *serials: int,
    signer: TestCa | None = None,
    this_update: datetime | None = None,
    next_update: datetime | None = None,
    extra: Iterable[tuple[x509.ExtensionType, bool]] = (),
    certificate: TestCa | None = None,
) -> RevocationList:
    """The list of `issuer`; each further argument breaks one thing."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(this_update or now - HOUR).next_update(next_update or now + HOUR)
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    crl = builder.sign((signer or issuer).key, hashes.SHA256())
    return RevocationList(crl.public_bytes(Encoding.DER), ((certificate or issuer).der,))


def with_lists(bundle: TrustBundle, *lists: RevocationList, sequence: int | None = None) -> TrustBundle:
    """The bundle with these lists."""
    return replace(bundle, revocation_lists=lists, sequence=bundle.sequence if sequence is None else sequence)
