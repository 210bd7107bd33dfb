"""A plugged-in CA is read whole or not at all: in Istio's layout, or in that of a TLS secret."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import spki_der
from meshca.pki.plugged_in import parse_plugged_in
from tests.assets.foreign import foreign_ca, subject

ROOT = foreign_ca(subject("Corp Root"))
POLICY = foreign_ca(subject("Corp Policy"), ROOT)
ISSUER = foreign_ca(subject("Mesh"), POLICY)
OTHER = foreign_ca(subject("Other"), ROOT)

CACERTS = {
    "ca-cert.pem": ISSUER.pem,
    "ca-key.pem": ISSUER.key_pem,
    "cert-chain.pem": ISSUER.pem + POLICY.pem + ROOT.pem,  # as Istio's own tools write it
    "root-cert.pem": ROOT.pem,
}
TLS = {"tls.crt": ISSUER.pem + POLICY.pem, "tls.key": ISSUER.key_pem, "ca.crt": ROOT.pem}


@pytest.mark.parametrize("files", [CACERTS, TLS], ids=["cacerts", "tls"])
def test_both_layouts_give_the_same_ca(files: dict[str, bytes]) -> None:
    found = parse_plugged_in(files)
    assert found.certificates == (ISSUER.certificate, POLICY.certificate)
    assert found.roots == (ROOT.certificate,)
    assert spki_der(found.key.public_key()) == spki_der(ISSUER.key.public_key())
    assert not found.ignores_crl
    assert found.digest == parse_plugged_in(CACERTS).digest


def test_the_digest_is_another_for_another_root_beside_it() -> None:
    both = {**CACERTS, "root-cert.pem": ROOT.pem + foreign_ca(subject("Next")).pem}
    assert parse_plugged_in(both).digest != parse_plugged_in(CACERTS).digest


def test_the_key_is_shown_nowhere() -> None:
    assert "key" not in repr(parse_plugged_in(CACERTS)).lower()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["pkcs8", "sec1"])
def test_the_key_may_have_either_form(form: PrivateFormat) -> None:
    pem = ISSUER.key.private_bytes(Encoding.PEM, form, NoEncryption())
    assert parse_plugged_in({**CACERTS, "ca-key.pem": pem}).certificates[0] == ISSUER.certificate


def test_the_tls_layout_goes_before_the_other_as_in_istio() -> None:
    other = {"tls.crt": OTHER.pem, "tls.key": OTHER.key_pem, "ca.crt": ROOT.pem}
    assert parse_plugged_in({**CACERTS, **other}).certificates == (OTHER.certificate,)


def test_a_crl_is_noticed_and_not_used() -> None:
    assert parse_plugged_in({**CACERTS, "ca-crl.pem": b"anything"}).ignores_crl


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


ENCRYPTED = ISSUER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
DSA = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {},
            (
                "no CA is there: put ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem there, or tls.crt, tls.key,"
                " ca.crt"
            ),
        ),
        (
            without(CACERTS, "ca-key.pem"),
            "ca-key.pem is missing beside ca-cert.pem, cert-chain.pem, root-cert.pem",
        ),
        (
            without(CACERTS, "cert-chain.pem", "root-cert.pem"),
            "cert-chain.pem, root-cert.pem is missing beside ca-cert.pem, ca-key.pem",
        ),
        (without(TLS, "ca.crt"), "ca.crt is missing beside tls.crt, tls.key"),
        (without(TLS, "tls.crt"), "tls.crt is missing beside ca.crt, tls.key"),
        ({**CACERTS, **without(TLS, "tls.key")}, "tls.key is missing beside ca.crt, tls.crt"),
        (
            {**CACERTS, "ca-key.pem": OTHER.key_pem},
            "ca-key.pem is not the key of ca-cert.pem ('CN=Mesh'): give the two that belong together",
        ),
        (
            {**TLS, "tls.key": OTHER.key_pem},
            "tls.key is not the key of tls.crt ('CN=Mesh'): give the two that belong together",
        ),
        (
            {**CACERTS, "ca-key.pem": ENCRYPTED},
            "ca-key.pem is encrypted: give the key without a passphrase; meshca encrypts its copy",
        ),
        ({**CACERTS, "ca-key.pem": b"rubbish"}, "ca-key.pem holds no private key in PEM that can be read"),
        (
            {**CACERTS, "ca-key.pem": DSA},
            "ca-key.pem holds a key of a kind that cannot sign here: use P-256, P-384 or RSA",
        ),
        (
            {**CACERTS, "root-cert.pem": b""},
            "root-cert.pem holds no certificate: give PEM, the issuing CA's own certificate first",
        ),
        (
            {**CACERTS, "ca-cert.pem": ISSUER.key_pem},
            "ca-cert.pem holds a private key: give certificates only, and keep that key where it was made",
        ),
    ],
)
def test_a_set_that_is_not_whole_is_refused_by_name(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(MeshcaError) as refused:
        parse_plugged_in(files)
    assert (refused.value.kind, refused.value.message) == (ErrorKind.INVALID, words)
