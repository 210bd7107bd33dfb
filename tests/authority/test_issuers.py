"""When the next issuing CA is prepared, put to use, and the last one forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from meshca.authority.actions import Action, Activate, IssuerPolicy, PrepareIssuer, Prune
from meshca.authority.evidence import UNKNOWN, Evidence
from meshca.authority.issuers import decide_issuers
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
POLICY = IssuerPolicy(30 * DAY, 1 / 2, 5 / 6, DAY)
ISSUER = AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState


def issuer(index: int, state: AuthorityState, born: int = 0) -> Authority:
    """An issuing CA born on a day, with 30 days to live."""
    born_at = FOUNDED + born * DAY
    return authority(index, ISSUER, state, not_before=born_at, issuer_id="root7")


def decide(ring: AuthorityRing, policy: IssuerPolicy, now: datetime) -> tuple[Action, ...]:
    """What is due where nothing is known of relying parties."""
    return decide_issuers(ring, policy, now, Evidence())


def at(day: float) -> datetime:
    return FOUNDED + day * DAY


FIRST, SECOND_ONE = issuer(1, ACTIVE), issuer(2, PREPARED, born=15)
PREPARE, USE_SECOND = PrepareIssuer(), Activate("issuer2")

CASES: dict[str, tuple[tuple[Authority, ...], datetime, tuple[Action, ...]]] = {
    "nothing is due in the first half": ((FIRST,), at(15) - SECOND, ()),
    "the next is prepared at half life": ((FIRST,), at(15), (PREPARE,)),
    "it is not prepared twice": ((FIRST, SECOND_ONE), at(16), ()),
    "it waits for five sixths": ((FIRST, SECOND_ONE), at(25) - SECOND, ()),
    "it is put to use at five sixths": ((FIRST, SECOND_ONE), at(25), (USE_SECOND,)),
    "without a prepared one, one is made late": ((FIRST,), at(25), (PREPARE,)),
    "an expired one is replaced": ((FIRST,), at(40), (PREPARE,)),
    "an expired one is replaced by the prepared one": ((FIRST, SECOND_ONE), at(40), (USE_SECOND,)),
    "a prepared one that expired is no use": ((FIRST, issuer(2, PREPARED, -40)), at(16), (PREPARE, Prune("issuer2"))),
    "a prepared one that expired is forgotten": ((FIRST, issuer(2, PREPARED, -40)), at(1), (Prune("issuer2"),)),
    "without an active one, one is made": ((), at(0), (PREPARE,)),
    "without an active one, the prepared one is used": ((issuer(2, PREPARED),), at(1), (USE_SECOND,)),
    "of two prepared ones the first is used": (
        (FIRST, SECOND_ONE, issuer(3, PREPARED, born=16)),
        at(25),
        (USE_SECOND,),
    ),
    "an old one goes with its own end": ((FIRST, issuer(0, OLD, -29)), at(1), (Prune("issuer0"),)),
    "where nothing is known of its leaves, an old one stays to its end": (
        (FIRST, issuer(0, OLD, -20)),
        at(10) - SECOND,
        (),
    ),
    "a prepared one under a root that is not active any more is forgotten": (
        (FIRST, replace(issuer(2, PREPARED), issuer_id="root6")),
        at(1),
        (Prune("issuer2"),),
    ),
    "one under a root that is not active any more is replaced": (
        (replace(FIRST, issuer_id="root6"),),
        at(1),
        (PREPARE,),
    ),
    "it is replaced by one under the active root": (
        (replace(FIRST, issuer_id="root6"), issuer(2, PREPARED)),
        at(1),
        (USE_SECOND,),
    ),
    "the active one is never forgotten": ((issuer(1, ACTIVE, -90),), at(0), (PREPARE,)),
    "several old ones go at once, after what is urgent": (
        (issuer(0, OLD, -90), FIRST, issuer(9, OLD, -80)),
        at(25),
        (PREPARE, Prune("issuer0"), Prune("issuer9")),
    ),
    "one from the future, made while the clock was ahead, is replaced": ((FIRST,), at(-1), (PREPARE,)),
    "two from the future are no use": ((FIRST, SECOND_ONE), at(-1), (PREPARE,)),
    "one from the future gives way to one that is valid": ((FIRST, issuer(2, PREPARED, -2)), at(-1), (USE_SECOND,)),
    "one from the future that is prepared is enough": ((issuer(1, ACTIVE, -16), SECOND_ONE), at(0), ()),
    "one from the future, replaced, stays while its leaves may live": (
        (issuer(1, ACTIVE, -2), issuer(2, OLD, 40)),
        at(0),
        (),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_decides(case: str) -> None:
    authorities, now, actions = CASES[case]
    root = authority(7, AuthorityKind.ROOT, ACTIVE, not_before=at(-200), ttl=3650 * DAY)
    assert decide(ring_of(root, *authorities), POLICY, now) == actions


MINUTE = timedelta(minutes=1)
PATIENT = replace(POLICY, propagation=MINUTE)
HEARD = {"issuer1": MINUTE, "issuer2": MINUTE}


@pytest.mark.parametrize("state", [OLD, TAINTED, REVOKED])
def test_one_that_signs_no_more_goes_with_its_last_certificate(state: AuthorityState) -> None:
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    ring = ring_of(root, FIRST, issuer(2, state))
    alive = Evidence(signed_until={"issuer2": at(2)}, seen=HEARD, at=at(1.5))
    assert decide_issuers(ring, PATIENT, at(1.5), alive) == ()
    gone = replace(alive, signed_until={"issuer1": at(9)}, at=at(2))
    assert decide_issuers(ring, PATIENT, at(2), gone) == (Prune("issuer2"),)
    unknown = replace(gone, signed_until={UNKNOWN: at(2.5)})
    assert decide_issuers(ring, PATIENT, at(2), unknown) == (), "it may come from any of them"


def test_it_stays_until_every_door_has_heard_that_it_signs_no_more() -> None:
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    ring = ring_of(root, FIRST, replace(issuer(2, OLD), since=at(-20)))
    assert decide_issuers(ring, PATIENT, at(1), Evidence(at=at(1))) == ()
    early = Evidence(seen={"issuer2": MINUTE - SECOND}, at=at(1))
    assert decide_issuers(ring, PATIENT, at(1), early) == ()
    assert decide_issuers(ring, PATIENT, at(1), replace(early, seen=HEARD)) == (Prune("issuer2"),)


def test_an_end_counts_by_the_time_that_does_not_leap() -> None:
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    ring = ring_of(root, issuer(1, ACTIVE, born=40), issuer(2, OLD))
    alive = {"issuer2": at(29)}
    assert decide_issuers(ring, POLICY, at(50), Evidence(signed_until=alive, at=at(20))) == ()
    assert decide_issuers(ring, POLICY, at(50), Evidence(signed_until=alive, at=at(30))) == (Prune("issuer2"),)


def test_nothing_is_made_where_no_root_is_active() -> None:
    tainted = authority(7, AuthorityKind.ROOT, TAINTED, ttl=3650 * DAY)
    assert decide(ring_of(tainted, issuer(1, TAINTED)), POLICY, at(20)) == ()


def test_a_tainted_one_stays_until_another_one_signs() -> None:
    """A server whose ring had an active root, and no issuing CA any more, took its state for lost and stopped."""
    tainted, gone = issuer(1, TAINTED), Evidence(at=at(90))
    without_root = ring_of(authority(7, AuthorityKind.ROOT, TAINTED, ttl=3650 * DAY), tainted)
    assert decide_issuers(without_root, POLICY, at(90), gone) == ()
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    assert decide_issuers(ring_of(root, tainted), POLICY, at(90), gone) == (PREPARE,)
    next_one = issuer(2, PREPARED, born=90)
    assert decide_issuers(ring_of(root, tainted, next_one), POLICY, at(90), gone) == (USE_SECOND,)
    signing = replace(next_one, state=ACTIVE)
    assert decide_issuers(ring_of(root, tainted, signing), POLICY, at(90), gone) == (Prune("issuer1"),)


def test_nothing_is_made_under_a_root_from_the_future() -> None:
    """A clock that is far behind mends itself or is mended; keys that are made meanwhile would be good for nothing."""
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    assert decide(ring_of(root, FIRST), POLICY, at(-1)) == ()
    assert decide(ring_of(root), POLICY, at(-1)) == ()
    assert decide(ring_of(root), POLICY, at(0)) == (PREPARE,)


def test_roots_and_jwt_keys_are_left_alone() -> None:
    others = [authority(i, kind, OLD) for i, kind in enumerate((AuthorityKind.ROOT, AuthorityKind.JWT))]
    root = authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY)
    assert decide(ring_of(root, FIRST, *others), POLICY, at(1)) == ()
    assert decide(ring_of(root, *others, issuer(8, ACTIVE, 100)), POLICY, at(100)) == ()


def under(root_ends: datetime, *authorities: Authority) -> AuthorityRing:
    root = replace(authority(7, AuthorityKind.ROOT, ACTIVE, ttl=3650 * DAY), not_after=root_ends)
    return ring_of(root, *(replace(a, issuer_id=root.id) for a in authorities))


def test_an_issuer_that_could_not_sign_a_leaf_of_full_length_is_replaced_early() -> None:
    """As after `leaf.max_ttl` was raised, or an `init` with a short first issuing CA."""
    generous = IssuerPolicy(30 * DAY, 1 / 2, 5 / 6, 20 * DAY)
    assert decide(under(at(3650), FIRST), generous, at(10) - SECOND) == ()
    assert decide(under(at(3650), FIRST), generous, at(10)) == (PREPARE,)
    assert decide(under(at(3650), FIRST, issuer(2, PREPARED, born=9)), generous, at(10)) == (USE_SECOND,)
    late = replace(generous, slack=2 * DAY)
    assert decide(under(at(3650), FIRST), late, at(8)) == (PREPARE,)


def test_an_issuer_that_ends_with_its_root_has_no_successor() -> None:
    ends_together = under(FIRST.not_after, FIRST)
    for day in (1, 16, 26, 29.999, 30, 31):
        assert decide(ends_together, POLICY, at(day)) == ()
