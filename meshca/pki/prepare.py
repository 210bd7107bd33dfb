"""Preparing certificates: every byte that will be signed, decided before anything is recorded or signed.

Follows RFC 5280 section 4 and X509-SVID sections 3 to 5.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from meshca.errors import MeshcaError, internal
from meshca.pki.certificates import (
    CertificateKind,
    Extension,
    Issuer,
    PreparedCertificate,
    TbsCertificate,
    Validity,
    extension,
    raw,
)
from meshca.pki.csr import CertificateRequest
from meshca.pki.keys import KeyAlgorithm, KeyFamily
from meshca.pki.profiles import Grant, IPAddress, IssuanceProfile, crl_address
from meshca.pki.signatures import SIGNATURE_ALGORITHMS
from meshca.spiffe.ids import SpiffeId, TrustDomain

SERIAL_BYTES = 20
_BELOW_CROSS = 1  # CAs between a cross certificate and a leaf
CA_BACKDATE = timedelta(minutes=1)  # of CA certificates, for skewed clocks
_RAW_ALGORITHMS = {der: raw(der) for der in SIGNATURE_ALGORITHMS.values()}
_SECOND = timedelta(seconds=1)
_GENERALIZED_FROM = datetime.fromisoformat("2050-01-01T00:00:00+00:00")


def serial_from(entropy: bytes) -> int:
    """A serial number of 158 random bits from 20 random bytes: always 20 octets, always positive."""
    if len(entropy) != SERIAL_BYTES:
        raise internal(f"a serial number takes {SERIAL_BYTES} random bytes, not {len(entropy)}")
    return int.from_bytes(entropy, "big") & ((1 << 158) - 1) | 1 << 158


def subject_key_identifier(spki: bytes) -> bytes:
    """The leftmost 160 bits of the SHA-256 of the public key's BIT STRING (RFC 7093 section 2, method 1)."""
    key_bits: bytes = asn1.decode_der(_Spki, spki).subject_public_key.as_bytes()
    return hashlib.sha256(key_bits).digest()[:20]


def prepare(
    request: CertificateRequest,
    grant: Grant,
    issuer: Issuer,
    profile: IssuanceProfile,
    *,
    serial: int,
    now: datetime,
    kind: CertificateKind = CertificateKind.LEAF,
) -> PreparedCertificate:
    """The leaf for `grant` and the request's key: an X509-SVID, its subject empty unless the profile names one.

    notAfter is `now + grant.ttl`, or the issuer's end if that comes first. Raises INTERNAL (reason `CERT_GEN_ERROR`)
    where the issuer has expired.
    """
    not_before, not_after = _leaf_validity(grant.ttl, issuer, profile, now)
    extensions = [
        _subject_alt_name(grant.subject, grant.dns_names, grant.ip_addresses, critical=not profile.organization),
        _LEAF_BASIC_CONSTRAINTS,
        _LEAF_KEY_USAGE[request.family],
        _LEAF_EXTENDED_KEY_USAGE,
        _subject_key_identifier(subject_key_identifier(request.spki)),
        issuer.authority_key_identifier,
        *((_distribution_point(crl_address(profile.crl_url, issuer.authority_id)),) if profile.crl_url else ()),
    ]
    return _prepared(
        kind=kind,
        serial=serial,
        signature_algorithm=SIGNATURE_ALGORITHMS[issuer.algorithm],
        issuer_name=issuer.name,
        issuer_id=issuer.authority_id,
        subject=_leaf_subject(profile.organization),
        spki=request.spki,
        not_before=not_before,
        not_after=not_after,
        extensions=extensions,
    )


def ca_subject(trust_domain: TrustDomain, kind: CertificateKind, key_identifier: bytes) -> x509.Name:
    """A CA's subject: unique for each key, so that no path builder ever mistakes one generation for another."""
    label = "Root CA" if kind is CertificateKind.ROOT else "Issuing CA"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"meshca {label}"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, key_identifier.hex()),
        ]
    )


