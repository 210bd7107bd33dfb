"""How a trust domain is founded, and how its authorities are made."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm, fingerprint
from meshca.pki.records import LedgerQuery
from meshca.services.authorities import found
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.der import spki_of
from tests.assets.founded import found_ca

YEAR, DAY = timedelta(days=365), timedelta(days=1)
P256 = KeyAlgorithm.P256


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_a_founded_ring_has_an_active_root_and_an_active_issuer_under_it(algorithm: KeyAlgorithm) -> None:
    ca = found_ca(algorithm=algorithm)
    root, issuer = ca.ring.active(AuthorityKind.ROOT), ca.ring.active(AuthorityKind.ISSUER)
    assert root is not None
    assert issuer is not None
    assert ca.ring.authorities == (root, issuer)
    assert (root.issuer_id, issuer.issuer_id) == (root.id, root.id)
    assert (root.not_after, issuer.not_after) == (FOUNDED + 3650 * DAY, FOUNDED + 30 * DAY)
    assert (root.bundle_sequence, ca.ring.sequence, ca.ring.bundle().x509_authorities) == (1, 1, (root.certificate,))
    certificates = [x509.load_der_x509_certificate(a.certificate) for a in (root, issuer)]
    certificates[0].verify_directly_issued_by(certificates[0])
    certificates[1].verify_directly_issued_by(certificates[0])
    for authority, certificate in zip((root, issuer), certificates, strict=True):
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert authority.id == identifier.digest.hex()
        assert ca.memory_keys.signer(authority.key_id).public_key_der == spki_of(certificate.public_key())
        assert ca.memory_keys.signer(authority.key_id).algorithm is algorithm


def test_each_ca_certificate_is_in_the_ledger_before_it_is_signed() -> None:
    ca = found_ca()
    root, issuer = ca.ring.authorities
    records = ca.ledger.find(LedgerQuery()).records
    assert [(r.kind, r.issuer_id, r.bundle_sequence) for r in records] == [("issuer", root.id, 1), ("root", root.id, 0)]
    for record, authority in zip(records, (issuer, root), strict=True):
        certificate = x509.load_der_x509_certificate(authority.certificate)
        assert int(record.serial, 16) == certificate.serial_number
        assert record.key_fingerprint == fingerprint(spki_of(certificate.public_key()))
        assert (record.not_before, record.not_after) == (authority.not_before, authority.not_after)
        assert (record.spiffe_id, record.caller_id) == ("spiffe://example.org", "spiffe://example.org")
        assert (record.method, record.attested) == ("local", "authority")
    ca.maker.make_issuer(ca.ring, P256, DAY)
    assert ca.journal == ["record", "sign"]


@pytest.mark.parametrize("kind", ["root", "issuer"])
def test_no_ca_certificate_is_signed_while_the_ledger_is_out(kind: str) -> None:
    ca = found_ca()
    ca.ledger.out = True
    make = {
        "root": lambda: ca.maker.make_root(MESH, P256, YEAR),
        "issuer": lambda: ca.maker.make_issuer(ca.ring, P256, DAY),
    }
    keys = set(ca.memory_keys._signers)
    with pytest.raises(MeshcaError) as refused:
        make[kind]()
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert ca.journal == ["record"]
    assert set(ca.memory_keys._signers) == keys  # each tick tries again: none may leave a key behind


def test_a_successor_is_cross_signed_by_the_active_root_where_that_is_wanted() -> None:
    ca = found_ca()
    old = ca.ring.active(AuthorityKind.ROOT)
    assert old is not None
    ca.clock.move(DAY)
    plain = ca.maker.make_successor(ca.ring, P256, YEAR, cross_sign=False)
    assert plain.cross is None
    ca.forget_journal()
    made = ca.maker.make_successor(ca.ring, P256, YEAR, cross_sign=True)
    assert made.cross is not None
    certificate = x509.load_der_x509_certificate(made.cross.certificate)
    root = x509.load_der_x509_certificate(made.certificate)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(old.certificate))
    assert (certificate.subject, spki_of(certificate.public_key())) == (root.subject, spki_of(root.public_key()))
    assert (made.cross.signer_id, made.cross.not_after) == (old.id, FOUNDED + DAY + YEAR)
    assert certificate.not_valid_after_utc == made.cross.not_after
    assert ca.journal == ["record", "sign"] * 2
    record = ca.ledger.find(LedgerQuery(limit=1)).records[0]
    assert (record.kind, record.issuer_id, int(record.serial, 16)) == ("cross", old.id, certificate.serial_number)
    assert record.key_fingerprint == fingerprint(spki_of(root.public_key()))


def test_no_cross_certificate_is_signed_while_the_ledger_is_out_and_no_key_is_left_behind() -> None:
    ca = found_ca()
    keys = set(ca.memory_keys._signers)
    ca.ledger.out_after = 1
    with pytest.raises(MeshcaError) as refused:
        ca.maker.make_successor(ca.ring, P256, YEAR, cross_sign=True)
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert ca.journal == ["record", "sign", "record"]
    assert set(ca.memory_keys._signers) == keys


def test_a_root_is_made_without_a_cross_certificate_where_the_active_one_can_sign_none() -> None:
    ca = found_ca(root_ttl=40 * DAY)
    root = ca.ring.active(AuthorityKind.ROOT)
    assert root is not None
    external = AuthorityRing(MESH, 1, (replace(root, key_id=""),))
    tainted = AuthorityRing(MESH, 1, (replace(root, state=AuthorityState.TAINTED),))
    for ring in (external, tainted, AuthorityRing(MESH)):
        assert ca.maker.make_successor(ring, P256, YEAR, cross_sign=True).cross is None
    ca.clock.move(41 * DAY)
    assert ca.maker.make_successor(ca.ring, P256, YEAR, cross_sign=True).cross is None, "it has ended"


def test_a_domain_is_not_founded_twice() -> None:
    ca = found_ca()
    before = ca.store.load()
    with pytest.raises(MeshcaError) as refused:
        found(ca.maker, ca.store, MESH, root=(P256, YEAR), issuer=(P256, DAY))
    assert refused.value.kind is ErrorKind.CONFLICT
    assert ca.store.load() == before


def test_new_authorities_are_prepared_and_each_has_a_key_and_a_name_of_its_own() -> None:
    ca = found_ca()
    made = [ca.maker.make_root(MESH, P256, YEAR), *(ca.maker.make_issuer(ca.ring, P256, DAY) for _ in range(3))]
    assert {authority.state for authority in made} == {AuthorityState.PREPARED}
    subjects = {x509.load_der_x509_certificate(authority.certificate).subject for authority in made}
    assert len(subjects) == len({a.key_id for a in made}) == len({a.id for a in made}) == 4


def test_an_issuer_needs_an_active_root() -> None:
    ca = found_ca()
    with pytest.raises(MeshcaError) as refused:
        ca.maker.make_issuer(AuthorityRing(MESH), P256, DAY)
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.CONFLICT,
        "there is no active root to sign an issuing CA with",
    )
    assert ca.journal == []


def test_an_issuer_never_outlives_its_root() -> None:
    ca = found_ca(root_ttl=40 * DAY)
    ca.clock.move(20 * DAY)
    issuer = ca.maker.make_issuer(ca.ring, P256, 30 * DAY)
    assert issuer.not_after == FOUNDED + 40 * DAY


def test_a_root_whose_key_is_anothers_signs_nothing() -> None:
    ca = found_ca()
    root = ca.ring.active(AuthorityKind.ROOT)
    assert root is not None
    ca.memory_keys.delete(root.key_id)
    ca.memory_keys.generate(root.key_id, P256)
    with pytest.raises(MeshcaError) as refused:
        ca.maker.make_issuer(ca.ring, P256, DAY)
    assert refused.value.kind is ErrorKind.INTERNAL
    assert refused.value.message == f"key {root.key_id} does not belong to the certificate of authority {root.id}"
    assert ca.journal == []
