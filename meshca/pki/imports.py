"""Checking CA certificates that others signed: a root, and an issuing CA with the chain to its root.

RFC 5280 section 6.1 and X509-SVID section 4, as far as they speak of CAs. What a relying party would refuse later is
refused here, with the certificate named and what mends it. Every refusal is INVALID.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.errors import MeshcaError, invalid
from meshca.pki.keys import DEFAULT_FAMILIES, check_family
from meshca.pki.prepare import subject_key_identifier
from meshca.spiffe.ids import TrustDomain

MAX_PEM_BYTES = 128 * 1024
MAX_CERTIFICATES = 8

_LABEL = re.compile(rb"-----BEGIN ([^\r\n-]{1,40})-----")
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_BROKEN = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_PURPOSES = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What is demanded: CAs of that trust domain (or of none), valid at `now`, the issuing CA for `min_life` more."""

    trust_domain: TrustDomain
    now: datetime
    min_life: timedelta


@dataclass(frozen=True, slots=True)
class CaChain:
    """A checked issuing CA, what stands between it and its root, and the root."""

    issuer: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The intermediates, DER, from the issuing CA upwards."""
        return tuple(der_of(certificate) for certificate in self.intermediates)


def parse_certificates(pem: bytes, source: str) -> tuple[x509.Certificate, ...]:
    """The certificates in `pem`, in order, doubles left out. `source` names it in what is refused: anything but one to
    eight certificates."""
    if len(pem) > MAX_PEM_BYTES:
        raise invalid(f"{source} is {len(pem)} bytes long: at most {MAX_PEM_BYTES} are read")
    labels = [label.decode("ascii", "replace") for label in _LABEL.findall(pem)]
    if any("PRIVATE KEY" in label for label in labels):
        raise invalid(f"{source} holds a private key: give certificates only, and keep that key where it was made")
    for label in labels:
        if label != "CERTIFICATE":
            raise invalid(f"{source} holds a {label!r} block: give PEM blocks of CERTIFICATE only")
    if not labels:
        raise invalid(f"{source} holds no certificate: give PEM, the issuing CA's own certificate first")
    if len(labels) > MAX_CERTIFICATES:
        raise invalid(f"{source} holds {len(labels)} certificates: at most {MAX_CERTIFICATES} are read")
    try:
        return tuple(dict.fromkeys(map(_whole, x509.load_pem_x509_certificates(pem))))
    except (*_BROKEN, TypeError) as error:
        raise invalid(f"{source} holds a certificate that does not parse: {_brief(error)}") from error


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, once its fields are parsed, which the library does only when they are asked for."""
    _ = certificate.subject, certificate.issuer, certificate.extensions
    return certificate


def check_root(certificate: x509.Certificate, rules: ImportRules) -> x509.Certificate:
    """The certificate, if it can be a root: self-signed, a CA that may sign an issuing CA, for long enough."""
    where = f"root {name_of(certificate)}"
    if not _is_self_issued(certificate):
        raise invalid(f"{where} is not self-signed: give the root, which is at the top of the chain")
    if not _has_signed(certificate, certificate):
        raise invalid(f"{where}: its signature does not verify with its own key: the file is damaged or forged")
    _check_ca(certificate, where, rules)
    _check_path_length(certificate, where, 1)
    _check_life(certificate, where, rules)
    return certificate


def check_chain(
    certificates: Sequence[x509.Certificate],
    spki: bytes,
    roots: Sequence[x509.Certificate],
    rules: ImportRules,
    others: Sequence[x509.Certificate] = (),
) -> CaChain:
    """The chain of the issuing CA that is the first of `certificates` and has the key `spki` (DER).

    The rest of them, in any order, stands between it and its root, which may be among them or one of `roots`.
    `others` are CAs whose subject it must not share.
    """
    issuer, *pool = certificates
    where = f"issuing CA {name_of(issuer)}"
    if spki_of(issuer) != spki:
        raise invalid(
            f"{where} is not for the pending key: put the certificate of the last request first in the file;"
            " `meshca authority csr` shows that request"
        )
    _check_no_root(issuer, where)
    chain = _climb(issuer, pool, roots)
    for below, certificate in enumerate((issuer, *chain.intermediates, chain.root)):
        label = f"{_role(below, chain)} {name_of(certificate)}"
        _check_ca(certificate, label, rules)
        _check_path_length(certificate, label, below)
        if issuer.not_valid_after_utc > certificate.not_valid_after_utc:
            raise invalid(
                f"{where} ends at {_time(issuer.not_valid_after_utc)}, after {label}, which vouches for it until"
                f" {_time(certificate.not_valid_after_utc)}: have it signed for no longer than that"
            )
    _check_life(issuer, where, rules)
    _check_identifier(issuer, where)
    _check_subject(issuer, where, (*chain.intermediates, chain.root, *others))
    return chain


