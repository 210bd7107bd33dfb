"""How long a rotation takes, as its plan says beforehand: by what is known of certificates and of who holds them."""

from __future__ import annotations

from datetime import datetime, timedelta

from meshca.authority.actions import IssuerPolicy, RootPolicy, RotationPolicy
from meshca.authority.evidence import Channel, Coverage, Evidence
from meshca.authority.plan import PUSH, Fleet, RotationPlan, plan_rotation
from meshca.authority.ring import AuthorityKind, AuthorityState
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

NOW = FOUNDED + timedelta(days=10)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SOAK = 5 * MINUTE
FLEET = Fleet(capacity=100.0, leaf_ttl=HOUR)
POLICY = RotationPolicy(
    IssuerPolicy(timedelta(days=30), 1 / 2, 5 / 6, HOUR), RootPolicy(timedelta(days=3650), SOAK, HOUR)
)
ACTIVE = AuthorityState.ACTIVE
RING = ring_of(authority(1, AuthorityKind.ROOT, ACTIVE), authority(2, state=ACTIVE, issuer_id="root1"))


def evidence(holders: dict[Channel, tuple[int, timedelta]], *, last: timedelta = HOUR) -> Evidence:
    """So many holders by each channel, and what is left of their last certificates; `last` is of all certificates."""
    number = sum(count for count, _ in holders.values())
    return Evidence(
        {RING.sequence: Coverage(RING.sequence, number, number, (), NOW)},
        signed_until={"issuer2": NOW + last},
        channels={channel: count for channel, (count, _) in holders.items()},
        at=NOW,
        until={channel: NOW + left for channel, (_, left) in holders.items()},
    )


def ends(known: Evidence) -> dict[str, timedelta]:
    """How long after its beginning each step of the rotation is over."""
    return {step.name: step.ends - NOW for step in plan(known).steps}


def plan(known: Evidence) -> RotationPlan:
    return plan_rotation(RING, POLICY, known, FLEET, NOW)


def test_where_all_hold_a_stream_the_last_certificate_from_before_is_what_takes_time() -> None:
    found = ends(evidence({Channel.STREAM: (1000, HOUR)}))
    assert found == {
        "prepare": timedelta(0),
        "distribute": PUSH,
        "soak": PUSH + SOAK,
        "activate": PUSH + SOAK,
        "renew": PUSH + SOAK + timedelta(seconds=20),  # half of what can be signed
        "retire": PUSH + SOAK + HOUR,
    }


def test_a_push_to_a_hundred_thousand_streams_takes_longer_than_one_to_ten_thousand() -> None:
    assert ends(evidence({Channel.STREAM: (10_000, HOUR)}))["distribute"] == PUSH
    assert ends(evidence({Channel.STREAM: (100_000, HOUR)}))["distribute"] == 10 * PUSH


def test_who_gets_roots_with_certificates_is_waited_for_until_the_last_one_from_before_ends() -> None:
    found = ends(evidence({Channel.STREAM: (900, HOUR), Channel.CERTIFICATE: (100, 58 * MINUTE)}))
    assert found["distribute"] == 58 * MINUTE
    assert found["activate"] == 58 * MINUTE + SOAK
    assert found["renew"] == found["retire"] == 58 * MINUTE + SOAK + HOUR


def test_who_is_not_known_to_have_anything_and_who_fetches_are_waited_for_likewise() -> None:
    for channel in (Channel.NONE, Channel.FETCH):
        assert ends(evidence({Channel.STREAM: (9, HOUR), channel: (1, 40 * MINUTE)}))["distribute"] == 40 * MINUTE


def test_certificates_that_live_longer_than_by_default_put_off_the_end() -> None:
    assert ends(evidence({Channel.STREAM: (10, 8 * HOUR)}, last=8 * HOUR))["retire"] == PUSH + SOAK + 8 * HOUR


def test_where_nobody_has_a_certificate_the_default_life_is_reckoned_with() -> None:
    found = ends(Evidence({RING.sequence: Coverage(RING.sequence, 0, 0, (), NOW)}, at=NOW))
    assert (found["distribute"], found["retire"]) == (PUSH, PUSH + SOAK + HOUR)


def test_the_plan_says_who_is_not_on_a_stream_and_until_when_that_is_waited_for() -> None:
    told = plan(evidence({Channel.STREAM: (900, HOUR), Channel.CERTIFICATE: (100, 58 * MINUTE)}))
    assert "900 holders get it on their streams; 100 others" in told.steps[1].what
    assert told.steps[1].what.endswith(shown(NOW + 58 * MINUTE))
    assert "others" not in plan(evidence({Channel.STREAM: (900, HOUR)})).steps[1].what


def shown(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
