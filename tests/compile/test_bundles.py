"""What discovery streams serve of trust bundles: each form, its version, and nothing that would switch trust off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig

from meshca.compile.bundles import BUNDLE_TYPE, NO_RENEWAL, RENEWAL_TYPE, RenewalWindow, trust_names, trust_snapshot
from meshca.compile.secrets import bundle_secrets
from meshca.errors import ErrorKind, MeshcaError
from meshca.proto.meshca.v1 import certificates_pb2, discovery_pb2
from meshca.spiffe.bundles import RevocationList, TrustBundle
from meshca.spiffe.ids import TrustDomain
from meshca.xds.snapshot import SECRET_TYPE, Snapshot
from tests.assets.crls import a_list, with_lists
from tests.svids import NOW, bundle_of, new_root

ROOT, SECOND, FOREIGN = new_root("root"), new_root("second"), new_root("foreign")
OWN = bundle_of("example.org", ROOT, sequence=7)
OTHER = bundle_of("other.test", FOREIGN, sequence=3)
THIRD = bundle_of("a.test", SECOND, sequence=1)
ID = "spiffe://example.org"


def federated(*bundles: TrustBundle) -> dict[TrustDomain, TrustBundle]:
    return {bundle.trust_domain: bundle for bundle in bundles}


def secret(snapshot: Snapshot, name: str) -> Secret:
    parsed = Secret.FromString(snapshot.named(SECRET_TYPE)[name].body)
    assert parsed.name == name
    return parsed


def validator(snapshot: Snapshot) -> dict[str, str]:
    """The roots by trust domain, in their order, in the SPIFFE validator's form."""
    context = secret(snapshot, "ALL").validation_context
    assert context.custom_validator_config.name == "envoy.tls.cert_validator.spiffe"
    config = SPIFFECertValidatorConfig()
    assert context.custom_validator_config.typed_config.Unpack(config)
    return {domain.name: domain.trust_bundle.inline_bytes.decode() for domain in config.trust_domains}


def test_our_own_bundle_is_served_as_agents_serve_it() -> None:
    snapshot = trust_snapshot(OWN)
    assert tuple(snapshot.named(SECRET_TYPE)[name] for name in ("ROOTCA", ID)) == bundle_secrets(OWN)
    assert set(snapshot.named(SECRET_TYPE)) == {"ROOTCA", ID, "ALL"}


def test_the_validator_form_has_each_domain_with_its_own_roots_ours_first() -> None:
    assert validator(trust_snapshot(OWN)) == {"example.org": OWN.pem}
    both = validator(trust_snapshot(OWN, federated(OTHER, THIRD)))
    assert list(both.items()) == [("example.org", OWN.pem), ("a.test", THIRD.pem), ("other.test", OTHER.pem)]


def test_a_federated_bundle_has_its_own_names_and_vouches_for_nobody_else() -> None:
    snapshot = trust_snapshot(OWN, federated(OTHER))
    assert set(snapshot.named(SECRET_TYPE)) == {"ROOTCA", ID, "spiffe://other.test", "ALL"}
    context = secret(snapshot, "spiffe://other.test").validation_context
    assert context.trusted_ca.inline_bytes == OTHER.pem.encode()
    assert secret(snapshot, "ROOTCA").validation_context.trusted_ca.inline_bytes == OWN.pem.encode()
    assert set(snapshot.named(BUNDLE_TYPE)) == {ID, "spiffe://other.test"}


def test_agents_get_the_bundle_with_its_sequence() -> None:
    resource = trust_snapshot(OWN).named(BUNDLE_TYPE)[ID]
    assert certificates_pb2.TrustBundle.FromString(resource.body) == certificates_pb2.TrustBundle(
        trust_domain="example.org", x509_authorities=[ROOT.der], sequence=7, refresh_hint_seconds=300
    )


