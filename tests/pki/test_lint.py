"""Lint: whatever differs from what was meant is found before it is signed, and named."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.certificates import PreparedCertificate
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm, KeyFamily
from meshca.pki.lint import lint_cross, lint_issuer, lint_leaf, lint_root
from meshca.pki.prepare import prepare
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.signatures import SIGNATURE_ALGORITHMS
from meshca.spiffe.ids import SpiffeId
from tests.assets.authorities import (
    FOUNDED,
    MESH,
    leaf_family,
    new_cross,
    new_issuer,
    new_root,
    request_for,
    serial,
    signer_of,
    standing_issuer,
    standing_root,
)
from tests.assets.csrs import ECDSA_SHA384, RSA_SHA1, key_of
from tests.assets.der import (
    GENERALIZED_TIME,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTC_TIME,
    UTF8_STRING,
    elements,
    inside,
    integer,
    oid,
    spki_of,
    tlv,
)

NOW = FOUNDED + timedelta(hours=5)
PROFILE = IssuanceProfile()
GRANT = Grant(
    SpiffeId.parse("spiffe://example.org/ns/a/sa/b"),
    timedelta(hours=1),
    ("b.a.svc",),
    (ipaddress.ip_address("10.0.0.1"),),
)
VERSION, SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, KEY, EXTENSIONS = range(8)
SAN, BASIC, USAGE, PURPOSE, SKI, AKI = range(6)  # as they stand in a leaf
CA_BASIC, CA_USAGE, CA_SAN, CA_SKI, CA_AKI = range(5)  # as they stand in a CA
CRITICAL = tlv(0x01, b"\xff")

Edit = Callable[[list[bytes]], None]


def leaf(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> PreparedCertificate:
    request = request_for(key_of(algorithm))
    return prepare(request, GRANT, standing_issuer().issuer, PROFILE, serial=serial(5), now=NOW)


def lint(prepared: PreparedCertificate, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> None:
    lint_leaf(prepared, GRANT, leaf_family(algorithm), standing_issuer().issuer, PROFILE, NOW)


def lint_as_root(prepared: PreparedCertificate) -> None:
    lint_root(prepared, SIGNATURE_ALGORITHMS[KeyAlgorithm.P256], str(MESH.id))


def lint_as_issuer(prepared: PreparedCertificate) -> None:
    lint_issuer(prepared, standing_root().issuer, str(MESH.id), FOUNDED)


NEXT = new_root(ttl=timedelta(days=30), signer=signer_of(KeyAlgorithm.P256, 101))
CROSS = new_cross(NEXT, standing_root()).prepared


def lint_as_cross(prepared: PreparedCertificate) -> None:
    lint_cross(prepared, NEXT.issuer, standing_root().issuer, str(MESH.id), FOUNDED)


def edited(prepared: PreparedCertificate, edit: Edit) -> PreparedCertificate:
    """The same with the fields of its TBS changed; `prepared` still says what was meant."""
    fields = elements(inside(prepared.tbs))
    edit(fields)
    return replace(prepared, tbs=tlv(SEQUENCE, *fields))


def set_field(index: int, value: bytes) -> Edit:
    def edit(fields: list[bytes]) -> None:
        fields[index] = value

    return edit


def set_times(*times: bytes) -> Edit:
    return set_field(VALIDITY, tlv(SEQUENCE, *times))


def edit_extensions(change: Callable[[list[bytes]], list[bytes]]) -> Edit:
    def edit(fields: list[bytes]) -> None:
        present = elements(inside(inside(fields[EXTENSIONS])))
        fields[EXTENSIONS] = tlv(0xA3, tlv(SEQUENCE, *change(present)))

    return edit


def set_extension(index: int, value: bytes) -> Edit:
    return edit_extensions(lambda present: [*present[:index], value, *present[index + 1 :]])


def drop_extension(index: int) -> Edit:
    return edit_extensions(lambda present: present[:index] + present[index + 1 :])


def ext(number: int, value: bytes, *, critical: bool = False) -> bytes:
    return tlv(SEQUENCE, oid(f"2.5.29.{number}"), CRITICAL if critical else b"", tlv(OCTET_STRING, value))


def names(*general_names: bytes) -> bytes:
    return tlv(SEQUENCE, *general_names)


def uri(text: str = str(GRANT.subject)) -> bytes:
    return tlv(0x86, text.encode())


def utc(moment: datetime) -> bytes:
    return tlv(UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())


def generalized(moment: datetime) -> bytes:
    return tlv(GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def purposes(*dotted: str) -> bytes:
    return tlv(SEQUENCE, *(oid(purpose) for purpose in dotted))


def key_identifier(value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(0x80, value))


def common_name(value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(SET, tlv(SEQUENCE, oid("2.5.4.3"), tlv(UTF8_STRING, value))))


DNS, IP = tlv(0x82, b"b.a.svc"), tlv(0x87, bytes((10, 0, 0, 1)))
START, END = NOW - timedelta(minutes=1), NOW + timedelta(hours=1)
SERVER_AUTH, CLIENT_AUTH, ANY = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0"
SET_OF_EXTENSIONS = "the set of extensions is not the profile's"
UNREADABLE = "the prepared certificate does not parse"


def not_right(number: int) -> str:
    return f"extension 2.5.29.{number} is not what it must be"


LEAF_MUTANTS: dict[str, tuple[Edit, str]] = {
    # fields
    "version 1": (set_field(VERSION, tlv(0xA0, integer(0))), "the version is not 3"),
    "version 4": (set_field(VERSION, tlv(0xA0, integer(3))), "the version is not 3"),
    "another serial": (set_field(SERIAL, integer(serial(6))), "the serial number is not the recorded one"),
    "negative serial": (set_field(SERIAL, tlv(0x02, b"\x80" + bytes(19))), "the serial number is not the recorded one"),
    "another signature algorithm": (set_field(ALGORITHM, ECDSA_SHA384), "the signature algorithm is not the issuer's"),
    "SHA-1": (set_field(ALGORITHM, RSA_SHA1), "the signature algorithm is not the issuer's"),
    "another issuer": (set_field(ISSUER, common_name(b"x")), "the issuer name is not the issuer's subject"),
    "the root as issuer": (
        set_field(ISSUER, standing_root().issuer.name_der),
        "the issuer name is not the issuer's subject",
    ),
    "no issuer": (set_field(ISSUER, tlv(SEQUENCE)), "the issuer name is not the issuer's subject"),
    "starts earlier": (set_times(utc(START - timedelta(seconds=1)), utc(END)), "notBefore is not the recorded one"),
    "lives longer": (set_times(utc(START), utc(END + timedelta(seconds=1))), "notAfter is not the recorded one"),
    "notAfter and notBefore exchanged": (set_times(utc(END), utc(START)), "notBefore is not the recorded one"),
    "GeneralizedTime before 2050": (
        set_times(generalized(START), utc(END)),
        "a time is in the wrong form for its year",
    ),
    "GeneralizedTime at the end": (set_times(utc(START), generalized(END)), "a time is in the wrong form for its year"),
    "UTCTime without seconds": (set_times(tlv(UTC_TIME, b"2606011659Z"), utc(END)), UNREADABLE),
    "UTCTime with an offset": (set_times(tlv(UTC_TIME, b"260601165900+0000"), utc(END)), UNREADABLE),
    "a subject": (set_field(SUBJECT, common_name(b"x")), "the subject is not the profile's"),
    "a subject of another type": (set_field(SUBJECT, tlv(SET)), "the subject is not the profile's"),
    "another key": (
        set_field(KEY, spki_of(key_of(KeyAlgorithm.P256, 1).public_key())),
        "the public key is not the recorded one",
    ),
    "unique identifier": (lambda fields: fields.insert(KEY + 1, tlv(0x81, b"\0\1")), UNREADABLE),
    "a field too many": (lambda fields: fields.append(tlv(0x05)), UNREADABLE),
    "no extensions": (lambda fields: fields.__delitem__(EXTENSIONS), UNREADABLE),
    # extensions
    "empty extensions": (edit_extensions(lambda _: []), SET_OF_EXTENSIONS),
    "no names": (drop_extension(SAN), SET_OF_EXTENSIONS),
    "no basic constraints": (drop_extension(BASIC), SET_OF_EXTENSIONS),
    "no key usage": (drop_extension(USAGE), SET_OF_EXTENSIONS),
    "no purposes": (drop_extension(PURPOSE), SET_OF_EXTENSIONS),
    "no subject key identifier": (drop_extension(SKI), SET_OF_EXTENSIONS),
    "no authority key identifier": (drop_extension(AKI), SET_OF_EXTENSIONS),
    "unknown extension beside": (
        edit_extensions(lambda present: [*present, tlv(SEQUENCE, oid("1.2.3.4"), tlv(OCTET_STRING, b"x"))]),
        SET_OF_EXTENSIONS,
    ),
    "name constraints beside": (edit_extensions(lambda present: [*present, ext(30, tlv(SEQUENCE))]), SET_OF_EXTENSIONS),
    "an extension twice": (edit_extensions(lambda present: [*present, present[USAGE]]), SET_OF_EXTENSIONS),
    "an extension twice in place of another": (
        edit_extensions(lambda present: [*present[:AKI], present[USAGE]]),
        not_right(15),
    ),
    "unknown extension in place of another": (
        set_extension(AKI, tlv(SEQUENCE, oid("1.2.3.4"), tlv(OCTET_STRING, b"x"))),
        "extension 1.2.3.4 is not what it must be",
    ),
    # their values
    "names not critical": (set_extension(SAN, ext(17, names(uri(), DNS, IP))), not_right(17)),
    "another identity": (
        set_extension(SAN, ext(17, names(uri("spiffe://example.org/ns/a/sa/c"), DNS, IP), critical=True)),
        not_right(17),
    ),
    "a second identity": (set_extension(SAN, ext(17, names(uri(), uri(), DNS, IP), critical=True)), not_right(17)),
    "no identity": (set_extension(SAN, ext(17, names(DNS, IP), critical=True)), not_right(17)),
    "a name too many": (set_extension(SAN, ext(17, names(uri(), DNS, DNS, IP), critical=True)), not_right(17)),
    "a name missing": (set_extension(SAN, ext(17, names(uri(), IP), critical=True)), not_right(17)),
    "an address missing": (set_extension(SAN, ext(17, names(uri(), DNS), critical=True)), not_right(17)),
    "another address": (
        set_extension(SAN, ext(17, names(uri(), DNS, tlv(0x87, bytes(4))), critical=True)),
        not_right(17),
    ),
    "a mail address": (
        set_extension(SAN, ext(17, names(uri(), DNS, IP, tlv(0x81, b"a@b")), critical=True)),
        not_right(17),
    ),
    "a CA": (set_extension(BASIC, ext(19, tlv(SEQUENCE, CRITICAL), critical=True)), not_right(19)),
    "no CA, but spelled out against DER": (
        set_extension(BASIC, ext(19, tlv(SEQUENCE, tlv(0x01, b"\0")), critical=True)),
        not_right(19),
    ),
    "basic constraints not critical": (set_extension(BASIC, ext(19, tlv(SEQUENCE))), not_right(19)),
    "may encipher keys": (set_extension(USAGE, ext(15, b"\x03\x02\x05\xa0", critical=True)), not_right(15)),
    "may sign certificates": (set_extension(USAGE, ext(15, b"\x03\x02\x02\x84", critical=True)), not_right(15)),
    "may sign CRLs": (set_extension(USAGE, ext(15, b"\x03\x02\x01\x82", critical=True)), not_right(15)),
    "may do nothing": (set_extension(USAGE, ext(15, b"\x03\x01\x00", critical=True)), not_right(15)),
    "key usage not critical": (set_extension(USAGE, ext(15, b"\x03\x02\x07\x80")), not_right(15)),
    "server only": (set_extension(PURPOSE, ext(37, purposes(SERVER_AUTH))), not_right(37)),
    "client only": (set_extension(PURPOSE, ext(37, purposes(CLIENT_AUTH))), not_right(37)),
    "any purpose": (set_extension(PURPOSE, ext(37, purposes(SERVER_AUTH, CLIENT_AUTH, ANY))), not_right(37)),
    "purposes critical": (
        set_extension(PURPOSE, ext(37, purposes(SERVER_AUTH, CLIENT_AUTH), critical=True)),
        not_right(37),
    ),
    "another subject key identifier": (set_extension(SKI, ext(14, tlv(OCTET_STRING, bytes(20)))), not_right(14)),
    "another authority key identifier": (set_extension(AKI, ext(35, key_identifier(bytes(20)))), not_right(35)),
    "the root's key identifier": (
        set_extension(AKI, ext(35, key_identifier(standing_root().issuer.key_identifier))),
        not_right(35),
    ),
    "issuer and serial beside the key identifier": (
        set_extension(
            AKI,
            ext(35, tlv(SEQUENCE, tlv(0x80, standing_issuer().issuer.key_identifier), tlv(0xA1), tlv(0x82, b"\1"))),
        ),
        not_right(35),
    ),
    "criticality spelled out against DER": (
        set_extension(
            AKI,
            tlv(
                SEQUENCE,
                oid("2.5.29.35"),
                tlv(0x01, b"\0"),
                tlv(OCTET_STRING, key_identifier(standing_issuer().issuer.key_identifier)),
            ),
        ),
        UNREADABLE,
    ),
}


def finding(lint_it: Callable[[], None]) -> str:
    with pytest.raises(MeshcaError) as refused:
        lint_it()
    error = refused.value
    assert (error.kind, error.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert error.message.startswith("lint: ")
    assert error.message.endswith("; nothing was signed")
    found = error.message.removeprefix("lint: ").removesuffix("; nothing was signed")
    return UNREADABLE if found.startswith(f"{UNREADABLE}: ") else found


@pytest.mark.parametrize("mutant", LEAF_MUTANTS)
def test_a_leaf_that_differs_is_found(mutant: str) -> None:
    edit, problem = LEAF_MUTANTS[mutant]
    broken = edited(leaf(), edit)
    assert broken.tbs != leaf().tbs
    assert finding(lambda: lint(broken)) == problem


def test_a_leaf_whose_fields_are_put_together_again_passes() -> None:
    assert edited(leaf(), lambda _: None) == leaf()
    lint(leaf())


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521, KeyAlgorithm.ED25519])
def test_a_leaf_passes_with_the_key_usage_of_its_key_only(algorithm: KeyAlgorithm) -> None:
    lint(leaf(algorithm), algorithm)
    lint(leaf(KeyAlgorithm.RSA2048), KeyAlgorithm.RSA2048)
    assert finding(lambda: lint(leaf(algorithm), KeyAlgorithm.RSA2048)) == not_right(15)
    assert finding(lambda: lint(leaf(KeyAlgorithm.RSA2048), algorithm)) == not_right(15)


def test_no_changed_byte_of_a_leaf_passes() -> None:
    prepared = leaf()
    for index, byte in enumerate(prepared.tbs):
        for flip in range(1, 256):
            changed = prepared.tbs[:index] + bytes([byte ^ flip]) + prepared.tbs[index + 1 :]
            assert not passes(replace(prepared, tbs=changed), lint), f"byte {index} as {byte ^ flip}"


@pytest.mark.parametrize(
    ("prepared", "lint_it"),
    [
        pytest.param(standing_root().prepared, lint_as_root, id="root"),
        pytest.param(standing_issuer().prepared, lint_as_issuer, id="issuer"),
        pytest.param(CROSS, lint_as_cross, id="cross"),
    ],
)
def test_no_flipped_bit_of_a_ca_passes(
    prepared: PreparedCertificate, lint_it: Callable[[PreparedCertificate], None]
) -> None:
    lint_it(prepared)
    for index, byte in enumerate(prepared.tbs):
        for bit in range(8):
            changed = prepared.tbs[:index] + bytes([byte ^ 1 << bit]) + prepared.tbs[index + 1 :]
            assert not passes(replace(prepared, tbs=changed), lint_it), f"bit {bit} of byte {index}"


@given(st.binary(max_size=500))
def test_bytes_that_are_no_certificate_are_found(tbs: bytes) -> None:
    assert finding(lambda: lint(replace(leaf(), tbs=tbs))) == UNREADABLE


def passes(prepared: PreparedCertificate, lint_it: Callable[[PreparedCertificate], None]) -> bool:
    try:
        lint_it(prepared)
    except MeshcaError as error:
        return error.reason != "CERT_GEN_ERROR"
    return True


def recorded(**changes: object) -> PreparedCertificate:
    """What is recorded differs from the bytes."""
    return replace(leaf(), **changes)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("prepared", "problem"),
    [
        (recorded(serial=serial(6)), "the serial number is not the recorded one"),
        (
            recorded(spki=spki_of(key_of(KeyAlgorithm.P256, 1).public_key())),
            "the public key is not the recorded one",
        ),
        (recorded(not_before=START - timedelta(seconds=1)), "notBefore is not the recorded one"),
        (recorded(not_after=END - timedelta(seconds=1)), "notAfter is not the recorded one"),
        (recorded(signature_algorithm=RSA_SHA1), "the outer signature algorithm is not the issuer's"),
    ],
)
def test_a_record_that_tells_otherwise_is_found(prepared: PreparedCertificate, problem: str) -> None:
    assert finding(lambda: lint(prepared)) == problem


@pytest.mark.parametrize("number", [0, 1, 2**127, 2**128 - 1, 2**159])
def test_a_serial_of_another_length_is_found(number: int) -> None:
    request = request_for(key_of(KeyAlgorithm.P256))
    prepared = prepare(request, GRANT, standing_issuer().issuer, PROFILE, serial=number, now=NOW)
    assert finding(lambda: lint(prepared)) == "the serial number is not 129 to 159 bits long"


def timed(not_before: datetime, not_after: datetime) -> PreparedCertificate:
    """A leaf whose bytes and record agree on a validity that is not the one to be expected."""
    form = [generalized(t) if t.year >= 2050 else utc(t) for t in (not_before, not_after)]
    return replace(edited(leaf(), set_times(*form)), not_before=not_before, not_after=not_after)


ISSUER_END = standing_issuer().issuer.not_after


@pytest.mark.parametrize(
    ("not_before", "not_after", "problem"),
    [
        (START, START, "notBefore is not before notAfter"),
        (START, START - timedelta(days=1), "notBefore is not before notAfter"),
        (START, ISSUER_END + timedelta(seconds=1), "it would outlive its issuer"),
        (START, datetime(2050, 1, 1, tzinfo=UTC), "it would outlive its issuer"),
        (FOUNDED - timedelta(seconds=61), END, "it would be valid before its issuer"),
        (NOW + timedelta(seconds=1), END, "it is not valid now"),
        (START - timedelta(hours=1), NOW, "it is not valid now"),
        (START, END + timedelta(seconds=1), "it lives longer than granted"),
        (START - timedelta(seconds=2), END, "it is backdated by more than the profile allows"),
        (START, NOW + timedelta(minutes=2), "it is backdated by more than a quarter of its life"),
    ],
)
def test_a_validity_that_breaks_a_rule_is_found(not_before: datetime, not_after: datetime, problem: str) -> None:
    assert finding(lambda: lint(timed(not_before, not_after))) == problem


@pytest.mark.parametrize(
    "grant",
    [
        replace(GRANT, subject=SpiffeId.parse("spiffe://example.org/ns/a/sa/c")),
        replace(GRANT, dns_names=()),
        replace(GRANT, dns_names=("b.a.svc", "c.a.svc")),
        replace(GRANT, ip_addresses=()),
    ],
)
def test_a_leaf_for_another_grant_is_found(grant: Grant) -> None:
    found = finding(lambda: lint_leaf(leaf(), grant, KeyFamily.P256, standing_issuer().issuer, PROFILE, NOW))
    assert found == not_right(17)


CRL_URL = "http://ca.example.org:15014/crl"
POINTING = replace(PROFILE, crl_url=CRL_URL)
POINT = 6  # where the distribution point stands in a leaf


def test_a_leaf_that_names_where_its_revocation_list_is_passes_where_the_profile_says_so() -> None:
    issuer, request = standing_issuer().issuer, request_for(key_of(KeyAlgorithm.P256))
    pointing = prepare(request, GRANT, issuer, POINTING, serial=serial(5), now=NOW)

    def lint_as(profile: IssuanceProfile, leaf: PreparedCertificate = pointing) -> None:
        lint_leaf(leaf, GRANT, KeyFamily.P256, issuer, profile, NOW)

    lint_as(POINTING)
    points = pointing.unsigned().extensions.get_extension_for_class(x509.CRLDistributionPoints)
    assert not points.critical
    (point,) = points.value
    assert (point.reasons, point.crl_issuer, point.relative_name) == (None, None, None)
    assert point.full_name is not None
    assert [name.value for name in point.full_name] == [f"{CRL_URL}/{issuer.authority_id}"]
    assert finding(lambda: lint_as(PROFILE)) == SET_OF_EXTENSIONS
    assert finding(lambda: lint_as(POINTING, leaf())) == SET_OF_EXTENSIONS
    assert finding(lambda: lint_as(replace(POINTING, crl_url=f"{CRL_URL}/x"))) == not_right(31)
    critical = set_extension(POINT, ext(31, points.value.public_bytes(), critical=True))
    assert finding(lambda: lint_as(POINTING, edited(pointing, critical))) == not_right(31)


def test_a_leaf_of_another_issuer_is_found() -> None:
    other = new_issuer(standing_root(), signer=signer_of(KeyAlgorithm.P256, 201)).issuer
    found = finding(lambda: lint_leaf(leaf(), GRANT, KeyFamily.P256, other, PROFILE, NOW))
    assert found == "the issuer name is not the issuer's subject"


def ca_uri(text: str = str(MESH.id), *, critical: bool = False) -> bytes:
    return ext(17, names(uri(text)), critical=critical)


PATH_LENGTH_0, PATH_LENGTH_1 = (tlv(SEQUENCE, CRITICAL, integer(length)) for length in (0, 1))
CA_USAGES = b"\x03\x02\x01\x06"
WRONG_NAME = "the subject is not the CA's own name"

# What is wrong with a root as with an issuing CA.
CA_MUTANTS: dict[str, tuple[Edit, str]] = {
    "no CA": (set_extension(CA_BASIC, ext(19, tlv(SEQUENCE), critical=True)), not_right(19)),
    "CA, not critical": (set_extension(CA_BASIC, ext(19, PATH_LENGTH_0)), not_right(19)),
    "may sign CAs below": (set_extension(CA_BASIC, ext(19, PATH_LENGTH_1, critical=True)), not_right(19)),
    "may sign certificates only": (set_extension(CA_USAGE, ext(15, b"\x03\x02\x02\x04", critical=True)), not_right(15)),
    "may authenticate": (set_extension(CA_USAGE, ext(15, b"\x03\x02\x01\x86", critical=True)), not_right(15)),
    "key usage not critical": (set_extension(CA_USAGE, ext(15, CA_USAGES)), not_right(15)),
    "foreign trust domain": (set_extension(CA_SAN, ca_uri("spiffe://example.com")), not_right(17)),
    "trust domain with a path": (set_extension(CA_SAN, ca_uri("spiffe://example.org/x")), not_right(17)),
    "trust domain critical": (set_extension(CA_SAN, ca_uri(critical=True)), not_right(17)),
    "subject key identifier of another": (set_extension(CA_SKI, ext(14, tlv(OCTET_STRING, bytes(20)))), not_right(14)),
    "authority key identifier of another": (set_extension(CA_AKI, ext(35, key_identifier(bytes(20)))), not_right(35)),
    "purposes beside": (edit_extensions(lambda present: [*present, ext(37, purposes(ANY))]), SET_OF_EXTENSIONS),
    "no authority key identifier": (drop_extension(CA_AKI), SET_OF_EXTENSIONS),
    "no subject": (set_field(SUBJECT, tlv(SEQUENCE)), WRONG_NAME),
    "another subject": (set_field(SUBJECT, common_name(b"meshca Root CA")), WRONG_NAME),
    "another key": (
        set_field(KEY, spki_of(key_of(KeyAlgorithm.P256, 1).public_key())),
        "the public key is not the recorded one",
    ),
    "another issuer": (set_field(ISSUER, common_name(b"x")), "the issuer name is not the issuer's subject"),
}


@pytest.mark.parametrize("mutant", CA_MUTANTS)
def test_a_ca_that_differs_is_found(mutant: str) -> None:
    edit, problem = CA_MUTANTS[mutant]
    assert finding(lambda: lint_as_root(edited(standing_root().prepared, edit))) == problem
    assert finding(lambda: lint_as_issuer(edited(standing_issuer().prepared, edit))) == problem


@pytest.mark.parametrize("mutant", CA_MUTANTS.keys() - {"may sign CAs below"})
def test_a_cross_certificate_that_differs_is_found(mutant: str) -> None:
    edit, problem = CA_MUTANTS[mutant]
    assert finding(lambda: lint_as_cross(edited(CROSS, edit))) == problem


def test_a_cross_certificate_of_another_root_or_by_another_is_found() -> None:
    other = new_root(signer=signer_of(KeyAlgorithm.P256, 102))
    domain = str(MESH.id)
    assert finding(lambda: lint_cross(CROSS, other.issuer, standing_root().issuer, domain, FOUNDED)) == (
        "the public key is not that of the root"
    )
    assert finding(lambda: lint_cross(CROSS, NEXT.issuer, other.issuer, domain, FOUNDED)) == (
        "the issuer name is not the issuer's subject"
    )


def test_a_cross_certificate_that_would_outlive_either_root_is_found() -> None:
    for end, problem in (
        (standing_root().issuer.not_after, "it would outlive its issuer"),
        (NEXT.issuer.not_after, "it would outlive the root that it stands for"),
    ):
        after = end + timedelta(seconds=1)
        longer = replace(edited(CROSS, set_times(utc(CROSS.not_before), utc(after))), not_after=after)
        assert finding(lambda longer=longer: lint_as_cross(longer)) == problem  # type: ignore[misc]
    before = NEXT.issuer.not_before - timedelta(seconds=1)
    earlier = replace(edited(CROSS, set_times(utc(before), utc(CROSS.not_after))), not_before=before)
    older = replace(standing_root().issuer, certificate_der=new_root(now=FOUNDED - timedelta(days=1)).der)
    assert (
        finding(lambda: lint_cross(earlier, NEXT.issuer, older, str(MESH.id), FOUNDED))
        == "it would be valid before the root that it stands for"
    )


def test_a_cross_certificate_without_a_bound_or_room_for_an_issuing_ca_is_found() -> None:
    for constraints in (PATH_LENGTH_0, tlv(SEQUENCE, CRITICAL)):
        edit = set_extension(CA_BASIC, ext(19, constraints, critical=True))
        assert finding(lambda edit=edit: lint_as_cross(edited(CROSS, edit))) == not_right(19)  # type: ignore[misc]


def test_an_issuer_with_its_roots_name_is_found() -> None:
    twin = edited(standing_issuer().prepared, set_field(SUBJECT, standing_root().issuer.name_der))
    assert finding(lambda: lint_as_issuer(twin)) == WRONG_NAME


def test_a_root_with_a_path_length_and_an_issuer_without_are_found() -> None:
    bounded = set_extension(CA_BASIC, ext(19, PATH_LENGTH_0, critical=True))
    free = set_extension(CA_BASIC, ext(19, tlv(SEQUENCE, CRITICAL), critical=True))
    assert finding(lambda: lint_as_root(edited(standing_root().prepared, bounded))) == not_right(19)
    assert finding(lambda: lint_as_issuer(edited(standing_issuer().prepared, free))) == not_right(19)


def test_an_issuer_that_would_outlive_its_root_is_found() -> None:
    prepared = standing_issuer().prepared
    end = standing_root().issuer.not_after + timedelta(seconds=1)
    longer = replace(edited(prepared, set_times(utc(prepared.not_before), utc(end))), not_after=end)
    assert finding(lambda: lint_as_issuer(longer)) == "it would outlive its issuer"


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_cas_of_every_algorithm_pass(algorithm: KeyAlgorithm) -> None:
    root, issuer = new_root(algorithm), standing_issuer(algorithm)
    lint_root(root.prepared, SIGNATURE_ALGORITHMS[algorithm], str(MESH.id))
    lint_issuer(issuer.prepared, standing_root(algorithm).issuer, str(MESH.id), FOUNDED)
