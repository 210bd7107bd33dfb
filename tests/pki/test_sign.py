"""What comes back from a signer is believed only as far as it can be seen to be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.certificates import IssuedCertificate, PreparedCertificate, der_to_pem
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm
from meshca.pki.prepare import prepare
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.sign import sign, verify_issued
from meshca.spiffe.ids import SpiffeId
from tests.assets.authorities import (
    FOUNDED,
    MemorySigner,
    new_issuer,
    new_root,
    request_for,
    serial,
    signer_of,
    standing_issuer,
    standing_root,
)
from tests.assets.csrs import key_of


@dataclass(frozen=True)
class TwistedSigner:
    """A signer that gives back something else."""

    twist: Callable[[bytes], bytes]

    def sign(self, data: bytes) -> bytes:
        return self.twist(data)


def leaf(ca: KeyAlgorithm = KeyAlgorithm.P256) -> PreparedCertificate:
    grant = Grant(SpiffeId.parse("spiffe://example.org/ns/a/sa/b"), timedelta(hours=1))
    request = request_for(key_of(KeyAlgorithm.P256))
    return prepare(request, grant, standing_issuer(ca).issuer, IssuanceProfile(), serial=serial(9), now=FOUNDED)


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_the_signed_bytes_are_the_prepared_ones(algorithm: KeyAlgorithm) -> None:
    prepared, ca = leaf(algorithm), standing_issuer(algorithm)
    issued = sign(prepared, ca.signer)
    certificate = x509.load_der_x509_certificate(issued.der)
    assert certificate.tbs_certificate_bytes == prepared.tbs
    certificate.verify_directly_issued_by(ca.issuer.certificate)
    assert x509.load_pem_x509_certificate(issued.pem.encode()) == certificate


def test_an_empty_signature_is_not_given_out() -> None:
    with pytest.raises(MeshcaError) as refused:
        sign(leaf(), TwistedSigner(lambda _: b""))
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert refused.value.message == "the signed certificate is not the prepared one; it was not given out"


def test_whatever_a_signer_returns_the_signed_part_stays_what_was_prepared() -> None:
    injected = leaf().tbs + b"\x30\x00"
    issued = sign(leaf(), TwistedSigner(lambda data: injected + data))
    assert x509.load_der_x509_certificate(issued.der).tbs_certificate_bytes == leaf().tbs


WRONG_DIGEST = key_of(KeyAlgorithm.P256, 200)


def with_sha384(data: bytes) -> bytes:
    assert isinstance(WRONG_DIGEST, ec.EllipticCurvePrivateKey)
    return WRONG_DIGEST.sign(data, ec.ECDSA(hashes.SHA384()))


@pytest.mark.parametrize(
    "signer",
    [
        pytest.param(TwistedSigner(lambda _: b"\x00"), id="nonsense"),
        pytest.param(TwistedSigner(lambda data: standing_issuer().signer.sign(data + b"x")), id="of other bytes"),
        pytest.param(TwistedSigner(with_sha384), id="with another digest"),
        pytest.param(signer_of(KeyAlgorithm.P256, 1), id="by another key"),
        pytest.param(standing_root().signer, id="by the root"),
    ],
)
def test_a_signature_that_does_not_verify_is_found(signer: MemorySigner | TwistedSigner) -> None:
    with pytest.raises(MeshcaError) as refused:
        verify_issued(sign(leaf(), signer), standing_issuer().issuer)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INTERNAL, "CERT_GEN_ERROR")
    assert refused.value.message.startswith(f"certificate {leaf().serial_hex} does not verify under its issuer: ")


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_roots_issuers_and_leaves_verify_under_their_issuers(algorithm: KeyAlgorithm) -> None:
    root, issuer = standing_root(algorithm), standing_issuer(algorithm)
    verify_issued(IssuedCertificate(root.der, root.prepared), root.issuer)
    verify_issued(IssuedCertificate(issuer.der, issuer.prepared), root.issuer)
    verify_issued(sign(leaf(algorithm), issuer.signer), issuer.issuer)


def test_an_issuer_of_another_name_is_found() -> None:
    """The key is right and the signature verifies; the name is another generation's."""
    issuer = standing_issuer()
    stranger = new_issuer(new_root(signer=signer_of(KeyAlgorithm.P256, 101)), signer=issuer.signer)
    twin = replace(stranger.issuer, certificate_der=new_root(signer=issuer.signer).der)
    with pytest.raises(MeshcaError, match="does not verify under its issuer"):
        verify_issued(sign(leaf(), issuer.signer), twin)


def test_pem_is_what_cryptography_writes() -> None:
    for der in (standing_root().der, standing_issuer(KeyAlgorithm.RSA4096).der):
        from_library = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        assert der_to_pem(der).encode() == from_library