def prepare_root(
    spki: bytes, algorithm: KeyAlgorithm, trust_domain: TrustDomain, *, serial: int, now: datetime, ttl: timedelta
) -> PreparedCertificate:
    """A self-signed root for a key of ours. `ttl` counts from `now`."""
    key_id = subject_key_identifier(spki)
    name = raw(ca_subject(trust_domain, CertificateKind.ROOT, key_id).public_bytes())
    return _prepared(
        kind=CertificateKind.ROOT,
        serial=serial,
        signature_algorithm=SIGNATURE_ALGORITHMS[algorithm],
        issuer_name=name,
        issuer_id=key_id.hex(),
        subject=name,
        spki=spki,
        not_before=_floor(now - CA_BACKDATE),
        not_after=_floor(now + ttl),
        extensions=_ca_extensions(trust_domain, key_id, _authority_key_identifier(key_id), path_length=None),
    )


def prepare_issuer(
    spki: bytes,
    parent: Issuer,
    trust_domain: TrustDomain,
    *,
    serial: int,
    now: datetime,
    ttl: timedelta,
    kind: CertificateKind = CertificateKind.ISSUER,
) -> PreparedCertificate:
    """An issuing CA under `parent`: it may sign leaves only. It never outlives `parent`.

    Raises INTERNAL (reason `CERT_GEN_ERROR`) where `parent` has expired.
    """
    not_after = min(_floor(now + ttl), parent.not_after)
    if not_after <= now:
        raise _expired(parent)
    key_id = subject_key_identifier(spki)
    return _prepared(
        kind=kind,
        serial=serial,
        signature_algorithm=SIGNATURE_ALGORITHMS[parent.algorithm],
        issuer_name=parent.name,
        issuer_id=parent.authority_id,
        subject=raw(ca_subject(trust_domain, CertificateKind.ISSUER, key_id).public_bytes()),
        spki=spki,
        not_before=max(_floor(now - CA_BACKDATE), parent.not_before),
        not_after=not_after,
        extensions=_ca_extensions(trust_domain, key_id, parent.authority_key_identifier, path_length=0),
    )


def prepare_cross(
    root: Issuer, parent: Issuer, trust_domain: TrustDomain, *, serial: int, now: datetime
) -> PreparedCertificate:
    """The name and key of `root`, for `parent` to sign: who trusts only `parent` finds a path through it. Below it
    there is room for one CA; it outlives neither of the two.

    Raises INTERNAL (reason `CERT_GEN_ERROR`) where one of them has expired.
    """
    not_after = min(root.not_after, parent.not_after)
    if not_after <= now:
        raise _expired(parent if parent.not_after <= now else root)
    return _prepared(
        kind=CertificateKind.CROSS,
        serial=serial,
        signature_algorithm=SIGNATURE_ALGORITHMS[parent.algorithm],
        issuer_name=parent.name,
        issuer_id=parent.authority_id,
        subject=root.name,
        spki=root.spki,
        not_before=max(_floor(now - CA_BACKDATE), root.not_before, parent.not_before),
        not_after=not_after,
        extensions=_ca_extensions(
            trust_domain, root.key_identifier, parent.authority_key_identifier, path_length=_BELOW_CROSS
        ),
    )


@asn1.sequence
class _Spki:
    algorithm: asn1.TLV
    subject_public_key: asn1.BitString


def _prepared(
    *,
    kind: CertificateKind,
    serial: int,
    signature_algorithm: bytes,
    issuer_name: asn1.TLV,
    issuer_id: str,
    subject: asn1.TLV,
    spki: bytes,
    not_before: datetime,
    not_after: datetime,
    extensions: list[Extension],
) -> PreparedCertificate:
    tbs = TbsCertificate(
        version=2,
        serial_number=serial,
        signature=_RAW_ALGORITHMS[signature_algorithm],
        issuer=issuer_name,
        validity=Validity(not_before=_time(not_before), not_after=_time(not_after)),
        subject=subject,
        subject_public_key_info=raw(spki),
        extensions=extensions,
    )
    return PreparedCertificate(
        kind, serial, asn1.encode_der(tbs), signature_algorithm, issuer_id, spki, not_before, not_after
    )


