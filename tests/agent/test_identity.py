"""What may take the place of what an agent holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from meshca.agent.identity import with_bundle, with_newest_bundle
from meshca.errors import MeshcaError
from tests.agent.identities import identity
from tests.fakes.certificate_authority import TRUST_DOMAIN, fresh_root
from tests.svids import TestCa, bundle_of

ROOT, NEXT, STRANGER = fresh_root("first"), fresh_root("next"), fresh_root("stranger")


def now() -> datetime:
    return datetime.now(UTC)


def test_a_newer_bundle_is_put_beside_the_same_certificate() -> None:
    held = identity(ROOT)
    new = with_bundle(held, bundle_of(TRUST_DOMAIN, ROOT, NEXT, sequence=2), now())
    assert (new.svid, new.life, new.bundle.sequence) == (held.svid, held.life, 2)
    assert new.publication.identity == held.publication.identity
    assert new.publication.trust_version != held.publication.trust_version


def test_a_certificate_that_begins_a_lineage_does_so_beside_any_bundle() -> None:
    held = identity(ROOT)
    newer = bundle_of(TRUST_DOMAIN, ROOT, NEXT, sequence=2)
    assert not with_bundle(held, newer, now()).first
    assert with_bundle(replace(held, first=True), newer, now()).first


def test_the_same_bundle_again_changes_nothing() -> None:
    held = identity(ROOT, ROOT, NEXT)
    assert with_bundle(held, bundle_of(TRUST_DOMAIN, NEXT, ROOT), now()) is held


@pytest.mark.parametrize(
    ("trust_domain", "roots", "sequence", "problem"),
    [
        ("other.org", (ROOT,), 6, "is of other.org"),
        (TRUST_DOMAIN, (ROOT, NEXT), 4, "went back from sequence 5 to 4"),
        (TRUST_DOMAIN, (ROOT, NEXT), 5, "other roots"),
        (TRUST_DOMAIN, (STRANGER,), 6, "is not served"),
    ],
)
def test_a_bundle_that_must_not_take_its_place_is_refused(
    trust_domain: str, roots: tuple[TestCa, ...], sequence: int, problem: str
) -> None:
    held = identity(ROOT, sequence=5)
    with pytest.raises(MeshcaError, match=problem):
        with_bundle(held, bundle_of(trust_domain, *roots, sequence=sequence), now())


def test_a_certificate_that_was_asked_for_before_a_newer_bundle_came_is_put_beside_that() -> None:
    held = identity(ROOT, ROOT, NEXT, sequence=3)
    for sequence in (1, 2):
        obtained = identity(ROOT, sequence=sequence)
        new = with_newest_bundle(obtained, held, now())
        assert (new.serial, new.bundle) == (obtained.serial, held.bundle)
    later = identity(ROOT, sequence=4)
    assert with_newest_bundle(later, held, now()) is later
    assert with_newest_bundle(later, None, now()) is later


def test_a_certificate_that_the_newer_bundle_does_not_vouch_for_is_refused() -> None:
    held = identity(NEXT, NEXT, sequence=3)
    with pytest.raises(MeshcaError, match="is not served"):
        with_newest_bundle(identity(ROOT, sequence=2), held, now())


def test_the_issuer_is_told_by_the_authority_key_identifier() -> None:
    extension = ROOT.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert identity(ROOT).issuer_id == extension.value.digest.hex()
    assert identity(ROOT).issuer_id != identity(NEXT).issuer_id
