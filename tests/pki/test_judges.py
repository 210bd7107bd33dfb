"""What others think of our certificates: OpenSSL, cryptography's path verifier, and pkilint.

pkilint's findings are errors unless they stand in `FILTER`, each with its reason.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store
from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

from meshca.errors import MeshcaError
from meshca.pki.certificates import der_to_pem
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm
from meshca.pki.prepare import prepare
from meshca.pki.profiles import Grant, IssuanceProfile
from meshca.pki.sign import sign
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import SpiffeId
from meshca.spiffe.verification import verify_x509_svid
from tests.assets.authorities import (
    FOUNDED,
    MESH,
    MemoryCa,
    new_cross,
    new_issuer,
    new_root,
    request_for,
    serial,
    signer_of,
    standing_issuer,
    standing_root,
)
from tests.assets.csrs import key_of
from tests.svids import key_usage

ID = "spiffe://example.org/ns/a/sa/b"
NOW = FOUNDED + timedelta(hours=1)
LEAVES = (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA2048)
OPENSSL = shutil.which("openssl")

# code: why it is no fault
FILTER = {
    # pkilint's URI grammar wants a host with a path or a scheme that it knows; X509-SVID section 2 prescribes this form
    "pkix.invalid_uri_syntax": "a SPIFFE id",
    # a remark, no fault: which of the methods of RFC 7093 made the key identifier
    "pkix.subject_key_identifier_rfc7093_method_1_identified": "SHA-256 key identifiers, on purpose",
}


def leaf_of(ca: MemoryCa, algorithm: KeyAlgorithm) -> bytes:
    grant = Grant(SpiffeId.parse(ID), timedelta(hours=1), ("b.a.svc",))
    request = request_for(key_of(algorithm))
    prepared = prepare(request, grant, ca.issuer, IssuanceProfile(), serial=serial(3), now=NOW)
    return sign(prepared, ca.signer).der


@cache
def chain(ca: KeyAlgorithm, leaf: KeyAlgorithm) -> tuple[bytes, bytes, bytes]:
    """Root, issuing CA and leaf."""
    return standing_root(ca).der, standing_issuer(ca).der, leaf_of(standing_issuer(ca), leaf)


def openssl_verify(
    directory: Path, root: bytes, untrusted: tuple[bytes, ...], subject: bytes, purpose: str
) -> tuple[bool, str]:
    """Whether OpenSSL takes `subject`, and its words."""
    assert OPENSSL is not None
    for file, ders in {"root.pem": (root,), "untrusted.pem": untrusted, "subject.pem": (subject,)}.items():
        (directory / file).write_text("".join(map(der_to_pem, ders)))
    command = [OPENSSL, "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-check_ss_sig"]
    command += [
        "-attime",
        str(int(NOW.timestamp())),
        "-CAfile",
        "root.pem",
        "-untrusted",
        "untrusted.pem",
        "-purpose",
        purpose,
    ]
    done = subprocess.run([*command, "subject.pem"], cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")


@needs_openssl
@pytest.mark.parametrize("ca", CA_ALGORITHMS)
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_openssl_takes_a_leaf_for_both_purposes(
    ca: KeyAlgorithm, purpose: str, leaf: KeyAlgorithm, tmp_path: Path
) -> None:
    root, issuer, end = chain(ca, leaf)
    passed, output = openssl_verify(tmp_path, root, (issuer,), end, purpose)
    assert passed, output


@needs_openssl
@pytest.mark.parametrize("ca", CA_ALGORITHMS)
def test_openssl_takes_an_issuer_and_a_root(ca: KeyAlgorithm, tmp_path: Path) -> None:
    root, issuer, _ = chain(ca, KeyAlgorithm.P256)
    for subject in (root, issuer):
        passed, output = openssl_verify(tmp_path, root, (issuer,), subject, "any")
        assert passed, output


@needs_openssl
def test_openssl_refuses_a_leaf_of_another_root_as_it_should(tmp_path: Path) -> None:
    other = new_root(signer=signer_of(KeyAlgorithm.P256, 101))
    _, issuer, end = chain(KeyAlgorithm.P256, KeyAlgorithm.P256)
    passed, output = openssl_verify(tmp_path, other.der, (issuer,), end, "sslserver")
    assert not passed
    assert "unable to get local issuer certificate" in output


@needs_openssl
def test_openssl_refuses_a_ca_below_an_issuer_as_it_should(tmp_path: Path) -> None:
    """An issuing CA has path length zero: a CA that a thief of its key makes vouches for nobody."""
    root, issuer = standing_root(), standing_issuer()
    below = new_issuer(issuer, signer=signer_of(KeyAlgorithm.P256, 202))
    end = leaf_of(below, KeyAlgorithm.P256)
    passed, output = openssl_verify(tmp_path, root.der, (issuer.der, below.der), end, "sslserver")
    assert not passed
    assert "path length constraint exceeded" in output


@cache
def crossed(algorithm: KeyAlgorithm) -> tuple[MemoryCa, MemoryCa, bytes, bytes, bytes]:
    """The old root, the new one, the new one by the old one, an issuing CA under the new one, and a leaf."""
    old, new = standing_root(algorithm), new_root(signer=signer_of(KeyAlgorithm.P256, 101))
    issuer = new_issuer(new, signer=signer_of(KeyAlgorithm.P256, 202))
    return old, new, new_cross(new, old).der, issuer.der, leaf_of(issuer, KeyAlgorithm.P256)


@needs_openssl
@pytest.mark.parametrize("ca", CA_ALGORITHMS)
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_takes_a_crossed_chain_whichever_root_it_trusts(ca: KeyAlgorithm, purpose: str, tmp_path: Path) -> None:
    old, new, cross, issuer, end = crossed(ca)
    for root in (old, new):
        passed, output = openssl_verify(tmp_path, root.der, (issuer, cross), end, purpose)
        assert passed, output
    passed, output = openssl_verify(tmp_path, old.der, (issuer,), end, purpose)
    assert not passed, "it is the cross certificate that does it"
    passed, output = openssl_verify(tmp_path, old.der, (issuer,), cross, "any")
    assert passed, output


@needs_openssl
def test_openssl_takes_no_more_than_one_ca_below_a_cross_certificate(tmp_path: Path) -> None:
    old, new, cross, _, _ = crossed(KeyAlgorithm.P256)
    middle = new_root(signer=signer_of(KeyAlgorithm.P256, 104))
    below = new_issuer(middle, signer=signer_of(KeyAlgorithm.P256, 203))
    end = leaf_of(below, KeyAlgorithm.P256)
    untrusted = (below.der, new_cross(middle, new).der, cross)
    passed, output = openssl_verify(tmp_path, old.der, untrusted, end, "sslserver")
    assert not passed
    assert "path length constraint exceeded" in output


@pytest.mark.parametrize("trusted", [("old",), ("new",), ("old", "new"), ("new", "old")])
def test_our_own_verifier_takes_a_crossed_chain_whichever_root_it_trusts(trusted: tuple[str, ...]) -> None:
    old, new, cross, issuer, end = crossed(KeyAlgorithm.P256)
    roots = tuple({"old": old, "new": new}[name].der for name in trusted)
    bundles = {MESH: TrustBundle(MESH, roots, 1)}
    assert str(verify_x509_svid([end, issuer, cross], bundles, now=NOW)) == ID
    if trusted == ("old",):
        with pytest.raises(MeshcaError, match="no valid path"):
            verify_x509_svid([end, issuer], bundles, now=NOW)


@pytest.mark.parametrize("ca", CA_ALGORITHMS)
@pytest.mark.parametrize("leaf", LEAVES)
def test_cryptographys_verifier_finds_the_identity(ca: KeyAlgorithm, leaf: KeyAlgorithm) -> None:
    root, issuer, end = (x509.load_der_x509_certificate(der) for der in chain(ca, leaf))
    verifier = PolicyBuilder().store(Store([root])).time(NOW).max_chain_depth(2).build_client_verifier()
    verified = verifier.verify(end, [issuer])
    assert [certificate.serial_number for certificate in verified.chain] == [
        end.serial_number,
        issuer.serial_number,
        root.serial_number,
    ]
    assert verified.subjects is not None
    assert [subject.value for subject in verified.subjects] == [ID, "b.a.svc"]


@cache
def pkix_linter() -> object:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def pkilint_findings(der: bytes) -> set[str]:
    """The codes of what pkilint remarks on, down to mere information."""
    document = loader.load_certificate(der, "certificate")
    results = pkix_linter().validate(document.root)  # type: ignore[attr-defined]  # pkilint ships no types
    found = [description.finding for result in results for description in result.finding_descriptions]
    assert all(isinstance(finding.severity, ValidationFindingSeverity) for finding in found)
    return {finding.code for finding in found}


@pytest.mark.parametrize("ca", CA_ALGORITHMS)
def test_pkilint_finds_nothing_but_what_is_filtered(ca: KeyAlgorithm) -> None:
    root, issuer, _ = chain(ca, KeyAlgorithm.P256)
    leaves = [chain(ca, leaf)[2] for leaf in LEAVES]
    for der in (root, issuer, crossed(ca)[2], *leaves):
        assert pkilint_findings(der) == set(FILTER)


@pytest.mark.parametrize("leaf", [KeyAlgorithm.P521, KeyAlgorithm.ED25519])
def test_pkilint_finds_nothing_in_leaves_with_keys_that_must_be_allowed(leaf: KeyAlgorithm) -> None:
    assert pkilint_findings(leaf_of(standing_issuer(), leaf)) == set(FILTER)


def test_pkilint_finds_nothing_in_a_leaf_that_names_where_its_revocation_list_is() -> None:
    ca, request = standing_issuer(), request_for(key_of(KeyAlgorithm.P256))
    profile = IssuanceProfile(crl_url="http://ca.example.org:15014/crl")
    grant = Grant(SpiffeId.parse(ID), timedelta(hours=1))
    der = sign(prepare(request, grant, ca.issuer, profile, serial=serial(3), now=NOW), ca.signer).der
    assert pkilint_findings(der) == set(FILTER)


def test_pkilint_finds_what_istio_does_and_we_do_not() -> None:
    """The judge is awake: key encipherment on an EC key and a SAN that is not critical beside an empty subject."""
    issuer = standing_issuer()
    key = issuer.signer.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    wrong = (
        x509.CertificateBuilder()
        .serial_number(1)
        .issuer_name(issuer.issuer.certificate.subject)
        .subject_name(x509.Name([]))
        .public_key(key.public_key())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID)]), critical=False)
        .add_extension(key_usage("digital_signature", "key_encipherment"), critical=True)
        .sign(key, hashes.SHA256())
    )
    assert len(pkilint_findings(wrong.public_bytes(Encoding.DER)) - set(FILTER)) >= 3
