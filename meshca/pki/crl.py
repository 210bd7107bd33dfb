"""Certificate revocation lists (RFC 5280 section 5): prepared, linted and signed as certificates are.

Every entry can be taken back by an operator, which section 5.3.1 allows for `certificateHold` alone: that is the reason
given. Verifiers refuse what is on hold as they refuse what is revoked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from meshca.errors import internal
from meshca.pki.certificates import Extension, Issuer, assemble, extension, raw
from meshca.pki.sign import SigningKey
from meshca.pki.signatures import SIGNATURE_ALGORITHMS, SIGNATURE_OIDS

MAX_ENTRIES = 10_000  # half a megabyte
# thisUpdate is set back for skewed clocks: a list that is not valid yet makes its verifiers refuse everybody.
BACKDATE = timedelta(hours=1)

REASON = "CRL_GEN_ERROR"
_GENERALIZED_FROM = datetime.fromisoformat("2050-01-01T00:00:00+00:00")
_ON_HOLD = extension(
    CRLEntryExtensionOID.CRL_REASON, critical=False, value=x509.CRLReason(x509.ReasonFlags.certificate_hold)
)

Time = asn1.UTCTime | asn1.GeneralizedTime


@dataclass(frozen=True, slots=True, order=True)
class RevokedSerial:
    """A certificate that is refused, and since when: whole seconds, UTC."""

    serial: int
    at: datetime


@dataclass(frozen=True, slots=True)
class PreparedCrl:
    """The exact bytes that will be signed, and what they say."""

    issuer_id: str
    number: int
    this_update: datetime
    next_update: datetime
    tbs: bytes
    signature_algorithm: bytes


@asn1.sequence
class _Entry:
    user_certificate: int
    revocation_date: asn1.UTCTime | asn1.GeneralizedTime
    crl_entry_extensions: list[Extension]


@asn1.sequence
class _TbsCertList:
    """RFC 5280 section 5.1, version 2."""

    version: int
    signature: asn1.TLV
    issuer: asn1.TLV
    this_update: asn1.UTCTime | asn1.GeneralizedTime
    next_update: asn1.UTCTime | asn1.GeneralizedTime
    revoked_certificates: list[_Entry] | None
    crl_extensions: Annotated[list[Extension], asn1.Explicit(0)]


def prepare_crl(
    entries: Iterable[RevokedSerial], issuer: Issuer, *, number: int, now: datetime, validity: timedelta
) -> PreparedCrl:
    """The list of `issuer` that is good until `now + validity`, its entries by serial.

    Raises INTERNAL (reason `CRL_GEN_ERROR`) where there are more than 10,000.
    """
    revoked = sorted(entries)
    if len(revoked) > MAX_ENTRIES:
        raise internal(f"a revocation list holds {MAX_ENTRIES} entries at most, not {len(revoked)}", reason=REASON)
    algorithm = SIGNATURE_ALGORITHMS[issuer.algorithm]
    this_update, next_update = (now - BACKDATE).replace(microsecond=0), (now + validity).replace(microsecond=0)
    tbs = _TbsCertList(
        version=1,
        signature=raw(algorithm),
        issuer=issuer.name,
        this_update=_time(this_update),
        next_update=_time(next_update),
        # absent where there is none: section 5.1.2.6
        revoked_certificates=[_entry(each) for each in revoked] or None,
        crl_extensions=[
            issuer.authority_key_identifier,
            extension(ExtensionOID.CRL_NUMBER, critical=False, value=x509.CRLNumber(number)),
        ],
    )
    return PreparedCrl(issuer.authority_id, number, this_update, next_update, asn1.encode_der(tbs), algorithm)


def lint_crl(prepared: PreparedCrl, entries: Iterable[RevokedSerial], issuer: Issuer) -> None:
    """Passes a list that says exactly what it should; raises INTERNAL (reason `CRL_GEN_ERROR`) for any other.

    It is read back by other code than that which wrote it.
    """
    crl = _load(_assembled(prepared, b""))
    _check(crl.tbs_certlist_bytes == prepared.tbs, "what would be signed is not what was prepared")
    _check(crl.issuer == issuer.certificate.subject, "the issuer is not the CA")
    _check(crl.signature_algorithm_oid == SIGNATURE_OIDS[issuer.algorithm], "the signature algorithm is not the CA's")
    _check(crl.last_update_utc == prepared.this_update, "thisUpdate is another")
    _check(crl.next_update_utc == prepared.next_update, "nextUpdate is another, or missing")
    _check(prepared.this_update < prepared.next_update, "it ends before it begins")
    expected = [
        x509.Extension(
            ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False, x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None)
        ),
        x509.Extension(ExtensionOID.CRL_NUMBER, False, x509.CRLNumber(prepared.number)),
    ]
    _check(list(crl.extensions) == expected, "its extensions are not the profile's")
    _check(0 < prepared.number < 1 << 159, "its number is not of 1 to 20 octets")
    _check_entries(crl, sorted(entries))


def sign_crl(prepared: PreparedCrl, issuer: Issuer, key: SigningKey) -> bytes:
    """The list, DER. Raises INTERNAL (reason `CRL_GEN_ERROR`) where its signed bytes are not the prepared ones, or its
    signature does not verify under the CA's certificate."""
    der = _assembled(prepared, key.sign(prepared.tbs))
    crl = _load(der)
    try:
        valid = crl.is_signature_valid(issuer.certificate.public_key())  # type: ignore[arg-type]  # of a CA key type
    except (ValueError, TypeError, UnsupportedAlgorithm):
        valid = False
    if not valid or crl.tbs_certlist_bytes != prepared.tbs:
        raise internal(f"the revocation list of {prepared.issuer_id} does not verify: it is not used", reason=REASON)
    return der


def revoked_serials(crl: bytes) -> frozenset[int]:
    """The serials in a list (DER) of ours. Raises INTERNAL (reason `CRL_GEN_ERROR`) for what is none."""
    return frozenset(entry.serial_number for entry in _load(crl))


def _entry(revoked: RevokedSerial) -> _Entry:
    return _Entry(user_certificate=revoked.serial, revocation_date=_time(revoked.at), crl_entry_extensions=[_ON_HOLD])


def _time(moment: datetime) -> Time:
    """RFC 5280 section 5.1.2.4: UTCTime through 2049, GeneralizedTime from 2050."""
    return asn1.GeneralizedTime(moment) if moment >= _GENERALIZED_FROM else asn1.UTCTime(moment)


def _assembled(prepared: PreparedCrl, signature: bytes) -> bytes:
    """A list is put together of its three parts as a certificate is."""
    try:
        return assemble(prepared.tbs, prepared.signature_algorithm, signature)
    except ValueError as error:
        raise internal(f"the revocation list does not parse: {error}", reason=REASON) from error


def _load(der: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(der)
    except ValueError as error:
        raise internal(f"the revocation list does not parse: {error}", reason=REASON) from error


def _check_entries(crl: x509.CertificateRevocationList, expected: list[RevokedSerial]) -> None:
    found = list(crl)
    _check([RevokedSerial(e.serial_number, e.revocation_date_utc) for e in found] == expected, "its entries are others")
    _check(len({entry.serial for entry in expected}) == len(expected), "it holds a serial twice")
    on_hold = x509.Extension(CRLEntryExtensionOID.CRL_REASON, False, x509.CRLReason(x509.ReasonFlags.certificate_hold))
    _check(all(list(entry.extensions) == [on_hold] for entry in found), "an entry's reason is another")


def _check(passed: bool, problem: str) -> None:
    if not passed:
        raise internal(f"lint: revocation list: {problem}; nothing was signed", reason=REASON)
