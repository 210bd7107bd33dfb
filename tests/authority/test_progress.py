"""Where a rotation stands, and what should alarm somebody."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from meshca.authority.actions import IssuerPolicy, RootPolicy, RotationPolicy
from meshca.authority.evidence import UNKNOWN, Channel, Coverage, Evidence, Laggard
from meshca.authority.progress import Alarm, Phase, Severity, alarms, progress_of
from meshca.authority.ring import Authority, AuthorityKind, AuthorityRing, AuthorityState, RootRotation
from tests.assets.authorities import FOUNDED
from tests.assets.rings import authority, ring_of

DAY, HOUR, MINUTE, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
POLICY = RotationPolicy(
    IssuerPolicy(30 * DAY, 0.5, 5 / 6, DAY, propagation=MINUTE),
    RootPolicy(100 * DAY, HOUR, DAY, rotate_at=0.8, propagation=MINUTE),
)
NOW = FOUNDED + 10 * DAY
OLD_ISSUER, NEW_ISSUER = frozenset({"issuer1"}), frozenset({"issuer2"})


def root(index: int, state: AuthorityState) -> Authority:
    return authority(index, ROOT, state, ttl=100 * DAY, bundle_sequence=index)


def issuer(index: int, state: AuthorityState) -> Authority:
    """Under the root of its own number."""
    return authority(index, ISSUER, state)


def ring(*authorities: Authority, to: str | None = None, sequence: int = 2) -> AuthorityRing:
    rotation = None if to is None else RootRotation("operator", "because", NOW - HOUR, "root1", to)
    return replace(ring_of(*authorities, sequence=sequence), rotation=rotation)


def laggard(name: str, refusal: str = "") -> Laggard:
    return Laggard("a", f"spiffe://example.org/{name}", 1, Channel.STREAM, FOUNDED, NOW + HOUR, refusal)


def known(
    *laggards: Laggard,
    since: datetime | None = None,
    depending: dict[frozenset[str], int] | None = None,
    signed: dict[str, datetime] | None = None,
    sequence: int = 2,
) -> Evidence:
    """Of nine holders; all but the laggards have the bundle."""
    coverage = Coverage(sequence, 9, 9 - len(laggards), laggards, since)
    return Evidence({sequence: coverage}, signed or {}, depending or {}, at=NOW)


REST = ring(root(1, ACTIVE), issuer(1, ACTIVE), sequence=1)
WAITING = ring(root(1, ACTIVE), issuer(1, ACTIVE), root(2, PREPARED), to="root2")
SWITCHED = ring(root(1, OLD), issuer(1, OLD), root(2, ACTIVE), issuer(2, ACTIVE), to="root2")
BOTH = OLD_ISSUER | NEW_ISSUER
END = NOW + HOUR

PHASES: dict[str, tuple[AuthorityRing, Evidence, Phase, str]] = {
    "at rest": (REST, known(sequence=1, since=NOW), Phase.IDLE, "nothing"),
    "at rest, whoever lags": (REST, known(laggard("x"), sequence=1), Phase.IDLE, "nothing"),
    "before the next root": (
        ring(root(1, ACTIVE), issuer(1, ACTIVE), to=""),
        known(),
        Phase.PREPARING,
        "the next root to be made, or imported",
    ),
    "while somebody lags": (
        WAITING,
        known(laggard("x"), laggard("y")),
        Phase.DISTRIBUTING,
        "2 of 9 holders to show that they have bundle 2",
    ),
    "where nothing is known": (
        WAITING,
        Evidence(),
        Phase.DISTRIBUTING,
        "0 of 0 holders to show that they have bundle 2",
    ),
    "in the soak": (WAITING, known(since=NOW), Phase.SOAKING, "the soak to end, at 2026-06-11T13:00:00Z"),
    "before an issuing CA is under the new root": (
        ring(root(1, OLD), issuer(1, ACTIVE), root(2, ACTIVE), to="root2"),
        known(since=NOW),
        Phase.SWITCHING,
        "an issuing CA under the new root",
    ),
    "where nothing signs": (
        ring(root(1, TAINTED), issuer(1, TAINTED)),
        known(since=NOW),
        Phase.SWITCHING,
        "an issuing CA under the new root",
    ),
    "while somebody may use an older certificate": (
        SWITCHED,
        known(since=NOW, depending={OLD_ISSUER: 2, BOTH: 1, NEW_ISSUER: 6}, signed={"issuer1": END}),
        Phase.RENEWING,
        "3 holders to renew their certificates under the active root",
    ),
    "while somebody uses one of which nothing is known": (
        SWITCHED,
        known(since=NOW, depending={frozenset({UNKNOWN}): 1, NEW_ISSUER: 8}, signed={UNKNOWN: END}),
        Phase.RENEWING,
        "1 holders to renew their certificates under the active root",
    ),
    "until the last older one ends": (
        SWITCHED,
        known(since=NOW, depending={NEW_ISSUER: 9}, signed={"issuer1": END, "issuer2": END + DAY}),
        Phase.RETIRING,
        "the last certificate under another root to end, at 2026-06-11T13:00:00Z",
    ),
    "when it has ended": (
        SWITCHED,
        known(since=NOW, depending={NEW_ISSUER: 9}, signed={"issuer2": END}),
        Phase.RETIRING,
        "the last certificate under another root to end, which is now",
    ),
}


@pytest.mark.parametrize("case", PHASES)
def test_it_stands(case: str) -> None:
    of, evidence, phase, waits_for = PHASES[case]
    progress = progress_of(of, POLICY, evidence)
    assert (progress.phase, progress.waits_for) == (phase, waits_for)


def test_who_has_renewed_is_who_uses_certificates_under_the_active_root_alone() -> None:
    depending = {OLD_ISSUER: 2, BOTH: 1, frozenset({UNKNOWN}): 1, NEW_ISSUER: 5}
    signed = {"issuer1": END, "issuer2": END + DAY}
    progress = progress_of(SWITCHED, POLICY, known(since=NOW, depending=depending, signed=signed))
    assert (progress.holders, progress.renewed, progress.old_ends) == (9, 5, END)
    unknown = progress_of(SWITCHED, POLICY, known(since=NOW, signed={**signed, UNKNOWN: END + HOUR}))
    assert unknown.old_ends == END + HOUR, "it may come from the old one"


def test_at_rest_everybody_has_renewed_and_nothing_older_is_left() -> None:
    progress = progress_of(REST, POLICY, known(sequence=1, depending={OLD_ISSUER: 9}, signed={"issuer1": END}))
    assert (progress.holders, progress.renewed, progress.old_ends, progress.soaks_until) == (9, 9, None, None)


def test_the_coverage_is_that_of_the_successors_bundle_while_it_waits() -> None:
    later = replace(WAITING, sequence=5)
    evidence = replace(known(laggard("x")), coverage={2: Coverage(2, 9, 8), 5: Coverage(5, 9, 1)})
    assert progress_of(later, POLICY, evidence).coverage.sequence == 2
    assert progress_of(replace(SWITCHED, sequence=5), POLICY, evidence).coverage.sequence == 5


def test_the_soak_that_is_shown_is_the_one_that_is_asked_for() -> None:
    assert progress_of(WAITING, POLICY, known(since=NOW)).soaks_until == NOW + HOUR
    nothing_signs = ring(root(1, TAINTED), issuer(1, TAINTED), root(2, PREPARED), to="root2")
    assert progress_of(nothing_signs, POLICY, known(since=NOW)).soaks_until == NOW + MINUTE


def alarmed(of: AuthorityRing, evidence: Evidence, now: datetime = NOW) -> list[tuple[str, str, str]]:
    found = alarms(of, POLICY, now, evidence, deadline=2 * HOUR)
    return [(alarm.severity.name.lower(), alarm.subject, alarm.message) for alarm in found]


def test_a_mesh_at_rest_alarms_nobody() -> None:
    assert alarmed(REST, known(sequence=1)) == []


def test_an_active_root_is_due_for_rotation_from_that_share_of_its_life_on() -> None:
    short = ring(root(1, ACTIVE), replace(issuer(1, ACTIVE), not_after=FOUNDED + 100 * DAY))
    assert alarmed(short, known(), FOUNDED + 80 * DAY - SECOND) == []
    due = ("warning", "root", "root1 is due for rotation: it ends at 2026-09-09T12:00:00Z")
    assert alarmed(short, known(), FOUNDED + 80 * DAY) == [due]
    under_way = replace(short, rotation=RootRotation("schedule", "", FOUNDED + 80 * DAY, "root1", ""))
    assert [severity for severity, *_ in alarmed(under_way, known(), FOUNDED + 80 * DAY)] == ["info", "info"]


def test_what_can_sign_no_leaf_of_full_length_is_critical() -> None:
    assert alarmed(REST, known(), FOUNDED + 29 * DAY - SECOND) == []
    (alarm,) = alarms(REST, POLICY, FOUNDED + 29 * DAY, known(), deadline=HOUR)
    message = "issuer1 ends at 2026-07-01T12:00:00Z: what it signs is cut short"
    assert alarm == Alarm(Severity.CRITICAL, "issuer", message)


def test_where_nothing_signs_that_is_critical_and_comes_first() -> None:
    tainted = ring(root(1, TAINTED), issuer(1, TAINTED), to="")
    found = alarmed(tainted, known())
    assert [each[:2] for each in found] == [("critical", "root"), ("critical", "issuer"), ("info", "rotation")]
    assert found[0][2] == "nothing is signed: none is active, since the root was tainted"
    ((severity, subject, message),) = alarmed(ring(root(1, ACTIVE)), known())
    assert (severity, subject) == ("critical", "issuer")
    assert message == "nothing is signed: none is active, the next one is yet to be made"


def test_a_rotation_that_waits_past_its_deadline_names_who_it_waits_for() -> None:
    behind = known(laggard("slow"))
    (before,) = alarmed(WAITING, behind, NOW + HOUR)
    assert before == ("info", "rotation", "under way, distributing: 1 of 9 holders to show that they have bundle 2")
    (late,) = alarmed(WAITING, behind, NOW + HOUR + SECOND)
    assert late[0] == "warning"
    assert "(spiffe://example.org/slow has not shown it): `meshca rotate status` names them" in late[2]


def test_a_refusal_alarms_at_once_and_names_who_refuses() -> None:
    (refused,) = alarmed(WAITING, known(laggard("slow"), laggard("sour", "bad")))
    assert refused[0] == "warning"
    assert "(spiffe://example.org/sour refuses it)" in refused[2]


def test_past_the_wait_for_holders_a_rotation_is_never_late() -> None:
    (alarm,) = alarmed(SWITCHED, known(since=NOW, depending={OLD_ISSUER: 9}), NOW + DAY)
    assert alarm[0] == "info"


def test_after_an_abort_it_is_told_that_the_schedule_rests() -> None:
    held = replace(REST, held_since=NOW)
    ((severity, subject, message),) = alarmed(held, known(sequence=1))
    assert (severity, subject) == ("info", "rotation")
    assert message.startswith("automatic rotation of the root rests since an abort at 2026-06-11T12:00:00Z")


def test_the_severities_are_the_exit_codes_of_status() -> None:
    assert {severity.name: severity.value for severity in Severity} == {"INFO": 2, "WARNING": 3, "CRITICAL": 4}
