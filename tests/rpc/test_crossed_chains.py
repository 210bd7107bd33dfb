"""What callers and operators are told while a new root is cross-signed."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.authority.ring import AuthorityKind
from meshca.pki.keys import KeyAlgorithm
from meshca.rpc.admin_messages import authority_message
from meshca.rpc.certificates import istio_response
from meshca.services.issuance import SigningRequest
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import WORKLOAD, found_ca, rotated_root

CSR = good_pem(key_of(KeyAlgorithm.P256))


def test_operators_are_told_which_root_has_signed_another() -> None:
    old, new = rotated_root(found_ca(), CSR).ring.of(AuthorityKind.ROOT)
    assert [authority_message(each).cross_signed_by for each in (old, new)] == ["", old.id]


def test_istios_clients_get_leaf_issuer_and_cross_certificate_and_then_the_roots() -> None:
    ca = rotated_root(found_ca(), CSR)
    new, issuer = ca.ring.active(AuthorityKind.ROOT), ca.ring.active(AuthorityKind.ISSUER)
    assert new is not None
    assert new.cross is not None
    assert issuer is not None
    issued = ca.issue(WORKLOAD, SigningRequest(CSR))
    *chain, bundle = istio_response(issued).cert_chain
    blocks = [x509.load_pem_x509_certificates(pem.encode()) for pem in chain]
    ders = [[each.public_bytes(Encoding.DER) for each in block] for block in blocks]
    assert ders == [[issued.certificate.der], [issuer.certificate], [new.cross.certificate]]
    assert len(x509.load_pem_x509_certificates(bundle.encode())) == 2
