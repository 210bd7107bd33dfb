"""Revocation lists say exactly what was decided, and no signer changes that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtensionOID
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.crl import (
    BACKDATE,
    MAX_ENTRIES,
    PreparedCrl,
    RevokedSerial,
    lint_crl,
    prepare_crl,
    revoked_serials,
    sign_crl,
)
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm
from tests.assets.authorities import FOUNDED, MemoryCa, serial, signer_of, standing_issuer
from tests.pki.test_sign import TwistedSigner

WEEK = timedelta(days=7)
CA = standing_issuer()
ENTRIES = [RevokedSerial(serial(number), FOUNDED + timedelta(seconds=number)) for number in (3, 1, 2)]


def prepared(ca: MemoryCa = CA, entries: list[RevokedSerial] = ENTRIES, now: datetime = FOUNDED) -> PreparedCrl:
    return prepare_crl(entries, ca.issuer, number=7, now=now, validity=WEEK)


def made(ca: MemoryCa = CA, entries: list[RevokedSerial] = ENTRIES) -> x509.CertificateRevocationList:
    draft = prepared(ca, entries)
    lint_crl(draft, entries, ca.issuer)
    return x509.load_der_x509_crl(sign_crl(draft, ca.issuer, ca.signer))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(MeshcaError) as caught:
        call()
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.INTERNAL, "CRL_GEN_ERROR")
    return caught.value.message


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_a_list_is_of_its_ca_and_verifies_under_it(algorithm: KeyAlgorithm) -> None:
    ca = standing_issuer(algorithm)
    crl = made(ca)
    assert crl.issuer == ca.issuer.certificate.subject
    assert crl.is_signature_valid(ca.issuer.certificate.public_key())  # type: ignore[arg-type]  # a CA key
    key_id = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert (key_id.critical, key_id.value.key_identifier) == (False, ca.issuer.key_identifier)


def test_it_has_the_serials_when_they_were_revoked_and_that_they_are_on_hold() -> None:
    crl = made()
    assert [(entry.serial_number, entry.revocation_date_utc) for entry in crl] == sorted(
        (entry.serial, entry.at) for entry in ENTRIES
    )
    reasons = {entry.extensions.get_extension_for_class(x509.CRLReason).value.reason for entry in crl}
    assert reasons == {x509.ReasonFlags.certificate_hold}


def test_it_is_like_what_another_implementation_makes() -> None:
    """The differential test: everything but the signature, byte for byte."""
    builder = x509.CertificateRevocationListBuilder()
    builder = builder.issuer_name(CA.issuer.certificate.subject)
    builder = builder.last_update(FOUNDED - BACKDATE).next_update(FOUNDED + WEEK)
    key_id = x509.AuthorityKeyIdentifier(CA.issuer.key_identifier, None, None)
    builder = builder.add_extension(key_id, critical=False).add_extension(x509.CRLNumber(7), critical=False)
    for entry in sorted(ENTRIES):
        revoked = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.at)
        reason = x509.CRLReason(x509.ReasonFlags.certificate_hold)
        builder = builder.add_revoked_certificate(revoked.add_extension(reason, critical=False).build())
    other = builder.sign(CA.signer.key, hashes.SHA256())
    assert prepared().tbs == other.tbs_certlist_bytes


def test_an_empty_list_is_a_list() -> None:
    crl = made(entries=[])
    assert list(crl) == []
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    assert revoked_serials(sign_crl(prepared(entries=[]), CA.issuer, CA.signer)) == frozenset()


def test_it_is_good_from_an_hour_ago_and_past_2050() -> None:
    crl = made()
    assert crl.last_update_utc == FOUNDED - timedelta(hours=1)
    assert crl.next_update_utc == FOUNDED + WEEK
    late = FOUNDED.replace(year=2049, month=12, day=31)
    lint_crl(prepared(now=late), ENTRIES, CA.issuer)


@given(st.sets(st.integers(1, 2**159 - 1), max_size=30))
def test_whatever_the_serials_they_are_in_it(serials: set[int]) -> None:
    entries = [RevokedSerial(number, FOUNDED) for number in serials]
    draft = prepared(entries=entries)
    lint_crl(draft, entries, CA.issuer)
    assert revoked_serials(sign_crl(draft, CA.issuer, CA.signer)) == serials


def test_it_is_bounded() -> None:
    entries = [RevokedSerial(serial(number), FOUNDED) for number in range(MAX_ENTRIES + 1)]
    assert "at most" in refusal(lambda: prepared(entries=entries))
    assert len(prepared(entries=entries[1:]).tbs) < 600_000


OTHER = standing_issuer(KeyAlgorithm.P384)


@pytest.mark.parametrize(
    ("draft", "problem"),
    [
        (replace(prepared(), number=8), "extensions"),
        (replace(prepared(), this_update=FOUNDED), "thisUpdate"),
        (replace(prepared(), next_update=FOUNDED), "nextUpdate"),
        (replace(prepared(), tbs=b"junk"), "parse"),
        (replace(prepared(), tbs=prepared().tbs[:-1] + b"\0"), ""),
        (prepared(entries=ENTRIES[:2]), "entries"),
        (prepared(entries=[*ENTRIES[:2], replace(ENTRIES[2], at=FOUNDED)]), "entries"),
        (prepared(OTHER), "issuer"),
        (prepare_crl(ENTRIES, CA.issuer, number=0, now=FOUNDED, validity=WEEK), "number"),
        (prepare_crl(ENTRIES, CA.issuer, number=7, now=FOUNDED, validity=-WEEK), "ends before"),
    ],
)
def test_a_list_that_says_anything_else_is_not_signed(draft: PreparedCrl, problem: str) -> None:
    assert problem in refusal(lambda: lint_crl(draft, ENTRIES, CA.issuer))


def test_a_serial_that_is_in_it_twice_is_not_signed() -> None:
    entries = [RevokedSerial(5, FOUNDED), RevokedSerial(5, FOUNDED + WEEK)]
    assert "twice" in refusal(lambda: lint_crl(prepared(entries=entries), entries, CA.issuer))


@pytest.mark.parametrize(
    "twist", [lambda _: b"", lambda _: b"junk", lambda data: signer_of(KeyAlgorithm.P256, 77).sign(data)]
)
def test_a_signature_that_does_not_verify_is_not_used(twist: Callable[[bytes], bytes]) -> None:
    assert "verify" in refusal(lambda: sign_crl(prepared(), CA.issuer, TwistedSigner(twist)))


def test_its_numbers_are_of_the_kind_that_verifiers_know() -> None:
    oids = {extension.oid for extension in made().extensions}
    assert oids == {ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER}