def _leaf_validity(
    ttl: timedelta, issuer: Issuer, profile: IssuanceProfile, now: datetime
) -> tuple[datetime, datetime]:
    """notBefore is set back for skewed clocks, but by a quarter of the lifetime at most: clients that renew at half of
    the validity window would otherwise find that moment already past."""
    not_after = min(_floor(now + ttl), issuer.not_after)
    if not_after <= now:
        raise _expired(issuer)
    backdate = min(profile.backdate, (not_after - now) / 4)
    not_before = min(_ceil(now - backdate), _floor(now))
    return max(not_before, issuer.not_before), not_after


def _expired(issuer: Issuer) -> MeshcaError:
    message = f"authority {issuer.authority_id} can sign no more: it expires at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}"
    return internal(message, reason="CERT_GEN_ERROR")


def _time(moment: datetime) -> asn1.UTCTime | asn1.GeneralizedTime:
    """RFC 5280 section 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050."""
    return asn1.GeneralizedTime(moment) if moment >= _GENERALIZED_FROM else asn1.UTCTime(moment)


def _floor(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _ceil(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + _SECOND


@lru_cache(maxsize=4096)
def _subject_alt_name(
    subject: SpiffeId, dns_names: tuple[str, ...], ip_addresses: tuple[IPAddress, ...], *, critical: bool
) -> Extension:
    """Critical where the subject is empty, and only there (RFC 5280 section 4.2.1.6). Workloads come back."""
    names = [
        x509.UniformResourceIdentifier(str(subject)),
        *(x509.DNSName(name) for name in dns_names),
        *(x509.IPAddress(address) for address in ip_addresses),
    ]
    san = x509.SubjectAlternativeName(names)
    return extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, critical=critical, value=san)


@lru_cache(maxsize=8)
def _leaf_subject(organization: str) -> asn1.TLV:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return raw(x509.Name(attributes).public_bytes())


@lru_cache(maxsize=64)
def _distribution_point(address: str) -> Extension:
    """RFC 5280 section 4.2.1.13: one point with a URI, for all reasons, its list signed by the issuer itself."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(address)], None, None, None)
    value = x509.CRLDistributionPoints([point])
    return extension(ExtensionOID.CRL_DISTRIBUTION_POINTS, critical=False, value=value)


def _subject_key_identifier(key_id: bytes) -> Extension:
    """An OCTET STRING of 20 bytes, written as it is: this is on the hot path."""
    return Extension(extn_id=ExtensionOID.SUBJECT_KEY_IDENTIFIER, critical=False, extn_value=b"\x04\x14" + key_id)


def _authority_key_identifier(key_id: bytes) -> Extension:
    value = x509.AuthorityKeyIdentifier(key_id, None, None)
    return extension(ExtensionOID.AUTHORITY_KEY_IDENTIFIER, critical=False, value=value)


def key_usage(*, key_encipherment: bool = False, ca: bool = False) -> x509.KeyUsage:
    """The key usage of a leaf (by its key type) or of a CA."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_extensions(
    trust_domain: TrustDomain, key_id: bytes, authority_key_id: Extension, *, path_length: int | None
) -> list[Extension]:
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])
    basic = x509.BasicConstraints(ca=True, path_length=path_length)
    return [
        extension(ExtensionOID.BASIC_CONSTRAINTS, critical=True, value=basic),
        extension(ExtensionOID.KEY_USAGE, critical=True, value=key_usage(ca=True)),
        extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, critical=False, value=uri),
        _subject_key_identifier(key_id),
        authority_key_id,
    ]


# What is the same in every leaf is encoded once.
_LEAF_BASIC_CONSTRAINTS = extension(
    ExtensionOID.BASIC_CONSTRAINTS, critical=True, value=x509.BasicConstraints(ca=False, path_length=None)
)
_LEAF_EXTENDED_KEY_USAGE = extension(
    ExtensionOID.EXTENDED_KEY_USAGE,
    critical=False,
    value=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
)
_LEAF_KEY_USAGE = {
    family: extension(ExtensionOID.KEY_USAGE, critical=True, value=key_usage(key_encipherment=family is KeyFamily.RSA))
    for family in KeyFamily
}
