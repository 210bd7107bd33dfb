"""The server's own certificate: what it says, when it is renewed, and what stays in use when that fails."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from meshca.authority.ring import Advanced, AuthorityKind, Prepared, Step, apply, apply_all
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.records import LedgerQuery
from meshca.services.issuance import SigningRequest
from meshca.services.server_identity import ServerIdentity, ServerNames, TlsMaterial, server_names
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.csrs import good_pem, key_of
from tests.assets.der import spki_of
from tests.assets.founded import WORKLOAD, FoundedCa, found_ca, rotated_root

DAY = timedelta(days=1)
CSR = good_pem(key_of(KeyAlgorithm.P256))
NAMES = ServerNames(("localhost", "ca.example"), (ipaddress.ip_address("127.0.0.1"),))


@dataclass
class Server:
    """A founded CA and the identity of its server."""

    ca: FoundedCa
    identity: ServerIdentity


def a_server(ttl: timedelta = DAY) -> Server:
    ca = found_ca()
    return Server(ca, ServerIdentity(ca.issuance, ca.signing, ca.clock, MESH, NAMES, ttl))


def leaf(material: TlsMaterial) -> x509.Certificate:
    return x509.load_pem_x509_certificates(material.chain)[0]


def test_the_first_certificate_names_the_server_and_fits_its_key() -> None:
    server = a_server()
    before = server.identity.material
    material = server.identity.ensure()
    assert (before, server.identity.material) == (None, material)
    certificate, *chain = x509.load_pem_x509_certificates(material.chain)
    roots = x509.load_pem_x509_certificates(material.roots)
    verifier = PolicyBuilder().store(Store(roots)).time(FOUNDED).build_server_verifier(x509.DNSName("ca.example"))
    verifier.verify(certificate, chain)
    names = [name.value for name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    assert names == ["spiffe://example.org/meshca/server", "localhost", "ca.example", ipaddress.ip_address("127.0.0.1")]
    key = load_pem_private_key(material.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert spki_of(key.public_key()) == spki_of(certificate.public_key())


def test_it_is_in_the_ledger_as_the_servers_own() -> None:
    server = a_server()
    material = server.identity.ensure()
    record = server.ca.ledger.find(LedgerQuery(limit=1)).records[0]
    assert (record.serial, record.kind, record.method, record.attested) == (
        material.serial,
        "server",
        "local",
        "server",
    )
    assert record.spiffe_id == record.caller_id == "spiffe://example.org/meshca/server"
    assert record.dns_names == ("localhost", "ca.example")
    assert server.ca.journal == ["record", "sign"]


def test_its_key_shows_up_in_no_repr() -> None:
    material = a_server().identity.ensure()
    assert b"PRIVATE KEY" in material.private_key
    assert "PRIVATE" not in repr(material)


def test_it_is_kept_for_half_its_life_and_then_renewed_with_a_new_key() -> None:
    server = a_server()
    first = server.identity.ensure()
    half = first.not_before + (first.not_after - first.not_before) / 2
    server.ca.clock.moment = half - timedelta(microseconds=1)
    assert server.identity.ensure() is first
    server.ca.clock.moment = half
    second = server.identity.ensure()
    assert second.serial != first.serial
    assert second.private_key != first.private_key
    assert server.identity.ensure() is second


def test_it_follows_the_active_issuer_long_before_half_its_life() -> None:
    server = a_server()
    server.ca.clock.moment = FOUNDED + 15 * DAY
    server.ca.rotation.tick()
    server.ca.clock.moment = FOUNDED + 25 * DAY
    first = server.identity.ensure()
    server.ca.rotation.tick()
    second = server.identity.ensure()
    assert first.issuer_id != second.issuer_id == server.ca.signing.current().issuer.authority_id


def test_its_chain_has_the_cross_certificate_as_long_as_others_chains_do() -> None:
    ca = rotated_root(found_ca(), CSR)
    identity = ServerIdentity(ca.issuance, ca.signing, ca.clock, MESH, NAMES, 10 * DAY)
    material = identity.ensure()
    assert len(x509.load_pem_x509_certificates(material.chain)) == 3
    assert identity.ensure() is material
    ca.clock.move(DAY)
    ca.rotation.tick()
    assert len(x509.load_pem_x509_certificates(identity.ensure().chain)) == 2, "long before half its life"


def test_while_it_cannot_be_renewed_the_old_one_stays() -> None:
    server = a_server()
    first = server.identity.ensure()
    server.ca.clock.move(timedelta(hours=13))
    server.ca.ledger.out = True
    with pytest.raises(MeshcaError) as refused:
        server.identity.ensure()
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert server.identity.material is first
    server.ca.ledger.out = False
    assert server.identity.ensure().serial != first.serial


def test_new_roots_are_trusted_without_a_new_certificate() -> None:
    server = a_server()
    first = server.identity.ensure()
    stored = server.ca.store.load()
    root = server.ca.maker.make_root(MESH, KeyAlgorithm.P256, timedelta(days=3650))
    ring = apply_all(stored.ring, Prepared(root))
    server.ca.store.save(ring, expected_revision=stored.revision)
    server.ca.keeper.refresh()
    second = server.identity.ensure()
    assert (second.serial, second.chain) == (first.serial, first.chain)
    assert [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(second.roots)] == [
        a.certificate for a in ring.of(AuthorityKind.ROOT)
    ]
    gone = apply_all(ring, Advanced(root.id, Step.PRUNE))
    server.ca.store.save(gone, expected_revision=stored.revision + 1)
    server.ca.keeper.refresh()
    assert server.identity.ensure().roots == first.roots


def test_before_an_authority_is_loaded_there_is_none() -> None:
    server = a_server()
    server.ca.restart()
    unready = ServerIdentity(server.ca.issuance, server.ca.signing, server.ca.clock, MESH, NAMES, DAY)
    with pytest.raises(MeshcaError) as refused:
        unready.ensure()
    assert refused.value.reason == "CA_NOT_READY"
    assert unready.material is None


@pytest.mark.parametrize(
    ("configured", "hosts", "dns", "addresses"),
    [
        ((), ("127.0.0.1",), ("localhost",), ("127.0.0.1",)),
        ((), ("localhost",), ("localhost",), ("127.0.0.1",)),
        ((), ("::1",), ("localhost",), ("::1",)),
        ((), ("0.0.0.0", "0.0.0.0"), ("localhost",), ("127.0.0.1",)),
        ((), ("::",), ("localhost",), ("::1", "127.0.0.1")),
        ((), ("10.0.0.7", "127.0.0.2"), ("localhost",), ("10.0.0.7", "127.0.0.2")),
        (("istiod.istio-system.svc",), ("10.0.0.7",), ("istiod.istio-system.svc",), ("10.0.0.7",)),
        (("a", "10.0.0.7", "a", "localhost"), ("10.0.0.7",), ("a", "localhost"), ("10.0.0.7", "127.0.0.1")),
        ((), (), (), ()),
    ],
)
def test_names_come_from_configuration_and_from_where_it_listens(
    configured: tuple[str, ...], hosts: tuple[str, ...], dns: tuple[str, ...], addresses: tuple[str, ...]
) -> None:
    assert server_names(configured, hosts) == ServerNames(dns, tuple(map(ipaddress.ip_address, addresses)))


def test_a_clock_that_was_set_back_does_not_leave_a_certificate_that_is_not_valid_yet() -> None:
    server = a_server()
    server.ca.clock.move(DAY)
    first = server.identity.ensure()
    server.ca.clock.move(-timedelta(minutes=2))
    renewed = server.identity.ensure()
    assert renewed.serial != first.serial
    assert renewed.not_before <= server.ca.clock.now()


def test_while_nothing_may_be_issued_since_the_root_was_tainted_the_server_still_has_a_certificate() -> None:
    """Without one nobody could come for the next bundle; it is of the tainted issuing CA, which all still trust."""
    server = a_server()
    ring = server.ca.ring
    root = ring.active(AuthorityKind.ROOT)
    assert root is not None
    stored = server.ca.store.load()
    server.ca.store.save(apply(ring, Advanced(root.id, Step.TAINT)), expected_revision=stored.revision)
    server.ca.restart()
    server.ca.keeper.refresh()
    with pytest.raises(MeshcaError, match="no issuing CA may sign: the root was tainted"):
        server.ca.issue(WORKLOAD, SigningRequest(good_pem(key_of(KeyAlgorithm.P256))))
    identity = ServerIdentity(
        server.ca.issuance, server.ca.signing, server.ca.clock, MESH, ServerNames((), ()), timedelta(hours=24)
    )
    tainted = ring.active(AuthorityKind.ISSUER)
    assert tainted is not None
    assert identity.ensure().issuer_id == tainted.id
