"""When a rotation of the root begins, goes on, waits and ends; when distrust follows (law 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from meshca.authority.actions import (
    Action,
    Activate,
    BeginRotation,
    FinishRotation,
    PrepareRoot,
    Prune,
    Revoke,
    RootPolicy,
)
from meshca.authority.evidence import UNKNOWN, Coverage, Evidence
from meshca.authority.ring import (
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    RootRotation,
    RotationBegun,
    Step,
    apply,
    apply_all,
)
from meshca.authority.roots import decide_roots, is_covered, soak_of
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

DAY, HOUR, MINUTE, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
POLICY = RootPolicy(ttl=100 * DAY, soak=HOUR, max_leaf_ttl=DAY, rotate_at=0.8, propagation=MINUTE)
MANUAL, FORCING = replace(POLICY, automatic=False), replace(POLICY, force_at_expiry=True)


def at(day: float) -> datetime:
    return FOUNDED + day * DAY


def root(
    index: int, state: AuthorityState, *, born: float = 0, since: float | None = None, distrust: float | None = None
) -> Authority:
    """A root that lives for 100 days, and appeared in the bundle of its own number."""
    made = authority(index, ROOT, state, not_before=at(born), ttl=100 * DAY, bundle_sequence=index)
    return replace(
        made,
        since=None if since is None else at(since),
        distrust_at=None if distrust is None else at(distrust),
    )


def issuer(index: int, state: AuthorityState, under: int) -> Authority:
    return authority(index, ISSUER, state, issuer_id=f"root{under}", since=at(0))


def ring(*authorities: Authority, to: int | None = None, held: float | None = None) -> AuthorityRing:
    """A ring; `to` is the successor of the rotation under way, 0 for one that is yet to be made."""
    rotation = None
    if to is not None:
        rotation = RootRotation("operator", "because", at(0), predecessor="root1", successor=f"root{to}" if to else "")
    return replace(ring_of(*authorities), rotation=rotation, held_since=None if held is None else at(held))


def known(
    day: float,
    *,
    complete: Mapping[int, float | None] | None = None,
    depending: Mapping[frozenset[str], int] | None = None,
    signed: Mapping[str, float] | None = None,
) -> Evidence:
    """What is known on a day; `complete` says since when a sequence is covered, None for a laggard."""
    coverage = {
        sequence: Coverage(sequence, 9, 8 if since is None else 9, (), None if since is None else at(since))
        for sequence, since in (complete or {}).items()
    }
    return Evidence(coverage, {i: at(end) for i, end in (signed or {}).items()}, depending or {}, at=at(day))


@dataclass(frozen=True)
class Case:
    """A ring on a day, what is known (nothing of relying parties, unless told), and what is to be done."""

    ring: AuthorityRing
    day: float
    due: tuple[Action, ...] = ()
    evidence: Evidence | None = None
    policy: RootPolicy = field(default=POLICY)


def check(case: Case) -> None:
    """Everything is in its state since this process has seen it come into it, unless that is told."""
    evidence = known(case.day) if case.evidence is None else case.evidence
    if evidence.at is not None and not evidence.seen:
        seen = {a.id: evidence.at - a.since for a in case.ring.authorities if a.since is not None}
        evidence = replace(evidence, seen=seen)
    assert decide_roots(case.ring, case.policy, at(case.day), evidence) == case.due


FIRST, NEXT = root(1, ACTIVE), root(2, PREPARED, born=80)
BEGIN = BeginRotation("the active root is past 80% of its life")
BEGIN_WITHOUT = BeginRotation("no root is active")
S, H = SECOND / DAY, HOUR / DAY

BEGINNING = {
    "not before its time": Case(ring(FIRST), 80 - S),
    "at four fifths of the active root's life": Case(ring(FIRST), 80, (BEGIN,)),
    "also when it has ended": Case(ring(FIRST), 200, (BEGIN,)),
    "not by the schedule where operators do it": Case(ring(FIRST), 90, policy=MANUAL),
    "not after an abort, until an operator begins one": Case(ring(FIRST, held=70), 90),
    "at once where no root is active": Case(ring(root(1, TAINTED, since=0)), 1, (BEGIN_WITHOUT,)),
    "where no root is active, also by hand": Case(ring(root(1, TAINTED, since=0)), 1, (BEGIN_WITHOUT,), policy=MANUAL),
    "where no root is active, also after an abort": Case(ring(root(1, TAINTED), held=0), 1, (BEGIN_WITHOUT,)),
    "where only an old root is left": Case(ring(root(1, OLD, since=0)), 1, (BEGIN_WITHOUT,)),
    "where only a prepared root is left": Case(ring(root(1, PREPARED)), 1, (BEGIN_WITHOUT,)),
    "not in a ring without roots": Case(ring(), 1),
    "not while one is under way": Case(ring(FIRST, NEXT, to=2), 90),
}


@pytest.mark.parametrize("case", BEGINNING)
def test_a_rotation_begins(case: str) -> None:
    check(BEGINNING[case])


def test_the_share_of_its_life_is_the_policys() -> None:
    early = replace(POLICY, rotate_at=0.5)
    check(Case(ring(FIRST), 50 - S, policy=early))
    check(Case(ring(FIRST), 50, (BeginRotation("the active root is past 50% of its life"),), policy=early))


PREPARING = {
    "when there is no successor": Case(ring(FIRST, to=0), 80, (PrepareRoot(),)),
    "when the successor left the ring": Case(ring(FIRST, to=9), 80, (PrepareRoot(),)),
    "when the successor was tainted": Case(ring(FIRST, root(2, TAINTED), to=2), 80, (PrepareRoot(),)),
    "when the successor was revoked": Case(ring(FIRST, root(2, REVOKED), to=2), 80, (PrepareRoot(),)),
    "when the successor was put aside for another": Case(
        ring(FIRST, root(2, OLD, since=0), issuer(1, OLD, 2), to=2), 80, (PrepareRoot(),)
    ),
    "whatever else waits to be used": Case(ring(FIRST, NEXT, to=0), 80, (PrepareRoot(),)),
    "not twice": Case(ring(FIRST, NEXT, to=2), 80),
}


@pytest.mark.parametrize("case", PREPARING)
def test_a_successor_is_made(case: str) -> None:
    check(PREPARING[case])


def test_a_rotation_uses_a_root_that_is_prepared_already() -> None:
    begun = apply(ring(FIRST, NEXT), RotationBegun(RootRotation("operator", "because", at(81))))
    check(Case(begun, 82))
    check(Case(begun, 82, (Activate("root2"),), known(82, complete={2: 81})))


def test_a_successor_that_ended_is_forgotten_and_another_one_made() -> None:
    ended = ring(FIRST, root(2, PREPARED, born=-50), to=2)
    check(Case(ended, 50 - S))
    check(Case(ended, 50, (Prune("root2"),), known(50, complete={2: 10})))
    check(Case(apply(ended, Advanced("root2", Step.PRUNE)), 50, (PrepareRoot(),)))


def test_a_successor_from_the_future_waits_for_its_time() -> None:
    """It was made while the clock was ahead; what it signs would be good for nobody yet."""
    early = ring(FIRST, root(2, PREPARED, born=81), to=2)
    covered = known(81, complete={2: 70})
    check(Case(early, 81 - S, (), replace(covered, at=at(81 - S))))
    check(Case(early, 81, (Activate("root2"),), covered))


def test_a_successor_from_the_far_future_is_replaced() -> None:
    """A rotation whose successor was made while the clock was years ahead waited for years."""
    early = ring(FIRST, root(2, PREPARED, born=81), to=2)
    covered = known(81, complete={2: 70})
    check(Case(early, 81 - H, (), replace(covered, at=at(81 - H))))
    check(Case(early, 81 - H - S, (Prune("root2"),), replace(covered, at=at(81 - H - S))))
    check(Case(early, 81 - H, (), replace(covered, at=at(50))))
    check(Case(apply(early, Advanced("root2", Step.PRUNE)), 80, (PrepareRoot(),)))


WAITING = ring(FIRST, NEXT, to=2)
WITHOUT_ACTIVE = ring(root(1, TAINTED, since=80), NEXT, to=2)
USE = (Activate("root2"),)

GATE = {
    "stays shut where nothing is known": Case(WAITING, 90, (), Evidence()),
    "stays shut where nothing is known of that bundle": Case(WAITING, 90, (), known(90, complete={1: 80, 3: 80})),
    "stays shut while somebody lags": Case(WAITING, 90, (), known(90, complete={2: None})),
    "stays shut while somebody lags, though all have an older one": Case(
        WAITING, 90, (), known(90, complete={1: 80, 2: None})
    ),
    "stays shut while all have it for less than the soak": Case(WAITING, 90, (), known(90, complete={2: 90 - H + S})),
    "opens when all have it for the soak": Case(WAITING, 90, USE, known(90, complete={2: 90 - H})),
    "stays shut where nobody knows what time it is": Case(
        WAITING, 90, (), replace(known(90, complete={2: 80}), at=None)
    ),
    "counts the soak by the time that did not leap": Case(WAITING, 90, (), known(81, complete={2: 81 - H + S})),
    "takes no soak for less than doors need to hear": Case(
        WAITING, 90, (), known(90, complete={2: 90 - 59 * S}), replace(POLICY, soak=timedelta(0))
    ),
    "without a soak opens when doors have heard": Case(
        WAITING, 90, USE, known(90, complete={2: 90 - 60 * S}), replace(POLICY, soak=timedelta(0))
    ),
    "asks for no more than doors need to hear where nothing signs": Case(
        WITHOUT_ACTIVE, 90, USE, known(90, complete={2: 90 - 60 * S})
    ),
    "waits for doors to hear also where nothing signs": Case(
        WITHOUT_ACTIVE, 90, (), known(90, complete={2: 90 - 59 * S})
    ),
    "stays shut while somebody lags, where nothing signs": Case(WITHOUT_ACTIVE, 90, (), known(90, complete={2: None})),
}


@pytest.mark.parametrize("case", GATE)
def test_the_gate_before_a_successor_is_used(case: str) -> None:
    check(GATE[case])


def test_the_gate_says_by_itself_whether_it_is_open() -> None:
    covered, lagging = known(90, complete={2: 90 - H}), known(90, complete={2: None})
    assert is_covered(NEXT, WAITING, POLICY, covered)
    assert not is_covered(NEXT, WAITING, POLICY, lagging)


def test_the_soak_that_is_asked_for() -> None:
    assert soak_of(WAITING, POLICY) == HOUR
    assert soak_of(WAITING, replace(POLICY, soak=SECOND)) == MINUTE
    assert soak_of(WITHOUT_ACTIVE, POLICY) == MINUTE


LAGGING = known(99, complete={2: None})
BY_FORCE = (Activate("root2", "force_at_expiry: the active root ends before a leaf of full length would"),)

FORCED = {
    "never, unless it was decided beforehand": Case(WAITING, 99, (), LAGGING, POLICY),
    "not while leaves can have their full length": Case(WAITING, 99 - S, (), replace(LAGGING, at=at(99 - S)), FORCING),
    "when the active root could sign no leaf of full length": Case(WAITING, 99, BY_FORCE, LAGGING, FORCING),
    "also where nothing is known": Case(WAITING, 99, BY_FORCE, Evidence(), FORCING),
    "not by a clock that leapt": Case(WAITING, 99, (), known(85, complete={2: None}), FORCING),
    "not where no root is active": Case(WITHOUT_ACTIVE, 99, (), LAGGING, FORCING),
    "not one that is not valid yet": Case(ring(FIRST, root(2, PREPARED, born=99 + H), to=2), 99, (), LAGGING, FORCING),
}


@pytest.mark.parametrize("case", FORCED)
def test_the_end_of_the_active_root_forces_its_successor(case: str) -> None:
    check(FORCED[case])


SECOND_ROOT = root(2, ACTIVE, born=80, since=85)

FINISHING = {
    "when the successor is the only root": Case(ring(SECOND_ROOT, to=2), 90, (FinishRotation(),)),
    "not while an old root is left": Case(ring(root(1, OLD, since=85), issuer(1, OLD, 1), SECOND_ROOT, to=2), 90),
    "not while a tainted root is left": Case(
        ring(root(1, TAINTED, since=85), issuer(1, TAINTED, 1), SECOND_ROOT, to=2), 90
    ),
    "though a revoked root is kept for the record": Case(
        ring(root(1, REVOKED, since=85), SECOND_ROOT, to=2), 90, (FinishRotation(),)
    ),
    "not before the successor signs": Case(ring(NEXT, to=2), 90),
}


@pytest.mark.parametrize("case", FINISHING)
def test_a_rotation_ends(case: str) -> None:
    check(FINISHING[case])


OLD_ONE = root(1, OLD, since=85)
FORGET = (Prune("root1"),)

PRUNING = {
    "an old root, when nothing under it is left": Case(ring(OLD_ONE, SECOND_ROOT), 90, FORGET),
    "not while an issuing CA under it is left": Case(ring(OLD_ONE, issuer(1, OLD, 1), SECOND_ROOT), 90),
    "whatever is under other roots": Case(ring(OLD_ONE, SECOND_ROOT, issuer(2, ACTIVE, 2)), 90, FORGET),
    "not before doors have heard that it signs no more": Case(ring(OLD_ONE, SECOND_ROOT), 85 + 59 * S),
    "when doors have heard that it signs no more": Case(ring(OLD_ONE, SECOND_ROOT), 85 + 60 * S, FORGET),
    "not where it is unknown since when it is old": Case(ring(root(1, OLD), SECOND_ROOT), 90),
    "an old root that ended, whatever is under it": Case(
        ring(root(1, OLD, born=-20), issuer(1, OLD, 1), SECOND_ROOT), 80, FORGET
    ),
    "not an old root by a clock that leapt": Case(ring(OLD_ONE, SECOND_ROOT), 90, (), known(85)),
    "not an ended root by a clock that leapt": Case(
        ring(root(1, OLD, born=-20), issuer(1, OLD, 1), SECOND_ROOT), 80, (), known(79)
    ),
    "not while a certificate lives of which nothing is known": Case(
        ring(OLD_ONE, SECOND_ROOT), 90, (), known(90, signed={UNKNOWN: 91})
    ),
    "whatever other roots have signed": Case(ring(OLD_ONE, SECOND_ROOT), 90, FORGET, known(90, signed={"issuer2": 91})),
    "not before this process has seen it old for long enough, whatever the clocks of others showed": Case(
        ring(OLD_ONE, SECOND_ROOT), 90, (), replace(known(90), seen={"root1": 59 * SECOND})
    ),
    "never the active one": Case(ring(FIRST, held=0), 500),
    "a prepared root that ended": Case(ring(SECOND_ROOT, root(3, PREPARED, born=-20)), 81, (Prune("root3"),)),
    "not a prepared root before": Case(ring(SECOND_ROOT, root(3, PREPARED, born=-20)), 80 - S),
    "a revoked root that ended": Case(ring(SECOND_ROOT, root(3, REVOKED, born=-20)), 80, (Prune("root3"),)),
    "not a revoked root before": Case(ring(SECOND_ROOT, root(3, REVOKED, born=-20)), 80 - S),
    "several at once": Case(
        ring(OLD_ONE, SECOND_ROOT, root(3, REVOKED, born=-20)), 90, (Prune("root1"), Prune("root3"))
    ),
}


@pytest.mark.parametrize("case", PRUNING)
def test_a_root_is_forgotten(case: str) -> None:
    check(replace(PRUNING[case], policy=MANUAL))


TAINTED_ONE, BELOW = root(1, TAINTED, since=85), issuer(1, TAINTED, 1)
SIGNING = issuer(2, ACTIVE, 2)
FORSAKEN = ring(TAINTED_ONE, BELOW, SECOND_ROOT, SIGNING)
DISTRUST = (Revoke("root1"),)
ABOVE = frozenset({"issuer2"})
ONE_LEFT = {frozenset({"issuer1", "issuer2"}): 1, ABOVE: 8}


def overdue(state: AuthorityState, **born: float) -> AuthorityRing:
    """A tainted root whose deadline is day 88, and another one in that state."""
    return ring(root(1, TAINTED, since=85, distrust=88), root(2, state, **born), to=2)


TAINTING = {
    "when everybody has a certificate from elsewhere": Case(FORSAKEN, 90, DISTRUST, known(90, depending={ABOVE: 9})),
    "though certificates that were replaced live on": Case(
        FORSAKEN, 90, DISTRUST, known(90, depending={ABOVE: 9}, signed={"issuer1": 91})
    ),
    "not while somebody may use a certificate that comes from it": Case(
        FORSAKEN, 90, (), known(90, depending=ONE_LEFT)
    ),
    "not before doors have heard of the taint": Case(FORSAKEN, 85 + 59 * S),
    "when doors have heard of the taint": Case(FORSAKEN, 85 + 60 * S, DISTRUST),
    "not where it is unknown since when it is tainted": Case(ring(root(1, TAINTED), BELOW, SECOND_ROOT, SIGNING), 90),
    "not where nothing is known": Case(FORSAKEN, 90, (), Evidence()),
    "not while somebody uses a certificate of which nothing is known": Case(
        FORSAKEN, 90, (), known(90, depending={ABOVE: 8, frozenset({UNKNOWN}): 1})
    ),
    "not before this process has seen it so for long enough, whatever the clocks of others showed": Case(
        FORSAKEN, 90, (), replace(known(90), seen={"root1": 59 * SECOND})
    ),
    "not while nothing else signs": Case(ring(TAINTED_ONE, BELOW, SECOND_ROOT), 90),
    "not by a clock that leapt": Case(FORSAKEN, 90, (), known(85)),
    "at its end, whoever depends on it": Case(FORSAKEN, 100, DISTRUST, known(100, depending=ONE_LEFT)),
    "not at its end by a clock that leapt": Case(FORSAKEN, 100, (), known(99, depending=ONE_LEFT)),
    "not before its deadline": Case(overdue(PREPARED, born=80), 88 - S),
    "at its deadline, though its successor is not trusted by all": Case(overdue(PREPARED, born=80), 88, DISTRUST),
    "at its deadline, whoever depends on it": Case(
        ring(replace(TAINTED_ONE, distrust_at=at(88)), BELOW, SECOND_ROOT, SIGNING),
        88,
        DISTRUST,
        known(88, depending=ONE_LEFT),
    ),
    "not at its deadline by a clock that leapt": Case(overdue(PREPARED, born=80), 95, (), known(87)),
    "not at its deadline where it is the only root": Case(
        ring(root(1, TAINTED, since=85, distrust=88), to=0), 95, (PrepareRoot(),)
    ),
    "not at its deadline where the others are tainted, too": Case(
        ring(root(1, TAINTED, since=85, distrust=88), root(2, TAINTED, since=85, distrust=88), to=0),
        95,
        (PrepareRoot(),),
    ),
    "not at its deadline where the other is old": Case(
        ring(root(1, TAINTED, since=85, distrust=88), root(2, OLD, since=85), to=0), 95, (PrepareRoot(),)
    ),
    "not at its deadline where the other is revoked": Case(
        ring(root(1, TAINTED, since=85, distrust=88), root(2, REVOKED), to=0), 95, (PrepareRoot(),)
    ),
    "not at its deadline where the other is not valid yet": Case(overdue(PREPARED, born=95 + H), 95),
}


@pytest.mark.parametrize("case", TAINTING)
def test_a_tainted_root_leaves_the_bundle(case: str) -> None:
    check(replace(TAINTING[case], policy=MANUAL))


def test_a_tainted_root_stays_while_the_only_other_one_has_ended() -> None:
    """A bundle with nothing but an ended root would be as good as an empty one."""
    ended = overdue(PREPARED, born=-10)
    check(Case(ended, 95, (Prune("root2"),)))
    check(Case(apply(ended, Advanced("root2", Step.PRUNE)), 95, (PrepareRoot(),)))
    ended = replace(overdue(ACTIVE, born=-10), rotation=None)
    check(Case(ended, 95, (), policy=MANUAL))


def test_of_two_tainted_roots_both_go_when_nobody_depends_on_them() -> None:
    both = ring(TAINTED_ONE, root(3, TAINTED, since=85), issuer(3, TAINTED, 3), BELOW, SECOND_ROOT, SIGNING)
    check(Case(both, 90, (Revoke("root1"), Revoke("root3")), policy=MANUAL))
    check(Case(both, 90, (Revoke("root1"),), known(90, depending={frozenset({"issuer3"}): 1}), MANUAL))


def test_a_revoked_root_stays_for_the_record_to_its_own_end() -> None:
    after = apply_all(FORSAKEN, Advanced("root1", Step.REVOKE, at(90)))
    check(Case(after, 100 - S, policy=MANUAL))
    check(Case(after, 100, FORGET, policy=MANUAL))


def test_progress_comes_before_distrust() -> None:
    waiting = ring(root(1, TAINTED, since=85), NEXT, root(3, OLD, since=85), to=2)
    check(Case(waiting, 90, (Activate("root2"), Prune("root3")), known(90, complete={2: 80})))