def test_a_new_sequence_of_the_same_roots_is_news_to_agents_alone() -> None:
    before, after = trust_snapshot(OWN), trust_snapshot(replace(OWN, sequence=8))
    assert before.named(SECRET_TYPE) == after.named(SECRET_TYPE)
    assert before.named(BUNDLE_TYPE)[ID].version != after.named(BUNDLE_TYPE)[ID].version


def test_other_roots_are_news_in_every_form() -> None:
    before, after = trust_snapshot(OWN), trust_snapshot(bundle_of("example.org", ROOT, SECOND, sequence=8))
    for type_url, name in trust_names(OWN.trust_domain):
        assert before.named(type_url)[name].version != after.named(type_url)[name].version


def test_the_names_of_our_own_bundle_are_all_that_carry_it() -> None:
    assert trust_names(OWN.trust_domain) == {
        (SECRET_TYPE, "ROOTCA"),
        (SECRET_TYPE, ID),
        (SECRET_TYPE, "ALL"),
        (BUNDLE_TYPE, ID),
    }


def test_the_renewal_directive_is_there_also_where_nothing_is_to_be_replaced() -> None:
    window = RenewalWindow(("cd", "ab"), NOW, 600)
    told = trust_snapshot(OWN, renewal=window).named(RENEWAL_TYPE)["renewal"]
    expected = discovery_pb2.RenewalDirective(
        issuer_ids=["ab", "cd"], window_start=int(NOW.timestamp()), window_seconds=600
    )
    assert discovery_pb2.RenewalDirective.FromString(told.body) == expected
    nothing = trust_snapshot(OWN, renewal=NO_RENEWAL).named(RENEWAL_TYPE)["renewal"]
    assert discovery_pb2.RenewalDirective.FromString(nothing.body) == discovery_pb2.RenewalDirective()
    assert nothing.version != told.version


@pytest.mark.parametrize("broken", [{"start": None}, {"seconds": 0}])
def test_a_renewal_without_a_window_is_refused(broken: dict[str, object]) -> None:
    fields: dict[str, object] = {"issuer_ids": ("ab",), "start": NOW, "seconds": 1, **broken}
    with pytest.raises(MeshcaError) as refused:
        RenewalWindow(**fields)  # type: ignore[arg-type]
    assert refused.value.kind is ErrorKind.INTERNAL


@pytest.mark.parametrize("foreign", [federated(bundle_of("example.org", FOREIGN)), {TrustDomain("third.test"): OTHER}])
def test_foreign_roots_never_vouch_for_our_own_domain_or_another(foreign: dict[TrustDomain, TrustBundle]) -> None:
    with pytest.raises(MeshcaError) as refused:
        trust_snapshot(OWN, foreign)
    assert refused.value.kind is ErrorKind.INTERNAL


def test_an_empty_bundle_is_never_served() -> None:
    empty = bundle_of("example.org", ROOT)
    object.__setattr__(empty, "x509_authorities", ())  # cannot be made otherwise
    object.__setattr__(empty, "certificates", ())
    with pytest.raises(MeshcaError):
        trust_snapshot(empty)
    other = bundle_of("other.test", ROOT)
    object.__setattr__(other, "x509_authorities", ())
    with pytest.raises(MeshcaError):
        trust_snapshot(OWN, federated(other))


def test_revocation_lists_are_in_the_message_and_in_secrets_that_envoy_reads_them_in() -> None:
    listed = with_lists(OWN, a_list(ROOT.intermediate("lists"), NOW, 5))
    before, after = trust_snapshot(OWN), trust_snapshot(listed)
    resource = after.named(BUNDLE_TYPE)["spiffe://example.org"]
    (sent,) = certificates_pb2.TrustBundle.FromString(resource.body).revocation_lists
    assert RevocationList(sent.crl, tuple(sent.issuers)) == listed.revocation_lists[0]
    changed = {
        name for name, resource in after.named(SECRET_TYPE).items() if resource != before.named(SECRET_TYPE)[name]
    }
    assert changed == {"ROOTCA", "spiffe://example.org"}, "Envoy's SPIFFE validator ignores lists"
