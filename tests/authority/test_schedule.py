"""What is due on the whole ring, in which order; and whose coverage has a say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.authority.actions import (
    Activate,
    BeginRotation,
    IssuerPolicy,
    PrepareIssuer,
    Prune,
    Revoke,
    RootPolicy,
    RotationPolicy,
)
from meshca.authority.evidence import Coverage, Evidence
from meshca.authority.ring import Authority, AuthorityKind, AuthorityState, RootRotation
from meshca.authority.schedule import decide, sequences_in_question
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
POLICY = RotationPolicy(IssuerPolicy(30 * DAY, 0.6, 5 / 6, DAY), RootPolicy(100 * DAY, HOUR, DAY))
LATER = FOUNDED + 85 * DAY
HEARD = {f"{kind}{number}": HOUR for kind in ("root", "issuer") for number in range(1, 6)}


def root(index: int, state: AuthorityState, sequence: int = 0) -> Authority:
    """A root that lives for 100 days and came into its state when it was made."""
    return authority(index, ROOT, state, ttl=100 * DAY, since=FOUNDED, bundle_sequence=sequence)


def issuer(index: int, state: AuthorityState, under: int) -> Authority:
    """An issuing CA that is sixteen days old."""
    return authority(index, ISSUER, state, not_before=LATER - 16 * DAY, issuer_id=f"root{under}", since=FOUNDED)


def test_nothing_is_due_on_a_young_ring() -> None:
    ring = ring_of(root(1, ACTIVE), authority(2, ISSUER, ACTIVE, issuer_id="root1"))
    assert decide(ring, POLICY, FOUNDED + DAY, Evidence(at=FOUNDED + DAY)) == ()


def test_roots_come_before_issuing_cas_and_both_before_what_can_be_forgotten() -> None:
    ring = ring_of(root(3, OLD), root(1, ACTIVE), issuer(4, OLD, 1), issuer(2, ACTIVE, 9))
    assert decide(ring, POLICY, LATER, Evidence(seen=HEARD, at=LATER)) == (
        BeginRotation("the active root is past 80% of its life"),
        PrepareIssuer(),
        Prune("root3"),
        Prune("issuer4"),
    )


def test_distrust_is_not_left_for_later_with_what_can_be_forgotten() -> None:
    policy = replace(POLICY, root=replace(POLICY.root, automatic=False))
    ring = ring_of(root(3, OLD), root(4, TAINTED), root(1, ACTIVE), issuer(2, ACTIVE, 1), issuer(5, PREPARED, 9))
    assert decide(ring, policy, LATER, Evidence(seen=HEARD, at=LATER)) == (
        Revoke("root4"),
        Prune("root3"),
        Prune("issuer5"),
    )


def test_each_tier_goes_by_its_own_policy_and_by_the_evidence() -> None:
    rotation = RootRotation("operator", "because", FOUNDED, predecessor="root1", successor="root3")
    ring = replace(ring_of(root(1, ACTIVE), issuer(2, ACTIVE, 1), root(3, PREPARED, 7)), rotation=rotation)
    covered = Evidence({7: Coverage(7, 1, 1, (), LATER - HOUR)}, at=LATER)
    assert decide(ring, POLICY, LATER, covered) == (Activate("root3"),)
    assert decide(ring, POLICY, LATER, replace(covered, coverage={})) == ()
    patient = replace(POLICY, root=replace(POLICY.root, soak=2 * HOUR))
    assert decide(ring, patient, LATER, covered) == ()
    hasty = replace(POLICY, issuer=replace(POLICY.issuer, prepare_at=0.5))
    assert decide(ring, hasty, LATER, covered) == (Activate("root3"), PrepareIssuer())


QUESTIONS: dict[str, tuple[tuple[Authority, ...], tuple[int, ...]]] = {
    "the current bundle, always": ((), (9,)),
    "the bundle in which a prepared root appeared": ((root(1, PREPARED, 5),), (5, 9)),
    "that of an old root, which may be used again": ((root(1, OLD, 3),), (3, 9)),
    "not that of the active root": ((root(1, ACTIVE, 1),), (9,)),
    "not that of roots that are never used again": ((root(1, TAINTED, 1), root(2, REVOKED, 2)), (9,)),
    "not those of other kinds": ((authority(1, ISSUER, PREPARED, bundle_sequence=4),), (9,)),
    "each once": ((root(1, OLD, 3), root(2, PREPARED, 9), root(4, PREPARED, 3)), (3, 9)),
    "in the order of the ring": ((root(2, PREPARED, 5), root(1, OLD, 3)), (5, 3, 9)),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_the_coverage_that_has_a_say_is_that_of(case: str) -> None:
    authorities, sequences = QUESTIONS[case]
    assert sequences_in_question(ring_of(*authorities, sequence=9)) == sequences
