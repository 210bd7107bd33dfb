"""SDS secrets: what may leave, in which shape, and all that Envoy would accept and must not get."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from meshca.compile.secrets import bundle_secrets, identity_secrets
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import PrivateKey
from meshca.spiffe.bundles import TrustBundle, crl_pem
from meshca.spiffe.ids import SpiffeId, TrustDomain
from meshca.spiffe.svids import X509Svid
from meshca.xds.snapshot import Resource
from tests.assets.crls import a_list, with_lists
from tests.svids import DAY, NOW, TestCa, bundle_of, new_key, new_root, uris

ID = "spiffe://example.org/ns/a/sa/b"
ROOT = new_root("root")
ISSUER = ROOT.intermediate("issuer")
KEY = new_key()
BUNDLE = bundle_of("example.org", ROOT)
SECOND = timedelta(seconds=1)


def pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def svid_of(*chain: bytes, key: bytes = pkcs8(KEY), spiffe_id: str = ID) -> X509Svid:
    return X509Svid(SpiffeId.parse(spiffe_id), chain, key)


def good(issuer: TestCa = ISSUER) -> X509Svid:
    return svid_of(issuer.svid(*uris(ID), key=KEY), issuer.der)


GOOD = good()


def parsed(resource: Resource) -> Any:
    secret = Secret.FromString(resource.body)
    assert secret.name == resource.name
    return secret


def identity_secret(svid: X509Svid, bundle: TrustBundle = BUNDLE) -> Resource:
    """The one called `default`."""
    return identity_secrets(svid, bundle, NOW)[0]


def trust_secret(bundle: TrustBundle = BUNDLE) -> Resource:
    """The one called `ROOTCA`."""
    return bundle_secrets(bundle)[0]


def refusal_of(svid: X509Svid, bundle: TrustBundle = BUNDLE) -> MeshcaError:
    with pytest.raises(MeshcaError) as refusal:
        identity_secrets(svid, bundle, NOW)
    assert refusal.value.kind is ErrorKind.INVALID
    assert "PRIVATE KEY" not in refusal.value.message
    return refusal.value


# --- what is given


def test_a_workload_gets_its_identity_and_its_bundle_under_both_names_each() -> None:
    secrets = (*identity_secrets(GOOD, BUNDLE, NOW), *bundle_secrets(BUNDLE))
    kinds = {resource.name: parsed(resource).WhichOneof("type") for resource in secrets}
    assert kinds == {
        "default": "tls_certificate",
        ID: "tls_certificate",
        "ROOTCA": "validation_context",
        "spiffe://example.org": "validation_context",
    }


def test_the_chain_is_pem_with_the_leaf_first_and_the_key_is_the_leafs() -> None:
    certificate = parsed(identity_secret(GOOD)).tls_certificate
    chain = x509.load_pem_x509_certificates(certificate.certificate_chain.inline_bytes)
    assert [c.public_bytes(Encoding.DER) for c in chain] == list(GOOD.chain)
    assert certificate.private_key.inline_bytes == pkcs8(KEY)


def test_a_tls_stack_loads_the_identity(tmp_path: Any) -> None:
    certificate = parsed(identity_secret(GOOD)).tls_certificate
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.certificate_chain.inline_bytes)
    key.write_bytes(certificate.private_key.inline_bytes)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)


def test_a_bundle_holds_all_its_roots_and_nothing_else() -> None:
    other = new_root("other")
    trust = parsed(trust_secret(bundle_of("example.org", ROOT, other))).validation_context
    roots = x509.load_pem_x509_certificates(trust.trusted_ca.inline_bytes)
    assert [c.public_bytes(Encoding.DER) for c in roots] == [ROOT.der, other.der]
    assert trust.trusted_ca.inline_bytes.count(b"-----BEGIN") == 2


def test_a_bundle_neither_widens_what_the_operator_admits_nor_accepts_the_untrusted() -> None:
    trust = parsed(trust_secret()).validation_context
    trust.ClearField("trusted_ca")
    assert trust == CertificateValidationContext()


def test_key_material_in_a_bundle_file_does_not_reach_the_trusted_ca() -> None:
    der = ROOT.der
    with pytest.raises(MeshcaError, match="no certificate"):
        TrustBundle(TrustDomain("example.org"), (der + pkcs8(KEY),), 1)
    with pytest.raises(MeshcaError, match="no certificate"):
        TrustBundle(TrustDomain("example.org"), (pkcs8(KEY),), 1)


def test_an_empty_bundle_is_never_served() -> None:
    """It would switch verification off: every caller would be let in."""
    empty = bundle_of("example.org", ROOT)
    object.__setattr__(empty, "x509_authorities", ())
    with pytest.raises(MeshcaError, match="is empty: it is not served") as refusal:
        trust_secret(empty)
    assert refusal.value.kind is ErrorKind.INTERNAL
    with pytest.raises(MeshcaError, match="would switch verification off"):
        TrustBundle(TrustDomain("example.org"), (), 1)


# --- versions


def versions(svid: X509Svid, bundle: TrustBundle) -> dict[str, str]:
    return {r.name: r.version for r in (*identity_secrets(svid, bundle, NOW), *bundle_secrets(bundle))}


def test_the_same_content_has_the_same_versions_and_bodies() -> None:
    again = X509Svid(GOOD.spiffe_id, GOOD.chain, GOOD.private_key_pem)
    again_bundle = bundle_of("example.org", ROOT)
    assert identity_secrets(GOOD, BUNDLE, NOW) == identity_secrets(again, again_bundle, NOW + SECOND)
    assert bundle_secrets(BUNDLE) == bundle_secrets(again_bundle)


def test_each_resource_has_a_version_of_its_own() -> None:
    assert len(set(versions(GOOD, BUNDLE).values())) == 4


def test_a_renewed_certificate_changes_the_identity_versions_only() -> None:
    before, after = versions(GOOD, BUNDLE), versions(good(), BUNDLE)
    assert {name for name in before if before[name] != after[name]} == {"default", ID}


def test_a_new_root_changes_the_bundle_versions_only() -> None:
    before = versions(GOOD, BUNDLE)
    after = versions(GOOD, bundle_of("example.org", ROOT, new_root("other")))
    assert {name for name in before if before[name] != after[name]} == {"ROOTCA", "spiffe://example.org"}


def test_the_sequence_of_a_bundle_is_not_its_content() -> None:
    assert versions(GOOD, BUNDLE) == versions(GOOD, bundle_of("example.org", ROOT, sequence=9))


# --- chains that are fine


@pytest.mark.parametrize(
    ("chain", "bundle"),
    [
        ((ISSUER.svid(*uris(ID), key=KEY), ISSUER.der, ROOT.der), BUNDLE),
        ((ROOT.svid(*uris(ID), key=KEY),), BUNDLE),
        ((ISSUER.svid(*uris(ID), key=KEY), ISSUER.der), bundle_of("example.org", new_root("root"), ROOT)),
        ((ISSUER.svid(*uris(ID), key=KEY, purposes=None), ISSUER.der), BUNDLE),
    ],
    ids=["root appended", "signed by the root", "two roots of one name", "no extended key usage"],
)
def test_other_good_chains_are_served(chain: tuple[bytes, ...], bundle: TrustBundle) -> None:
    assert identity_secret(svid_of(*chain), bundle).name == "default"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["P-384", "RSA"]
)
def test_other_key_types_are_served(key: PrivateKey) -> None:
    svid = svid_of(ISSUER.svid(*uris(ID), key=key), ISSUER.der, key=pkcs8(key))
    assert parsed(identity_secret(svid)).tls_certificate.private_key.inline_bytes == pkcs8(key)


def test_whatever_else_stands_in_the_key_file_stays_behind() -> None:
    noisy = b"junk before\n" + pkcs8(KEY) + b"junk after\n" + pkcs8(new_key())
    assert identity_secret(replace(GOOD, private_key_pem=noisy)) == identity_secret(GOOD)


# --- what Envoy would accept, and must not get


@dataclass(frozen=True)
class Bad:
    svid: Callable[[], X509Svid]
    why: str


def leaf_with(**changes: Any) -> X509Svid:
    return svid_of(ISSUER.svid(*changes.pop("names", uris(ID)), key=KEY, **changes), ISSUER.der)


LEAF = GOOD.chain[0]
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
OLD_ISSUER = ROOT.intermediate("old", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
NO_CA = ROOT.intermediate("no ca", ca=False)
FOREIGN = new_root("root")
ED25519 = ed25519.Ed25519PrivateKey.generate()

BAD = {
    "expired leaf": Bad(lambda: leaf_with(not_after=NOW - SECOND), "it expired at"),
    "leaf not valid yet": Bad(lambda: leaf_with(not_before=NOW + SECOND), "not valid before"),
    "expired intermediate": Bad(
        lambda: svid_of(OLD_ISSUER.svid(*uris(ID), key=KEY), OLD_ISSUER.der), "no valid path to a root"
    ),
    "CA as leaf": Bad(lambda: leaf_with(ca=True), "it is a CA certificate"),
    "leaf that may sign certificates": Bad(
        lambda: leaf_with(usages=("digital_signature", "key_cert_sign")), "keyCertSign or cRLSign"
    ),
    "leaf that may not sign": Bad(lambda: leaf_with(usages=("key_encipherment",)), "lacks digitalSignature"),
    "no intermediate": Bad(lambda: svid_of(LEAF), "no valid path to a root"),
    "intermediate that is no CA": Bad(
        lambda: svid_of(NO_CA.svid(*uris(ID), key=KEY), NO_CA.der), "no valid path to a root"
    ),
    "issuer of another root": Bad(
        lambda: good(FOREIGN.intermediate("issuer")),
        "no valid path to a root",
    ),
    "unknown critical extension": Bad(lambda: leaf_with(extra=[(UNKNOWN, True)]), "no valid path to a root"),
    "leaf for clients only": Bad(
        lambda: leaf_with(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]), "lacks serverAuth or clientAuth"
    ),
    "leaf for servers only": Bad(lambda: leaf_with(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]), "lacks clientAuth"),
    "two URI SANs": Bad(lambda: leaf_with(names=uris(ID, "spiffe://example.org/other")), "it has 2 URI SANs"),
    "no URI SAN": Bad(lambda: leaf_with(names=[x509.DNSName("a.example.org")]), "it has 0 URI SANs"),
    "another identity": Bad(
        lambda: leaf_with(names=uris("spiffe://example.org/other")), "its certificate is of spiffe://example.org/other"
    ),
    "another trust domain": Bad(
        lambda: svid_of(
            ISSUER.svid(*uris("spiffe://other.org/a"), key=KEY), ISSUER.der, spiffe_id="spiffe://other.org/a"
        ),
        "no trust bundle for its trust domain other.org",
    ),
    "chain upside down": Bad(lambda: svid_of(ISSUER.der, LEAF), "it has 0 URI SANs"),
    "chain in disorder": Bad(
        lambda: svid_of(LEAF, ROOT.der, ISSUER.der), r"chain\[1\] did not issue chain\[0\]: put the leaf first"
    ),
    "the leaf twice": Bad(lambda: svid_of(LEAF, LEAF, ISSUER.der), r"chain\[1\] did not issue chain\[0\]"),
    "something unrelated at the end": Bad(
        lambda: svid_of(LEAF, ISSUER.der, FOREIGN.der), r"chain\[2\] did not issue chain\[1\]"
    ),
    "another key": Bad(lambda: replace(GOOD, private_key_pem=pkcs8(new_key())), "is not that of its certificate"),
    "a key of another type": Bad(lambda: replace(GOOD, private_key_pem=pkcs8(ED25519)), "is not that of its certif"),
    "an encrypted key": Bad(
        lambda: replace(
            GOOD,
            private_key_pem=KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        ),
        "is not unencrypted PKCS#8 PEM",
    ),
    "a DER key": Bad(
        lambda: replace(GOOD, private_key_pem=KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        "is not unencrypted PKCS#8 PEM",
    ),
    "a certificate for a key": Bad(
        lambda: replace(GOOD, private_key_pem=GOOD.chain_pem.encode()), "is not unencrypted PKCS#8 PEM"
    ),
    "a broken key": Bad(
        lambda: replace(GOOD, private_key_pem=pkcs8(KEY).replace(b"M", b"N")), "is not unencrypted PKCS#8 PEM"
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_envoy_would_not_notice_is_refused(bad: Bad) -> None:
    refusal = refusal_of(bad.svid())
    with pytest.raises(MeshcaError, match=bad.why):
        raise refusal


def test_a_leaf_that_the_served_bundle_does_not_verify_is_refused() -> None:
    assert "no valid path to a root" in refusal_of(GOOD, bundle_of("example.org", FOREIGN)).message


def test_an_expired_root_vouches_for_nobody() -> None:
    old = new_root("old", not_after=NOW - DAY)
    svid = svid_of(old.svid(*uris(ID), key=KEY))
    assert "no valid path to a root" in refusal_of(svid, bundle_of("example.org", old)).message


def test_the_moment_of_asking_decides_on_validity() -> None:
    not_after = GOOD.leaf.not_valid_after_utc
    assert identity_secrets(GOOD, BUNDLE, not_after)
    with pytest.raises(MeshcaError, match="it expired at"):
        identity_secrets(GOOD, BUNDLE, not_after + SECOND)


def test_a_refusal_does_not_carry_the_key_in_its_causes() -> None:
    broken = pkcs8(KEY)[:-40]
    with pytest.raises(MeshcaError) as refusal:
        identity_secret(replace(GOOD, private_key_pem=broken))
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_revocation_lists_are_served_with_the_roots_and_held_against_leaves_alone() -> None:
    issuer = ROOT.intermediate("lists")
    plain = bundle_of("example.org", ROOT)
    listed = with_lists(plain, a_list(issuer, NOW, 5), a_list(ROOT.intermediate("other"), NOW))
    for before, resource in zip(bundle_secrets(plain), bundle_secrets(listed), strict=True):
        context = Secret.FromString(resource.body).validation_context
        assert context.crl.inline_bytes.count(b"BEGIN X509 CRL") == 2
        assert context.crl.inline_bytes == crl_pem(listed.revocation_lists).encode()
        assert context.only_verify_leaf_cert_crl
        old = Secret.FromString(before.body).validation_context
        assert (old.HasField("crl"), old.only_verify_leaf_cert_crl) == (False, False)
        assert resource.version != before.version
        newer = with_lists(plain, a_list(issuer, NOW, 5, 6), listed.revocation_lists[1])
        assert resource.version not in {each.version for each in bundle_secrets(newer)}