def authority_id_of(certificate: x509.Certificate) -> str:
    """The hex of the subject key identifier; where the certificate has none, of what ours would be."""
    found = _extension(certificate, x509.SubjectKeyIdentifier)
    return (found.value.digest if found else subject_key_identifier(spki_of(certificate))).hex()


def name_of(certificate: x509.Certificate) -> str:
    """The subject as people read it, in quotes; the serial number where it is empty."""
    text = certificate.subject.rfc4514_string()
    shown = "".join(character if character.isprintable() else "?" for character in text)[:100]
    return repr(shown) if shown else f"with the serial number {certificate.serial_number:x}"


def spki_of(certificate: x509.Certificate) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise invalid(f"certificate {name_of(certificate)}: its key is not supported: {_brief(error)}") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate, DER."""
    return certificate.public_bytes(Encoding.DER)


def _role(below: int, chain: CaChain) -> str:
    if below == 0:
        return "issuing CA"
    return "root" if below > len(chain.intermediates) else "intermediate"


def _climb(issuer: x509.Certificate, pool: list[x509.Certificate], roots: Sequence[x509.Certificate]) -> CaChain:
    """From the issuing CA to a root, certificate by certificate; a root in the file goes before one that is known."""
    given = [certificate for certificate in pool if _is_self_issued(certificate)]
    between = [certificate for certificate in pool if certificate not in given]
    anchors = list(dict.fromkeys((*given, *roots)))
    path = [issuer]
    while (root := _signer_of(path[-1], anchors)) is None:
        above = _signer_of(path[-1], [certificate for certificate in between if certificate not in path])
        if above is None:
            raise _no_signer(path[-1], len(path) == 1, (*anchors, *between))
        path.append(above)
    for certificate in pool:
        if certificate not in path and certificate != root:
            raise invalid(
                f"certificate {name_of(certificate)} is not part of the chain of issuing CA {name_of(issuer)}:"
                " leave it out"
            )
    return CaChain(issuer, tuple(path[1:]), root)


def _signer_of(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    return next((candidate for candidate in candidates if _has_signed(candidate, certificate)), None)


def check_signs_lists(issuer: x509.Certificate) -> None:
    """RFC 5280 section 4.2.1.3: verifiers that check revocation lists refuse what a CA signs that may sign none."""
    usage = _extension(issuer, x509.KeyUsage)
    if usage is None or not usage.value.crl_sign:
        raise invalid(
            f"issuing CA {name_of(issuer)} may not sign revocation lists, which are in use: have it signed with the key"
            " usage cRLSign"
        )


def _no_signer(certificate: x509.Certificate, first: bool, candidates: Sequence[x509.Certificate]) -> MeshcaError:
    where = f"{'issuing CA' if first else 'intermediate'} {name_of(certificate)}"
    if any(candidate.subject == certificate.issuer for candidate in candidates):
        return invalid(
            f"{where}: its signature does not verify with the key of the CA of the name of its issuer:"
            " give the certificate of the CA that signed it"
        )
    issuer = certificate.issuer.rfc4514_string()[:100]
    return invalid(
        f"{where} is signed by {issuer!r}, which is neither in the file nor a root of this trust domain:"
        " append the intermediates, and the root if it is new"
    )


def _has_signed(signer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_self_issued(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _check_no_root(issuer: x509.Certificate, where: str) -> None:
    if _is_self_issued(issuer):
        raise invalid(f"{where} is self-signed: it is a root; have an issuing CA signed under it, which signs leaves")


def _check_ca(certificate: x509.Certificate, where: str, rules: ImportRules) -> None:
    try:
        _check_constraints(certificate, where)
        _check_algorithms(certificate, where)
        _check_names(certificate, where, rules.trust_domain)
    except _BROKEN as error:
        raise invalid(f"{where}: a field of it cannot be read: {_brief(error)}: have it signed anew") from error
    if rules.now < certificate.not_valid_before_utc:
        raise invalid(
            f"{where} is not valid before {_time(certificate.not_valid_before_utc)}: wait, or check the clocks"
        )
    if rules.now >= certificate.not_valid_after_utc:
        raise invalid(f"{where} expired at {_time(certificate.not_valid_after_utc)}: have a new one signed")


def _check_constraints(certificate: x509.Certificate, where: str) -> None:
    """RFC 5280 sections 4.2.1.3, 4.2.1.9 and 4.2.1.12."""
    if certificate.version is not x509.Version.v3:
        raise invalid(f"{where} is an X.509 {certificate.version.name} certificate: have it signed as v3")
    basic = _extension(certificate, x509.BasicConstraints)
    if basic is None or not basic.value.ca:
        raise invalid(f"{where} is no CA certificate (cA is not true): have it signed as a CA")
    if not basic.critical:
        raise invalid(f"{where}: its basic constraints are not critical: have it signed with critical,CA:true")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise invalid(f"{where} may not sign certificates: have it signed with the key usage keyCertSign")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes.value:
        return
    for oid, purpose in _PURPOSES.items():
        if oid not in purposes.value:
            raise invalid(
                f"{where}: its extended key usage lacks {purpose}, which every leaf has: have it signed without"
                " extended key usage"
            )


def _check_algorithms(certificate: x509.Certificate, where: str) -> None:
    try:
        check_family(certificate.public_key(), DEFAULT_FAMILIES)
    except (MeshcaError, UnsupportedAlgorithm) as error:
        raise invalid(f"{where}: {_brief(error)}") from error
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        digest = None
    if not isinstance(digest, _HASHES):
        used = certificate.signature_algorithm_oid.dotted_string if digest is None else digest.name
        raise invalid(f"{where} is signed with {used}: have it signed with SHA-256, SHA-384 or SHA-512")


def _check_names(certificate: x509.Certificate, where: str, trust_domain: TrustDomain) -> None:
    """X509-SVID section 4.1, RFC 5280 section 4.2.1.10."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else ():
        if uri != str(trust_domain.id):
            raise invalid(
                f"{where} has the URI SAN {uri[:120]!r}: only {trust_domain.id} may stand there, or no URI at all"
            )
    constraints = _extension(certificate, x509.NameConstraints)
    if constraints is None:
        return
    for name in constraints.value.permitted_subtrees or ():
        if not isinstance(name, x509.RFC822Name):
            raise _constrained(where, "permits only", name)
    for name in constraints.value.excluded_subtrees or ():
        if isinstance(name, x509.UniformResourceIdentifier | x509.DirectoryName):
            raise _constrained(where, "excludes", name)


