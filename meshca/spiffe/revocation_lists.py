"""Revocation lists as relying parties take them: nothing of them is believed unchecked (RFC 5280 section 6.3).

Envoy accepts lists that make it refuse everybody (one that has ended, is not valid yet, or is of nobody it knows), so
all of them are checked before they are served. One that does not hold is no reason to go on without: then a certificate
that was revoked would be accepted again, or those of its issuer would all be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from meshca.errors import invalid
from meshca.spiffe.bundles import RevocationList, TrustBundle

MAX_LISTS = 50
MAX_LIST_BYTES = 2 * 1024 * 1024  # of all lists together
_MAX_ISSUERS = 8

# What reading and checking a certificate or a list may raise.
_BROKEN = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
    InvalidSignature,
)


def check_revocation_lists(bundle: TrustBundle, now: datetime) -> None:
    """Raises INVALID unless each list of `bundle` is signed by a CA that one of its roots vouches for, is valid at
    `now` and says nothing that its readers would not understand."""
    lists = bundle.revocation_lists
    size = sum(len(each.crl) for each in lists)
    if len(lists) > MAX_LISTS or size > MAX_LIST_BYTES:
        raise invalid(f"the trust bundle has {len(lists)} revocation lists, {size} bytes: that is too much")
    names = [_check_list(position, each, bundle, now) for position, each in enumerate(lists)]
    if len(set(names)) != len(names):
        raise invalid("the trust bundle has two revocation lists of one issuer")


def _check_list(position: int, given: RevocationList, bundle: TrustBundle, now: datetime) -> bytes:
    """The name of its issuer."""
    try:
        problem, name = _problem(given, bundle.certificates, now)
    except _BROKEN as error:
        raise invalid(f"revocation list {position} of the trust bundle cannot be read, nor its issuer") from error
    if problem is not None:
        raise invalid(f"revocation list {position} of the trust bundle {problem}")
    return name


def _problem(given: RevocationList, roots: Sequence[x509.Certificate], now: datetime) -> tuple[str | None, bytes]:
    if not 1 <= len(given.issuers) <= _MAX_ISSUERS:
        return f"comes with {len(given.issuers)} certificates of its issuer", b""
    issuers = [x509.load_der_x509_certificate(der) for der in given.issuers]
    crl, issuer = x509.load_der_x509_crl(given.crl), issuers[0]
    checks = (
        (_is_vouched_for(issuers, roots), "is of an issuer that no root of it vouches for"),
        (_may_sign(issuer), "is of a certificate that may not sign it"),
        (crl.issuer == issuer.subject, "is not of the issuer that it comes with"),
        (crl.is_signature_valid(issuer.public_key()), "has a signature that does not verify"),  # type: ignore[arg-type]
        (crl.last_update_utc <= now, f"is not valid before {crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"),
        (crl.next_update_utc is not None and now < crl.next_update_utc, f"ended at {crl.next_update_utc}"),
        (not any(extension.critical for extension in crl.extensions), "is of a kind that is not understood"),
    )
    return next((problem for holds, problem in checks if not holds), None), issuer.subject.public_bytes()


def _is_vouched_for(issuers: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> bool:
    """Whether each was signed by the next, and the last by a root."""
    chain = all(_signed(child, parent) for child, parent in pairwise(issuers))
    return chain and any(_signed(issuers[-1], root) for root in roots)


def _signed(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _may_sign(issuer: x509.Certificate) -> bool:
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        return usage.crl_sign and issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
