"""What a rotation of the root will do, told before it does it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.authority.actions import IssuerPolicy, RootPolicy, RotationPolicy
from meshca.authority.evidence import Channel, Coverage, Evidence
from meshca.authority.plan import MIN_WINDOW, PUSH, Fleet, RotationPlan, plan_rotation, renewal_window
from meshca.authority.ring import AuthorityKind, AuthorityRing, AuthorityState
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

DAY, HOUR, MINUTE, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
POLICY = RotationPolicy(
    IssuerPolicy(30 * DAY, 0.5, 5 / 6, DAY, propagation=MINUTE),
    RootPolicy(3650 * DAY, HOUR, DAY, propagation=MINUTE),
)
FLEET = Fleet(capacity=100.0, leaf_ttl=4 * HOUR)
RING = ring_of(authority(1, AuthorityKind.ROOT, AuthorityState.ACTIVE), sequence=7)


def plan(streams: int, others: int, *, ring: AuthorityRing = RING, fleet: Fleet = FLEET) -> RotationPlan:
    coverage = {ring.sequence: Coverage(ring.sequence, streams + others, 0)}
    channels = {Channel.STREAM: streams, Channel.CERTIFICATE: others}
    until = {Channel.CERTIFICATE: FOUNDED + 2 * HOUR} if others else {}
    evidence = Evidence(coverage, channels=channels, at=FOUNDED, until=until)
    return plan_rotation(ring, POLICY, evidence, fleet, FOUNDED)


def ends(made: RotationPlan) -> dict[str, timedelta]:
    return {step.name: step.ends - FOUNDED for step in made.steps}


def test_the_steps_say_who_must_have_what() -> None:
    words = {step.name: (step.what, step.needs) for step in plan(3, 2).steps}
    assert words["prepare"] == ("a new root is made; bundle 8 has both", "nothing")
    assert words["distribute"][0] == (
        "3 holders get it on their streams; 2 others get it with their next certificate, and the last one from before"
        " ends at 2026-06-01T14:00:00Z"
    )
    assert words["soak"][1] == "all 5 holders have shown that they have it"
    assert words["renew"][0] == "certificates are replaced, pushed over 5s"
    assert "; " not in plan(3, 0).steps[1].what


EXTERNAL = replace(authority(1, AuthorityKind.ROOT, AuthorityState.ACTIVE), key_id="")


@pytest.mark.parametrize(
    ("ring", "words"),
    [
        (RING, "; the old one signs it, too, for those who lack it"),
        (ring_of(EXTERNAL, sequence=7), "; cross_sign has no effect: the key of root root1 is not here"),
        (
            ring_of(authority(1, AuthorityKind.ROOT, AuthorityState.TAINTED), sequence=7),
            "; cross_sign has no effect: no root is active",
        ),
        (
            ring_of(authority(1, AuthorityKind.ROOT, AuthorityState.ACTIVE, ttl=timedelta(0)), sequence=7),
            "; cross_sign has no effect: root root1 is not valid now",
        ),
    ],
)
def test_where_a_cross_certificate_is_wanted_it_says_whether_there_will_be_one(ring: AuthorityRing, words: str) -> None:
    policy = replace(POLICY, root=replace(POLICY.root, cross_sign=True))
    made = plan_rotation(ring, policy, Evidence(at=FOUNDED), FLEET, FOUNDED)
    assert made.steps[0].what == f"a new root is made; bundle 8 has both{words}"


def test_where_nothing_signs_the_soak_is_as_long_as_servers_need_to_hear() -> None:
    tainted = ring_of(authority(1, AuthorityKind.ROOT, AuthorityState.TAINTED), sequence=7)
    assert ends(plan(1, 0, ring=tainted))["soak"] == PUSH + MINUTE


def test_without_holders_it_takes_no_longer_than_the_last_leaf_might_live() -> None:
    made = plan_rotation(RING, POLICY, Evidence(at=FOUNDED), FLEET, FOUNDED)
    assert (made.holders, made.streams, made.renewals_per_second) == (0, 0, 0.0)
    assert ends(made)["retire"] == PUSH + HOUR + 4 * HOUR


@pytest.mark.parametrize(
    ("streams", "capacity", "seconds"),
    [
        (0, 100.0, 5),  # never less, so that a small mesh does not renew at once
        (250, 100.0, 5),
        (251, 100.0, 6),  # whole seconds, rounded up: half of what can be signed, at the most
        (100_000, 100.0, 2000),
        (10_000_000, 100.0, 7200),  # by half of a leaf's life they renew anyway
        (10, 0.0, 7200),
    ],
)
def test_renewals_are_spread_by_how_many_they_are_and_what_can_be_signed(
    streams: int, capacity: float, seconds: int
) -> None:
    assert timedelta(seconds=5) == MIN_WINDOW
    assert renewal_window(streams, replace(FLEET, capacity=capacity)) == timedelta(seconds=seconds)
