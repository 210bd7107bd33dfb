"""The bytes that will be signed are those of an independent builder, and validities keep their promises."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.certificates import CertificateKind, PreparedCertificate
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm, key_family
from meshca.pki.lint import lint_leaf
from meshca.pki.prepare import (
    ca_subject,
    prepare,
    prepare_issuer,
    prepare_root,
    serial_from,
    subject_key_identifier,
)
from meshca.pki.profiles import Grant, IssuanceProfile, choose_ttl
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.assets.authorities import (
    FOUNDED,
    MESH,
    MemoryCa,
    new_issuer,
    new_root,
    request_for,
    serial,
    signer_of,
    standing_issuer,
    standing_root,
)
from tests.assets.csrs import key_of
from tests.assets.der import elements, inside

ID = SpiffeId.parse("spiffe://example.org/ns/a/sa/b")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LEAF_ALGORITHMS = (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA2048, KeyAlgorithm.ED25519, KeyAlgorithm.P521)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ETERNITY = timedelta(days=365 * 70)


@cache
def lasting_issuer(algorithm: KeyAlgorithm) -> MemoryCa:
    """An issuer from 2020 to 2090, so that only what is asked for bounds a leaf."""
    root = new_root(algorithm, now=LONG_AGO, ttl=ETERNITY)
    return new_issuer(root, algorithm, now=LONG_AGO, ttl=ETERNITY)


def usage(*, ca: bool, encipher: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, encipher, False, False, ca, ca, False, False)


def independent_tbs(
    prepared: PreparedCertificate,
    issuer: x509.Name,
    subject: x509.Name,
    signer: object,
    *extensions: tuple[x509.ExtensionType, bool],
) -> bytes:
    """What cryptography's builder would sign for the same wishes."""
    builder = (
        x509.CertificateBuilder()
        .serial_number(prepared.serial)
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(load_der_public_key(prepared.spki))  # type: ignore[arg-type]  # of a type that it takes
        .not_valid_before(prepared.not_before)
        .not_valid_after(prepared.not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return builder.sign(signer, None).tbs_certificate_bytes
    assert isinstance(signer, ec.EllipticCurvePrivateKey) or hasattr(signer, "private_numbers")
    curve = getattr(getattr(signer, "curve", None), "name", "")
    digest = hashes.SHA384() if curve == "secp384r1" else hashes.SHA256()
    return builder.sign(signer, digest).tbs_certificate_bytes  # type: ignore[arg-type]  # an RSA or EC key


def independent_leaf(
    prepared: PreparedCertificate, grant: Grant, ca: MemoryCa, *, rsa_leaf: bool, organization: str = ""
) -> bytes:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(grant.subject))]
    names += [x509.DNSName(name) for name in grant.dns_names]
    names += [x509.IPAddress(address) for address in grant.ip_addresses]
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    authority = ca.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return independent_tbs(
        prepared,
        ca.issuer.certificate.subject,
        x509.Name(subject),
        ca.signer.key,
        (x509.SubjectAlternativeName(names), not organization),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(ca=False, encipher=rsa_leaf), True),
        (both, False),
        (x509.SubjectKeyIdentifier(key_id(prepared.spki)), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), False),
    )


def key_id(spki: bytes) -> bytes:
    """RFC 7093 section 2, method 1, by way of RFC 5280's bit string as cryptography cuts it out."""
    whole = x509.SubjectKeyIdentifier.from_public_key(load_der_public_key(spki)).key_identifier  # type: ignore[arg-type]
    digest = hashes.Hash(hashes.SHA1())
    digest.update(bits(spki))
    assert digest.finalize() == whole
    digest = hashes.Hash(hashes.SHA256())
    digest.update(bits(spki))
    return digest.finalize()[:20]


def bits(spki: bytes) -> bytes:
    return inside(elements(inside(spki))[1])[1:]


def ca_name(label: str, trust_domain: TrustDomain, spki: bytes) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, label),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, key_id(spki).hex()),
        ]
    )


