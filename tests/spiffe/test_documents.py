"""SPIFFE bundle documents (SPIFFE Trust Domain and Bundle, section 4; X509-SVID section 6)."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.documents import bundle_document
from meshca.spiffe.ids import TrustDomain
from tests.assets.authorities import MESH, new_root, signer_of, standing_root
from tests.assets.der import spki_of


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_a_root_is_a_jwk_whose_key_is_that_of_its_certificate(algorithm: KeyAlgorithm) -> None:
    der = standing_root(algorithm).der
    document = json.loads(bundle_document(TrustBundle(MESH, (der,), 3)))
    (jwk,) = document["keys"]
    assert (jwk["use"], "kid" in jwk) == ("x509-svid", False)
    assert [base64.b64decode(value, validate=True) for value in jwk["x5c"]] == [der]
    key = jwt.PyJWK.from_dict({**jwk, "alg": {"EC": ALGORITHMS.get(algorithm), "RSA": "RS256"}[jwk["kty"]]}).key
    assert spki_of(key) == spki_of(x509.load_der_x509_certificate(der).public_key())


ALGORITHMS = {KeyAlgorithm.P256: "ES256", KeyAlgorithm.P384: "ES384"}


def test_a_document_holds_every_root_in_order_with_sequence_and_hint() -> None:
    roots = tuple(new_root(signer=signer_of(KeyAlgorithm.P256, index)).der for index in (100, 101, 102))
    text = bundle_document(TrustBundle(MESH, roots, 2**63, refresh_hint=60))
    document = json.loads(text)
    assert set(document) == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (2**63, 60)
    assert tuple(base64.b64decode(jwk["x5c"][0]) for jwk in document["keys"]) == roots
    assert text.endswith("}\n")


def test_coordinates_keep_their_leading_zeros() -> None:
    """One key in 128 has a coordinate that begins with a zero byte, which must stay (RFC 7518 section 6.2.1.2)."""
    index = next(i for i in range(5000, 7000) if short_coordinate(i))
    document = json.loads(
        bundle_document(TrustBundle(MESH, (new_root(signer=signer_of(KeyAlgorithm.P256, index)).der,), 1))
    )
    (jwk,) = document["keys"]
    assert {len(base64.urlsafe_b64decode(jwk[axis] + "=")) for axis in "xy"} == {32}


def short_coordinate(index: int) -> bool:
    key = signer_of(KeyAlgorithm.P256, index).key.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    numbers = key.public_numbers()
    return min(numbers.x, numbers.y) < 1 << 248


def test_a_root_of_another_key_type_has_no_form_here() -> None:
    signer = signer_of(KeyAlgorithm.ED25519)
    assert isinstance(signer.key, ed25519.Ed25519PrivateKey)
    der = new_root(KeyAlgorithm.ED25519, signer=signer, trust_domain=TrustDomain("other.org")).der
    with pytest.raises(MeshcaError) as refused:
        bundle_document(TrustBundle(TrustDomain("other.org"), (der,), 1))
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.INTERNAL,
        "a root with a Ed25519PublicKey has no JWK form here",
    )
