"""Linting: what will be signed is read back from its bytes and held against what it must be.

Each field is compared with an expectation that is derived here, by other code than the one that prepared it. Rules:
RFC 5280 section 4, X509-SVID sections 2 to 5 and our own profile. A finding is our fault, never the caller's.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtensionOID

from meshca.errors import internal
from meshca.pki.certificates import Issuer, PreparedCertificate, TbsCertificate
from meshca.pki.keys import KeyFamily
from meshca.pki.prepare import subject_key_identifier
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.signatures import SIGNATURE_ALGORITHMS

# Expected extension values, as DER (RFC 5280 section 4.2.1).
_NOT_A_CA = bytes.fromhex("3000")
_DIGITAL_SIGNATURE = bytes.fromhex("03020780")
_DIGITAL_SIGNATURE_KEY_ENCIPHERMENT = bytes.fromhex("030205a0")
_CERT_SIGN_CRL_SIGN = bytes.fromhex("03020106")
_SERVER_AUTH_CLIENT_AUTH = bytes.fromhex("301406082b0601050507030106082b06010505070302")
_TRUE = bytes.fromhex("0101ff")
_ORGANIZATION, _COMMON_NAME, _SERIAL_NUMBER = (bytes.fromhex(oid) for oid in ("060355040a", "0603550403", "0603550405"))

_SKEW = timedelta(seconds=1)


def lint_leaf(
    prepared: PreparedCertificate,
    grant: Grant,
    family: KeyFamily,
    issuer: Issuer,
    profile: IssuanceProfile,
    now: datetime,
) -> None:
    """Passes a leaf that says exactly what `grant` allows; raises INTERNAL (reason `CERT_GEN_ERROR`) for any other."""
    tbs = _read(prepared)
    _check_fields(tbs, prepared, issuer.name_der, SIGNATURE_ALGORITHMS[issuer.algorithm])
    _check(asn1.encode_der(tbs.subject) == _leaf_name(profile.organization), "the subject is not the profile's")
    _check_lifetime(prepared, issuer, now)
    _check_leaf_lifetime(prepared, grant, profile, now)
    usage = _DIGITAL_SIGNATURE_KEY_ENCIPHERMENT if family is KeyFamily.RSA else _DIGITAL_SIGNATURE
    expected = {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (not profile.organization, _names(grant)),  # RFC 5280 4.2.1.6
        ExtensionOID.BASIC_CONSTRAINTS: (True, _NOT_A_CA),
        ExtensionOID.KEY_USAGE: (True, usage),
        ExtensionOID.EXTENDED_KEY_USAGE: (False, _SERVER_AUTH_CLIENT_AUTH),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, _tlv(0x04, subject_key_identifier(prepared.spki))),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (False, _tlv(0x30, _tlv(0x80, issuer.key_identifier))),
    }
    if profile.crl_url:
        expected[ExtensionOID.CRL_DISTRIBUTION_POINTS] = (False, _distribution_points(profile.crl_url, issuer))
    _check_extensions(tbs, expected)


def lint_root(prepared: PreparedCertificate, signature_algorithm: bytes, trust_domain_id: str) -> None:
    """Passes a self-signed root; raises INTERNAL (reason `CERT_GEN_ERROR`) for any other."""
    tbs = _read(prepared)
    key_id = subject_key_identifier(prepared.spki)
    name = _ca_name("meshca Root CA", trust_domain_id, key_id)
    _check_fields(tbs, prepared, name, signature_algorithm)
    _check_ca(tbs, name, key_id, key_id, trust_domain_id, _tlv(0x30, _TRUE))


def lint_issuer(prepared: PreparedCertificate, parent: Issuer, trust_domain_id: str, now: datetime) -> None:
    """Passes an issuing CA that may sign leaves only; raises INTERNAL (reason `CERT_GEN_ERROR`) for any other."""
    tbs = _read(prepared)
    _check_fields(tbs, prepared, parent.name_der, SIGNATURE_ALGORITHMS[parent.algorithm])
    _check_lifetime(prepared, parent, now)
    own = subject_key_identifier(prepared.spki)
    name = _ca_name("meshca Issuing CA", trust_domain_id, own)
    _check_ca(tbs, name, own, parent.key_identifier, trust_domain_id, _tlv(0x30, _TRUE + _tlv(0x02, b"\x00")))


def lint_cross(
    prepared: PreparedCertificate, root: Issuer, parent: Issuer, trust_domain_id: str, now: datetime
) -> None:
    """Passes a certificate of `root`'s name and key by `parent` that has room for one CA below it; raises INTERNAL
    (reason `CERT_GEN_ERROR`) for any other."""
    tbs = _read(prepared)
    _check_fields(tbs, prepared, parent.name_der, SIGNATURE_ALGORITHMS[parent.algorithm])
    _check_lifetime(prepared, parent, now)
    _check(prepared.spki == root.spki, "the public key is not that of the root")
    _check(root.not_before <= prepared.not_before, "it would be valid before the root that it stands for")
    _check(prepared.not_after <= root.not_after, "it would outlive the root that it stands for")
    own = subject_key_identifier(prepared.spki)
    name = _ca_name("meshca Root CA", trust_domain_id, own)
    _check_ca(tbs, name, own, parent.key_identifier, trust_domain_id, _tlv(0x30, _TRUE + _tlv(0x02, b"\x01")))


def _check(passed: bool, problem: str) -> None:
    if not passed:
        raise internal(f"lint: {problem}; nothing was signed", reason="CERT_GEN_ERROR")


def _read(prepared: PreparedCertificate) -> TbsCertificate:
    try:
        return asn1.decode_der(TbsCertificate, prepared.tbs)
    except ValueError as error:
        message = f"lint: the prepared certificate does not parse: {error}; nothing was signed"
        raise internal(message, reason="CERT_GEN_ERROR") from error


def _check_fields(
    tbs: TbsCertificate, prepared: PreparedCertificate, issuer_name: bytes, signature_algorithm: bytes
) -> None:
    serial = tbs.serial_number
    _check(tbs.version == 2, "the version is not 3")
    _check(serial == prepared.serial, "the serial number is not the recorded one")
    _check(128 < serial.bit_length() <= 159, "the serial number is not 129 to 159 bits long")
    _check(asn1.encode_der(tbs.issuer) == issuer_name, "the issuer name is not the issuer's subject")
    _check(asn1.encode_der(tbs.signature) == signature_algorithm, "the signature algorithm is not the issuer's")
    _check(prepared.signature_algorithm == signature_algorithm, "the outer signature algorithm is not the issuer's")
    _check(asn1.encode_der(tbs.subject_public_key_info) == prepared.spki, "the public key is not the recorded one")
    _check(_moment(tbs.validity.not_before) == prepared.not_before, "notBefore is not the recorded one")
    _check(_moment(tbs.validity.not_after) == prepared.not_after, "notAfter is not the recorded one")
    _check(prepared.not_before < prepared.not_after, "notBefore is not before notAfter")


def _moment(time: asn1.UTCTime | asn1.GeneralizedTime) -> datetime:
    """The time, in the form that RFC 5280 section 4.1.2.5 demands for its year."""
    moment = time.as_datetime()
    _check(isinstance(time, asn1.UTCTime) == (moment.year < 2050), "a time is in the wrong form for its year")
    return moment


def _check_lifetime(prepared: PreparedCertificate, issuer: Issuer, now: datetime) -> None:
    _check(prepared.not_after <= issuer.not_after, "it would outlive its issuer")
    _check(prepared.not_before >= issuer.not_before, "it would be valid before its issuer")
    _check(prepared.not_before <= now < prepared.not_after, "it is not valid now")


def _check_leaf_lifetime(prepared: PreparedCertificate, grant: Grant, profile: IssuanceProfile, now: datetime) -> None:
    backdated, lifetime = now - prepared.not_before, prepared.not_after - prepared.not_before
    _check(prepared.not_after <= now + grant.ttl, "it lives longer than granted")
    _check(backdated <= profile.backdate + _SKEW, "it is backdated by more than the profile allows")
    _check(backdated <= max(lifetime / 4, _SKEW), "it is backdated by more than a quarter of its life")


def _check_ca(
    tbs: TbsCertificate, name: bytes, key_id: bytes, authority_key_id: bytes, uri: str, basic_constraints: bytes
) -> None:
    _check(asn1.encode_der(tbs.subject) == name, "the subject is not the CA's own name")
    expected = {
        ExtensionOID.BASIC_CONSTRAINTS: (True, basic_constraints),
        ExtensionOID.KEY_USAGE: (True, _CERT_SIGN_CRL_SIGN),
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (False, _tlv(0x30, _tlv(0x86, uri.encode("ascii")))),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, _tlv(0x04, key_id)),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (False, _tlv(0x30, _tlv(0x80, authority_key_id))),
    }
    _check_extensions(tbs, expected)


def _check_extensions(tbs: TbsCertificate, expected: dict[ObjectIdentifier, tuple[bool, bytes]]) -> None:
    """Exactly the expected extensions, once each, with the expected criticality and value."""
    _check(len(tbs.extensions) == len(expected), "the set of extensions is not the profile's")
    for extension in tbs.extensions:
        wanted = expected.pop(extension.extn_id, None)
        if wanted != (extension.critical, extension.extn_value):
            _check(False, f"extension {extension.extn_id.dotted_string} is not what it must be")


def _leaf_name(organization: str) -> bytes:
    return _name(_ORGANIZATION + _tlv(0x0C, organization.encode("utf-8"))) if organization else _name()


def _ca_name(label: str, trust_domain_id: str, key_id: bytes) -> bytes:
    """A CA's subject, which holds its key identifier."""
    organization = trust_domain_id.removeprefix("spiffe://")[:64]
    return _name(
        _ORGANIZATION + _tlv(0x0C, organization.encode("ascii")),
        _COMMON_NAME + _tlv(0x0C, label.encode("ascii")),
        _SERIAL_NUMBER + _tlv(0x13, key_id.hex().encode("ascii")),
    )


def _name(*attributes: bytes) -> bytes:
    """A Name with one attribute in each RDN (RFC 5280 section 4.1.2.4)."""
    return _tlv(0x30, b"".join(_tlv(0x31, _tlv(0x30, attribute)) for attribute in attributes))


def _names(grant: Grant) -> bytes:
    """The GeneralNames of a grant: the URI, then DNS names, then addresses (RFC 5280 section 4.2.1.6)."""
    names = [_tlv(0x86, str(grant.subject).encode("ascii"))]
    names += [_tlv(0x82, name.encode("ascii")) for name in grant.dns_names]
    names += [_tlv(0x87, address.packed) for address in grant.ip_addresses]
    return _tlv(0x30, b"".join(names))


def _distribution_points(crl_url: str, issuer: Issuer) -> bytes:
    """One point, with the URI as its full name and nothing else (RFC 5280 section 4.2.1.13)."""
    uri = _tlv(0x86, f"{crl_url}/{issuer.authority_id}".encode("ascii"))
    return _tlv(0x30, _tlv(0x30, _tlv(0xA0, _tlv(0xA0, uri))))


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element (X.690 section 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