SEGMENTS = st.text("abcXYZ019._-", min_size=1, max_size=30).filter(lambda s: s not in (".", ".."))
PATHS = st.lists(SEGMENTS, min_size=1, max_size=20).map(lambda parts: "/" + "/".join(parts))
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOSTS = st.builds(
    lambda star, parts: star + ".".join(parts), st.sampled_from(["", "*."]), st.lists(LABELS, min_size=1, max_size=4)
)
ADDRESSES = st.ip_addresses()
TTLS = st.integers(1, 90 * 86400).map(lambda seconds: timedelta(seconds=seconds))
MOMENTS = st.timedeltas(180 * DAY, 69 * 365 * DAY).map(lambda age: LONG_AGO + age)
SERIALS = st.binary(min_size=20, max_size=20).map(serial_from)
GRANTS = st.builds(
    Grant,
    subject=st.builds(SpiffeId, st.just(MESH), PATHS),
    ttl=TTLS,
    dns_names=st.lists(HOSTS, max_size=12, unique=True).map(tuple),
    ip_addresses=st.lists(ADDRESSES, max_size=4, unique=True).map(tuple),
)
PROFILES = st.builds(
    IssuanceProfile,
    backdate=st.timedeltas(timedelta(0), timedelta(hours=2)).map(lambda t: timedelta(seconds=t.seconds)),
    organization=st.sampled_from(["", "", "Example", "Bäckerei Süß"]),
)


@given(GRANTS, MOMENTS, SERIALS, PROFILES, st.sampled_from(CA_ALGORITHMS), st.sampled_from(LEAF_ALGORITHMS))
@example(
    Grant(ID, DAY),
    datetime(2049, 12, 31, 12, tzinfo=UTC),
    serial(),
    IssuanceProfile(),
    KeyAlgorithm.P256,
    KeyAlgorithm.P256,
)
def test_a_leaf_is_byte_for_byte_what_an_independent_builder_writes(
    grant: Grant, now: datetime, number: int, profile: IssuanceProfile, ca: KeyAlgorithm, leaf: KeyAlgorithm
) -> None:
    issuer = lasting_issuer(ca)
    prepared = prepare(request_for(key_of(leaf)), grant, issuer.issuer, profile, serial=number, now=now)
    expected = independent_leaf(
        prepared, grant, issuer, rsa_leaf=leaf is KeyAlgorithm.RSA2048, organization=profile.organization
    )
    assert prepared.tbs == expected
    lint_leaf(prepared, grant, key_family(key_of(leaf).public_key()), issuer.issuer, profile, now)


@pytest.mark.parametrize("ca", CA_ALGORITHMS)
@given(now=MOMENTS, ttl=TTLS, number=SERIALS, name=st.from_regex(r"[a-z0-9._-]{1,255}", fullmatch=True))
def test_a_ca_is_byte_for_byte_what_an_independent_builder_writes(
    ca: KeyAlgorithm, now: datetime, ttl: timedelta, number: int, name: str
) -> None:
    domain, signer = TrustDomain(name), signer_of(ca, 100)
    uri = (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{name}")]), False)
    root = prepare_root(signer.public_key_der, ca, domain, serial=number, now=now, ttl=ttl)
    root_name, root_id = ca_name("meshca Root CA", domain, root.spki), key_id(root.spki)
    assert root.tbs == independent_tbs(
        root,
        root_name,
        root_name,
        signer.key,
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (usage(ca=True), True),
        uri,
        (x509.SubjectKeyIdentifier(root_id), False),
        (x509.AuthorityKeyIdentifier(root_id, None, None), False),
    )
    parent = new_root(ca, now=now, ttl=ttl, trust_domain=domain, signer=signer)
    spki = signer_of(KeyAlgorithm.P256, 200).public_key_der
    issuer = prepare_issuer(spki, parent.issuer, domain, serial=number, now=now, ttl=ttl)
    assert issuer.tbs == independent_tbs(
        issuer,
        root_name,
        ca_name("meshca Issuing CA", domain, spki),
        signer.key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(ca=True), True),
        uri,
        (x509.SubjectKeyIdentifier(key_id(spki)), False),
        (x509.AuthorityKeyIdentifier(root_id, None, None), False),
    )


def leaf(ca: MemoryCa, now: datetime, ttl: timedelta, profile: IssuanceProfile | None = None) -> PreparedCertificate:
    request = request_for(key_of(KeyAlgorithm.P256))
    return prepare(request, Grant(ID, ttl), ca.issuer, profile or IssuanceProfile(), serial=serial(), now=now)