def _constrained(where: str, verb: str, name: x509.GeneralName) -> MeshcaError:
    kind = {
        x509.UniformResourceIdentifier: "URI",
        x509.DNSName: "DNS",
        x509.IPAddress: "IP address",
        x509.DirectoryName: "directory",
    }.get(type(name), "other")
    return invalid(
        f"{where} {verb} certain {kind} names ({str(name.value)[:80]!r}), which would forbid leaves of this trust"
        " domain, or could not be checked: have it signed without such name constraints"
    )


def _check_path_length(certificate: x509.Certificate, where: str, below: int) -> None:
    basic = _extension(certificate, x509.BasicConstraints)
    allowed = None if basic is None else basic.value.path_length
    if allowed is not None and allowed < below:
        raise invalid(
            f"{where}: its path length {allowed} is too small for the {below} CA certificates below it:"
            f" use a CA with a path length of at least {below}, or none"
        )


def _check_life(certificate: x509.Certificate, where: str, rules: ImportRules) -> None:
    end = certificate.not_valid_after_utc
    if end - rules.now < rules.min_life:
        raise invalid(
            f"{where} ends at {_time(end)}, but leaves may live for {rules.min_life}: have it signed for longer"
        )


def _check_identifier(issuer: x509.Certificate, where: str) -> None:
    identifier = _extension(issuer, x509.SubjectKeyIdentifier)
    if identifier is None or not 4 <= len(identifier.value.digest) <= 32:
        raise invalid(f"{where} has no subject key identifier of 4 to 32 bytes: have it signed with one (hash)")


def _check_subject(issuer: x509.Certificate, where: str, others: Sequence[x509.Certificate]) -> None:
    """Path builders tell CAs apart by their names (RFC 5280 section 4.1.2.6)."""
    if not list(issuer.subject):
        raise invalid(f"{where} has an empty subject: have it signed with the subject of the request")
    for other in others:
        if other.subject == issuer.subject and spki_of(other) != spki_of(issuer):
            raise invalid(
                f"{where} has the same subject as another CA (serial number {other.serial_number:x}) with another key:"
                " have it signed with the subject of the request, which no other CA has"
            )


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> x509.Extension[_Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    except _BROKEN as error:
        raise invalid(
            f"certificate {name_of(certificate)}: its extensions cannot be read: {_brief(error)}: have it signed anew"
        ) from error


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
