"""Certificates for tests, good and bad, made with `cryptography`'s builder and nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshca.pki.keys import PrivateKey
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import TrustDomain

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BOTH_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

Extensions = Sequence[tuple[x509.ExtensionType, bool]]


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in names for usage in _USAGES})


def uris(*values: str) -> tuple[x509.GeneralName, ...]:
    return tuple(x509.UniformResourceIdentifier(value) for value in values)


def common_name(value: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)] if value else [])


@dataclass(frozen=True)
class TestCa:
    """A CA certificate with its key, and what it takes to issue below it."""

    __test__ = False  # a name that pytest would otherwise collect

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        subject: str,
        public_key: object,
        extensions: Extensions,
        *,
        not_before: datetime = NOW - DAY,
        not_after: datetime = NOW + DAY,
    ) -> x509.Certificate:
        return _sign(subject, public_key, self.certificate.subject, self.key, extensions, not_before, not_after)

    def intermediate(
        self,
        name: str,
        *,
        ca: bool = True,
        path_length: int | None = None,
        usages: Sequence[str] = ("key_cert_sign", "crl_sign"),
        not_before: datetime = NOW - 10 * DAY,
        not_after: datetime = NOW + 10 * DAY,
    ) -> TestCa:
        key = new_key()
        extensions: Extensions = [
            (x509.BasicConstraints(ca=ca, path_length=path_length), True),
            (key_usage(*usages), True),
        ]
        certificate = self.issue(name, key.public_key(), extensions, not_before=not_before, not_after=not_after)
        return TestCa(certificate, key)

    def svid(
        self,
        *names: x509.GeneralName,
        subject: str = "",
        san_critical: bool = True,
        ca: bool | None = False,
        usages: Sequence[str] | None = ("digital_signature",),
        purposes: Sequence[x509.ObjectIdentifier] | None = BOTH_PURPOSES,
        authority_key_id: bool = True,
        extra: Extensions = (),
        key: PrivateKey | None = None,
        not_before: datetime = NOW - DAY,
        not_after: datetime = NOW + DAY,
    ) -> bytes:
        """A leaf's DER; each argument breaks one thing."""
        extensions: list[tuple[x509.ExtensionType, bool]] = [*extra]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), san_critical))
        if ca is not None:
            extensions.append((x509.BasicConstraints(ca=ca, path_length=None), True))
        if usages is not None:
            extensions.append((key_usage(*usages), True))
        if purposes is not None:
            extensions.append((x509.ExtendedKeyUsage(purposes), False))
        if authority_key_id:
            issuer_key = self.certificate.public_key()
            assert isinstance(issuer_key, ec.EllipticCurvePublicKey)
            extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False))
        public_key = (key or new_key()).public_key()
        leaf = self.issue(subject, public_key, extensions, not_before=not_before, not_after=not_after)
        return leaf.public_bytes(Encoding.DER)


def new_root(
    name: str = "root", *, not_before: datetime = NOW - 100 * DAY, not_after: datetime = NOW + 100 * DAY
) -> TestCa:
    key = new_key()
    extensions: Extensions = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    certificate = _sign(name, key.public_key(), common_name(name), key, extensions, not_before, not_after)
    return TestCa(certificate, key)


def bundle_of(trust_domain: str, *roots: TestCa, sequence: int = 1) -> TrustBundle:
    return TrustBundle(TrustDomain(trust_domain), tuple(root.der for root in roots), sequence)


def _sign(
    subject: str,
    public_key: object,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    extensions: Extensions,
    not_before: datetime,
    not_after: datetime,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(subject))
        .issuer_name(issuer)
        .public_key(public_key)  # type: ignore[arg-type]  # any public key; the builder checks
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())