@given(MOMENTS, TTLS, PROFILES)
def test_a_leaf_is_valid_now_and_for_no_longer_than_granted(
    now: datetime, ttl: timedelta, profile: IssuanceProfile
) -> None:
    prepared = leaf(lasting_issuer(KeyAlgorithm.P256), now, ttl, profile)
    assert prepared.not_before <= now < prepared.not_after
    assert now + ttl - SECOND < prepared.not_after <= now + ttl
    assert now - prepared.not_before < profile.backdate + SECOND


@given(MOMENTS, TTLS, PROFILES)
@example(datetime(2026, 1, 1, 0, 0, 0, 999999, UTC), SECOND, IssuanceProfile())
@example(datetime(2026, 1, 1, tzinfo=UTC), 2 * SECOND, IssuanceProfile(backdate=timedelta(hours=1)))
def test_backdating_takes_no_more_than_a_quarter_of_the_life(
    now: datetime, ttl: timedelta, profile: IssuanceProfile
) -> None:
    prepared = leaf(lasting_issuer(KeyAlgorithm.P256), now, ttl, profile)
    lifetime = prepared.not_after - prepared.not_before
    whole_seconds = now.replace(microsecond=0)
    assert now - prepared.not_before <= lifetime / 4 or prepared.not_before == whole_seconds
    if ttl >= 2 * SECOND:
        assert now < prepared.not_before + lifetime / 2, "who renews at half-life would be late already"


@pytest.mark.parametrize(
    ("ttl", "backdated"),
    [
        (1, 0),
        (3, 0),
        (4, 1),
        (20, 5),
        (239, 59),
        (240, 60),
        (3600, 60),
        (90 * 86400, 60),
    ],
)
def test_a_leaf_is_backdated_by_a_minute_or_a_quarter_of_its_ttl(ttl: int, backdated: int) -> None:
    prepared = leaf(
        standing_issuer() if ttl < 86400 else lasting_issuer(KeyAlgorithm.P256),
        FOUNDED + MINUTE,
        timedelta(seconds=ttl),
    )
    assert FOUNDED + MINUTE - prepared.not_before == timedelta(seconds=backdated)


def test_fractions_of_a_second_shorten_a_leaf_and_never_lengthen_it() -> None:
    now = FOUNDED + timedelta(hours=1, microseconds=999_999)
    prepared = leaf(standing_issuer(), now, timedelta(hours=1))
    assert prepared.not_before == FOUNDED + timedelta(minutes=59) + SECOND
    assert prepared.not_after == FOUNDED + timedelta(hours=2)


@given(st.timedeltas(-MINUTE, timedelta(days=30) - timedelta(microseconds=1)), TTLS)
def test_a_leaf_stays_within_its_issuers_life(age: timedelta, ttl: timedelta) -> None:
    issuer = standing_issuer().issuer
    prepared = leaf(standing_issuer(), FOUNDED + age, ttl)
    assert issuer.not_before <= prepared.not_before < prepared.not_after <= issuer.not_after
    assert prepared.not_after == min((FOUNDED + age + ttl).replace(microsecond=0), issuer.not_after)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), SECOND, timedelta(days=400)])
def test_an_expired_issuer_prepares_nothing(late: timedelta) -> None:
    issuer = standing_issuer().issuer
    with pytest.raises(MeshcaError) as refused:
        leaf(standing_issuer(), issuer.not_after + late, SECOND)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert refused.value.message == (
        f"authority {issuer.authority_id} can sign no more: it expires at 2026-07-01T12:00:00Z"
    )


def test_an_expired_root_prepares_no_issuer() -> None:
    root = standing_root()
    with pytest.raises(MeshcaError) as refused:
        new_issuer(root, now=root.issuer.not_after)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert refused.value.message == (
        f"authority {root.issuer.authority_id} can sign no more: it expires at 2036-05-29T12:00:00Z"
    )


