"""X509-SVID verification (X509-SVID section 5; RFC 5280 section 6).

`cryptography` builds and checks the path; SPIFFE's own rules stand here. Every refusal is UNAUTHENTICATED.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from meshca.errors import MeshcaError, unauthenticated
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId, TrustDomain, parse_workload_id

MAX_CHAIN_CERTIFICATES = 8
MAX_CERTIFICATE_BYTES = 16 * 1024

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)

# What reading a certificate and its fields may raise; the others are no ValueErrors.
_BROKEN = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)

# WebPKI asks more of a leaf than SPIFFE: an authority key identifier, and a critical SAN only where the subject is
# empty. Istio's own leaves have a critical SAN beside a subject. What SPIFFE does ask of the SAN is checked here.
_LEAF_POLICY = (
    ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
    .may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
)
_CA_POLICY = ExtensionPolicy.webpki_defaults_ca()


@dataclass(frozen=True, slots=True)
class SvidPath:
    """A verified SVID and the path that vouches for it: the leaf first, the trust anchor last."""

    id: SpiffeId
    certificates: tuple[x509.Certificate, ...]

    @property
    def serial(self) -> int:
        """The leaf's serial number."""
        return self.certificates[0].serial_number

    @property
    def not_before(self) -> datetime:
        """When the last certificate of the path became valid."""
        return max(c.not_valid_before_utc for c in self.certificates)

    @property
    def not_after(self) -> datetime:
        """When the first certificate of the path ceases to be valid; that second is the last valid one."""
        return min(c.not_valid_after_utc for c in self.certificates)


def verify_x509_svid(chain: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], *, now: datetime) -> SpiffeId:
    """The identity that `chain` (DER, leaf first, roots optional) proves at `now`.

    Raises UNAUTHENTICATED, with the precise reason, for whatever X509-SVID section 5 does not accept.
    """
    return verify_x509_path(chain, bundles, now=now).id


def verify_x509_path(chain: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], *, now: datetime) -> SvidPath:
    """As `verify_x509_svid`, with the path that was found.

    The bundle is that of the SVID's own trust domain and no other: roots are never pooled.
    """
    leaf, *intermediates = _parse_chain(chain)
    spiffe_id = _read_leaf(leaf, now)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise unauthenticated(f"certificate: no trust bundle for its trust domain {spiffe_id.trust_domain}")
    return SvidPath(spiffe_id, _find_path(leaf, intermediates, bundle, now))


def _parse_chain(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not chain:
        raise unauthenticated("certificate: the chain is empty")
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise unauthenticated(
            f"certificate: the chain has {len(chain)} certificates: at most {MAX_CHAIN_CERTIFICATES} are read"
        )
    return [_parse_der(position, der) for position, der in enumerate(chain)]


def _parse_der(position: int, der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise unauthenticated(
            f"certificate: chain[{position}] is {len(der)} bytes long: at most {MAX_CERTIFICATE_BYTES} are read"
        )
    try:
        return x509.load_der_x509_certificate(der)
    except _BROKEN as error:
        raise unauthenticated(f"certificate: chain[{position}] is not a DER certificate") from error


def _read_leaf(leaf: x509.Certificate, now: datetime) -> SpiffeId:
    try:
        spiffe_id = _read_id(leaf)
        _check_usage(leaf)
        _check_validity(leaf, now)
    except _BROKEN as error:
        raise unauthenticated("certificate: a field or extension of it cannot be read") from error
    return spiffe_id


def _read_id(leaf: x509.Certificate) -> SpiffeId:
    """X509-SVID section 5.2: exactly one URI SAN, a SPIFFE id with a path."""
    san = _extension(leaf, x509.SubjectAlternativeName)
    uris = san.value.get_values_for_type(x509.UniformResourceIdentifier) if san else []
    if san is None or len(uris) != 1:
        raise unauthenticated(f"certificate: it has {len(uris)} URI SANs: an SVID has exactly one")
    if not san.critical and not list(leaf.subject):
        raise unauthenticated("certificate: its subject is empty, but its subject alternative name is not critical")
    try:
        return parse_workload_id(uris[0])
    except MeshcaError as error:
        raise unauthenticated(f"certificate: its URI SAN is no workload's SPIFFE id: {error.message}") from error


def _check_usage(leaf: x509.Certificate) -> None:
    """X509-SVID sections 4.1, 4.3 and 5.1: a leaf that may sign handshakes and nothing else."""
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise unauthenticated("certificate: it is a CA certificate, which must not authenticate")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None:
        raise unauthenticated("certificate: it has no key usage")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise unauthenticated("certificate: its key usage has keyCertSign or cRLSign, which only a CA may have")
    if not usage.value.digital_signature:
        raise unauthenticated("certificate: its key usage lacks digitalSignature")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes.value:
        raise unauthenticated("certificate: its extended key usage lacks clientAuth")


def _check_validity(leaf: x509.Certificate, now: datetime) -> None:
    if now < leaf.not_valid_before_utc:
        raise unauthenticated(f"certificate: it is not valid before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    # notAfter names a whole second, which still belongs to the validity (RFC 5280 section 4.1.2.5)
    if now.replace(microsecond=0) > leaf.not_valid_after_utc:
        raise unauthenticated(f"certificate: it expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


def _find_path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], bundle: TrustBundle, now: datetime
) -> tuple[x509.Certificate, ...]:
    """RFC 5280 section 6.1, from the leaf to one of the bundle's authorities."""
    verifier = (
        PolicyBuilder()
        .store(Store(list(bundle.certificates)))
        .time(now.astimezone(UTC))
        .max_chain_depth(MAX_CHAIN_CERTIFICATES - 1)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        return tuple(verifier.verify(leaf, intermediates).chain)
    except (VerificationError, *_BROKEN) as error:
        raise unauthenticated(
            f"certificate: no valid path to a root of {bundle.trust_domain} (bundle {bundle.sequence}): {error}"
        ) from error


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> x509.Extension[_Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
