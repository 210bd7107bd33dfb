"""SVIDs and trust bundles into SDS secrets.

Envoy accepts secrets that fail every handshake (an expired leaf, a missing intermediate) or let everybody in (an empty
validation context), so all that is checked here; what passes cannot be NACKed for its content.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from meshca.errors import MeshcaError, internal, invalid
from meshca.pki.keys import key_family
from meshca.spiffe.bundles import TrustBundle, crl_pem
from meshca.spiffe.svids import X509Svid
from meshca.spiffe.verification import verify_x509_svid
from meshca.xds.snapshot import Resource, content_version

# The names that proxies ask for; Istio's and SPIRE's agents use the same.
CERTIFICATE_SECRET = "default"  # noqa: S105  # a resource's name
TRUST_SECRET = "ROOTCA"  # noqa: S105


def identity_secrets(svid: X509Svid, bundle: TrustBundle, now: datetime) -> tuple[Resource, ...]:
    """The Secrets with a TlsCertificate, under `default` and the SPIFFE id: the chain, leaf first, and the private key,
    encoded anew.

    `bundle` is the one that is served beside it. Raises INVALID, with no key material in the message, where at `now`
    the SVID is not what peers who trust `bundle` accept: an X509-SVID of its id (X509-SVID section 5), for servers and
    clients, with its own private key, each certificate of the chain signed by the next, and a path to the bundle.
    """
    key_pem = _verified_key(svid, bundle, now)
    return tuple(_identity(name, svid, key_pem) for name in (CERTIFICATE_SECRET, str(svid.spiffe_id)))


def bundle_secrets(bundle: TrustBundle) -> tuple[Resource, ...]:
    """The Secrets with a CertificateValidationContext that trusts all of `bundle` and nothing else, under `ROOTCA` and
    the trust domain's id; with its revocation lists, which Envoy is told to hold against leaves alone: it would
    otherwise want a list of every CA above them, too.

    They have no SAN matchers: Envoy adds those of a secret to those of its own configuration, so they could only widen
    what an operator admits. Raises INTERNAL rather than give an empty one, which would let everybody in.
    """
    if not bundle.x509_authorities:
        raise internal(f"the trust bundle of {bundle.trust_domain} is empty: it is not served")
    return tuple(_trust(name, bundle) for name in (TRUST_SECRET, str(bundle.trust_domain.id)))


def _trust(name: str, bundle: TrustBundle) -> Resource:
    trust = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=bundle.pem.encode("ascii")))
    lists = bundle.revocation_lists
    if lists:
        trust.crl.inline_bytes = crl_pem(lists).encode("ascii")
        trust.only_verify_leaf_cert_crl = True
    version = content_version(b"bundle", name.encode(), *bundle.x509_authorities, *(each.crl for each in lists))
    return _resource(version, Secret(name=name, validation_context=trust))


def _identity(name: str, svid: X509Svid, key_pem: bytes) -> Resource:
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=svid.chain_pem.encode("ascii")),
        private_key=DataSource(inline_bytes=key_pem),
    )
    # The key follows from the leaf, so the version, which is logged, need not be derived from a secret.
    version = content_version(b"identity", name.encode(), *svid.chain)
    return _resource(version, Secret(name=name, tls_certificate=certificate))


def _resource(version: str, secret: Secret) -> Resource:
    return Resource(secret.name, version, secret.SerializeToString(deterministic=True))


def _verified_key(svid: X509Svid, bundle: TrustBundle, now: datetime) -> bytes:
    """The private key as PKCS#8 PEM, once all of the SVID is checked."""
    _check_identity(svid, bundle, now)
    _check_purposes(svid)
    _check_order(svid)
    return _matching_key(svid)


def _check_identity(svid: X509Svid, bundle: TrustBundle, now: datetime) -> None:
    try:
        proven = verify_x509_svid(svid.chain, {bundle.trust_domain: bundle}, now=now)
    except MeshcaError as error:
        raise invalid(f"the SVID of {svid.spiffe_id} is not served: {error.message}") from error
    if proven != svid.spiffe_id:
        raise invalid(f"the SVID of {svid.spiffe_id} is not served: its certificate is of {proven}")


def _check_purposes(svid: X509Svid) -> None:
    """A sidecar is server and client with the same certificate, and Envoy lets each side find out in the handshake."""
    try:
        purposes = svid.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes):
        problem = "its extended key usage lacks serverAuth or clientAuth"
        raise invalid(f"the SVID of {svid.spiffe_id} is not served: {problem}")


def _check_order(svid: X509Svid) -> None:
    """Path building finds its way through any order; TLS peers want each certificate followed by its issuer."""
    for position, (certificate, issuer) in enumerate(zip(svid.certificates, svid.certificates[1:], strict=False)):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            problem = f"chain[{position + 1}] did not issue chain[{position}]: put the leaf first, then each issuer"
            raise invalid(f"the SVID of {svid.spiffe_id} is not served: {problem}") from error


def _matching_key(svid: X509Svid) -> bytes:
    """The private key, encoded by us: whatever else stood in the PEM stays behind."""
    family = key_family(svid.leaf.public_key())
    try:
        key = load_pem_private_key(svid.private_key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # not chained: what the parser says of a key is nobody's business
        problem = f"its private key is not unencrypted PKCS#8 PEM ({family.value} is expected)"
        raise invalid(f"the SVID of {svid.spiffe_id} is not served: {problem}") from None
    if key.public_key() != svid.leaf.public_key():
        raise invalid(f"the SVID of {svid.spiffe_id} is not served: its private key is not that of its certificate")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