@given(st.timedeltas(timedelta(0), timedelta(days=3650) - SECOND), st.timedeltas(SECOND, timedelta(days=9000)))
def test_an_issuer_stays_within_its_roots_life(age: timedelta, ttl: timedelta) -> None:
    root = standing_root().issuer
    spki = signer_of(KeyAlgorithm.P256, 200).public_key_der
    prepared = prepare_issuer(spki, root, MESH, serial=serial(), now=FOUNDED + age, ttl=ttl)
    assert root.not_before <= prepared.not_before <= FOUNDED + age < prepared.not_after <= root.not_after


@pytest.mark.parametrize(
    ("not_after", "form"),
    [
        ("2049-12-31T23:59:59+00:00", b"\x17\x0d491231235959Z"),
        ("2050-01-01T00:00:00+00:00", b"\x18\x0f20500101000000Z"),
    ],
)
def test_times_are_utc_time_through_2049_and_generalized_time_from_2050(not_after: str, form: bytes) -> None:
    end = datetime.fromisoformat(not_after)
    prepared = leaf(lasting_issuer(KeyAlgorithm.P256), end - DAY, DAY)
    assert prepared.not_after == end
    assert prepared.tbs.count(form) == 1


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=20, max_size=20))
@example(bytes(20), b"\xff" * 20)
def test_serials_keep_158_random_bits_and_have_20_octets(first: bytes, second: bytes) -> None:
    serials = serial_from(first), serial_from(second)
    assert [number.bit_length() for number in serials] == [159, 159]
    mask = (1 << 158) - 1
    assert (serials[0] == serials[1]) == (int.from_bytes(first, "big") & mask == int.from_bytes(second, "big") & mask)


@pytest.mark.parametrize("size", [0, 16, 19, 21])
def test_a_serial_is_not_made_of_other_than_20_bytes(size: int) -> None:
    with pytest.raises(MeshcaError) as refused:
        serial_from(bytes(size))
    assert refused.value.kind is ErrorKind.INTERNAL
    assert refused.value.message == f"a serial number takes 20 random bytes, not {size}"


def test_each_ca_key_gets_a_subject_of_its_own() -> None:
    ids = [subject_key_identifier(signer_of(KeyAlgorithm.P256, index).public_key_der) for index in range(8)]
    kinds = (CertificateKind.ROOT, CertificateKind.ISSUER)
    names = {ca_subject(MESH, kind, key).public_bytes() for kind in kinds for key in ids}
    assert len(names) == 16


def test_a_prepared_certificate_can_be_read_before_it_is_signed() -> None:
    prepared = leaf(standing_issuer(), FOUNDED, timedelta(hours=1))
    unsigned = prepared.unsigned()
    assert unsigned.tbs_certificate_bytes == prepared.tbs
    assert unsigned.signature == b""
    assert int(prepared.serial_hex, 16) == unsigned.serial_number == prepared.serial


def test_ip_addresses_and_names_keep_their_order() -> None:
    addresses = (ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1"))
    grant = Grant(ID, timedelta(hours=1), ("b.example", "a.example", "*.example"), addresses)
    request, issuer = request_for(key_of(KeyAlgorithm.P256)), standing_issuer().issuer
    prepared = prepare(request, grant, issuer, IssuanceProfile(), serial=serial(), now=FOUNDED)
    san = prepared.unsigned().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [name.value for name in san.value] == [str(ID), "b.example", "a.example", "*.example", *addresses]
    assert san.critical


@pytest.mark.parametrize(
    ("wanted", "given_seconds"),
    [(-(2**63), 3600), (-1, 3600), (0, 3600), (1, 1), (3600, 3600), (86399, 86399), (86400, 86400)],
)
def test_a_ttl_is_the_wish_or_the_default(wanted: int, given_seconds: int) -> None:
    assert choose_ttl(wanted, IssuanceProfile()) == timedelta(seconds=given_seconds)


@pytest.mark.parametrize("wanted", [86401, 90 * 86400, 2**63 - 1])
def test_a_ttl_above_the_maximum_is_refused_and_never_shortened(wanted: int) -> None:
    with pytest.raises(MeshcaError) as refused:
        choose_ttl(wanted, IssuanceProfile())
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INVALID, "TTL_ERROR")
    assert refused.value.message == f"requested TTL {wanted}s is greater than the max allowed TTL 86400s"
