"""PKCS #10 requests (RFC 2986) for issuing CAs of ours: what another CA is asked to sign."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID

from meshca.errors import invalid
from meshca.pki.certificates import CertificateKind, assemble
from meshca.pki.csr import REASON, CertificateRequest, parse_csr
from meshca.pki.keys import DEFAULT_FAMILIES, KeyAlgorithm
from meshca.pki.prepare import ca_subject, key_usage, subject_key_identifier
from meshca.pki.sign import SigningKey
from meshca.pki.signatures import SIGNATURE_ALGORITHMS
from meshca.spiffe.ids import TrustDomain

_EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")  # RFC 2985 section 5.4.2


def request_issuer(spki: bytes, algorithm: KeyAlgorithm, trust_domain: TrustDomain, key: SigningKey) -> bytes:
    """The request (DER) for an issuing CA with the public key `spki`, signed with its private half.

    It asks for what our own issuing CAs have: a subject of its own, path length 0, the signing of certificates and
    CRLs, the trust domain's id.
    """
    key_id = subject_key_identifier(spki)
    subject = ca_subject(trust_domain, CertificateKind.ISSUER, key_id)
    attribute = _tlv(0x30, _EXTENSION_REQUEST + _tlv(0x31, _tlv(0x30, _extensions(trust_domain, key_id))))
    info = _tlv(0x30, _tlv(0x02, b"\x00") + subject.public_bytes() + spki + _tlv(0xA0, attribute))
    return assemble(info, SIGNATURE_ALGORITHMS[algorithm], key.sign(info))


def parse_issuer_request(der: bytes, trust_domain: TrustDomain) -> CertificateRequest:
    """The key in another server's request for an issuing CA, in the form of `request_issuer`.

    Raises INVALID (reason `CSR_ERROR`) as `parse_csr` does, and where it is for anything but a CA of this trust domain
    that signs leaves only.
    """
    request = parse_csr(der, DEFAULT_FAMILIES)
    try:
        extensions = x509.load_der_x509_csr(der).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise invalid("csr asks for no issuing CA: `meshca` makes the right request", reason=REASON) from error
    if list(names) != [x509.UniformResourceIdentifier(str(trust_domain.id))]:
        raise invalid(f"csr is not for {trust_domain.id}, and for that alone", reason=REASON)
    if not basic.ca or basic.path_length != 0:
        raise invalid("csr is not for a CA of path length 0", reason=REASON)
    return request


def request_pem(der: bytes) -> str:
    """The request as one PEM block (RFC 7468 section 7)."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""))


def _extensions(trust_domain: TrustDomain, key_id: bytes) -> bytes:
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])
    wanted: tuple[tuple[x509.ObjectIdentifier, bool, x509.ExtensionType], ...] = (
        (ExtensionOID.BASIC_CONSTRAINTS, True, x509.BasicConstraints(ca=True, path_length=0)),
        (ExtensionOID.KEY_USAGE, True, key_usage(ca=True)),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, False, uri),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False, x509.SubjectKeyIdentifier(key_id)),
    )
    return b"".join(_extension(oid, critical, value) for oid, critical, value in wanted)


def _extension(oid: x509.ObjectIdentifier, critical: bool, value: x509.ExtensionType) -> bytes:
    flag = b"\x01\x01\xff" if critical else b""
    return _tlv(0x30, asn1.encode_der(oid) + flag + _tlv(0x04, value.public_bytes()))


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element (X.690 section 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
