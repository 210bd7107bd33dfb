"""What operators order: behind the schedule's gates, or forced past them, and always written down."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.authority.evidence import BundleFact, Channel
from meshca.authority.plan import PlanStep
from meshca.authority.progress import Phase
from meshca.authority.ring import Authority, AuthorityKind, AuthorityState, Step
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.services.control import MAX_REASON, Order
from meshca.services.issuance import SigningRequest
from tests.assets.authorities import FOUNDED
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import PROPAGATION, SOAK, WORKLOAD, FoundedCa, found_ca

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
CSR = good_pem(key_of(KeyAlgorithm.P256))
LEAF = HOUR


def only(ca: FoundedCa, kind: AuthorityKind, state: AuthorityState) -> Authority:
    (found,) = ca.ring.of(kind, state)
    return found


def a_leaf(ca: FoundedCa) -> str:
    """A holder gets a certificate for an hour, by a token; gives its serial."""
    return ca.issue(WORKLOAD, SigningRequest(CSR, int(LEAF.total_seconds()))).certificate.prepared.serial_hex


def acknowledge(ca: FoundedCa, serial: str, sequence: int) -> None:
    until = ca.clock.now() + LEAF
    ca.evidence.add([BundleFact(serial, str(WORKLOAD.id), sequence, Channel.STREAM, until, ca.clock.now())])


def order(ca: FoundedCa, step: Step, authority: Authority, **how: object) -> Authority:
    return ca.control.carry_out(Order(step, authority.id, **{"reason": "because", **how}))  # type: ignore[arg-type]


def refusal(ca: FoundedCa, step: Step, authority: Authority, **how: object) -> str:
    """Why it is not done; nothing has changed then."""
    before = ca.ring, ca.store.journal(100), ca.key_ids()
    with pytest.raises(MeshcaError) as refused:
        order(ca, step, authority, **how)
    assert refused.value.kind is ErrorKind.CONFLICT
    assert (ca.ring, ca.store.journal(100), ca.key_ids()) == before
    return refused.value.message


def with_a_next_root(ca: FoundedCa) -> tuple[Authority, Authority]:
    """The active root and one that waits, made by hand."""
    return only(ca, ROOT, ACTIVE), ca.control.prepare(ROOT, "next year's")


def settle(ca: FoundedCa, seconds: float = PROPAGATION.total_seconds()) -> None:
    """What is due now is seen by this process, and so long passes."""
    ca.control.standing()
    ca.clock.move(seconds * SECOND)


# Gates


def test_a_prepared_root_is_activated_once_everybody_has_had_it_for_the_soak() -> None:
    ca = found_ca()
    serial = a_leaf(ca)
    _, following = with_a_next_root(ca)
    assert "1 of 1 holders are not known to trust it, such as spiffe://example.org/ns/a/sa/b" in refusal(
        ca, Step.ACTIVATE, following
    )
    acknowledge(ca, serial, 2)
    assert "all 1 holders have it, but only since 12:00:00Z" in refusal(ca, Step.ACTIVATE, following)
    ca.clock.move(SOAK)
    assert order(ca, Step.ACTIVATE, following).state is PREPARED
    assert only(ca, ROOT, ACTIVE).id == following.id
    assert not ca.store.journal(1)[0].forced


def test_an_old_root_is_activated_under_the_same_condition() -> None:
    """Somebody may have come who never got it, or it was prepared when nobody had it."""
    ca = found_ca()
    first, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True)
    order(ca, Step.ACTIVATE, first, force=True)  # back: the one that nobody has shown to trust is old now
    ca.rotation.tick()
    serial = a_leaf(ca)
    acknowledge(ca, serial, 1)
    assert only(ca, ROOT, OLD).id == following.id
    ca.clock.move(HOUR)
    late = ca.issue(replace(WORKLOAD, serial="ab"), SigningRequest(CSR, 3600)).certificate.prepared.serial_hex
    assert "1 of 1 holders are not known to trust it" in refusal(ca, Step.ACTIVATE, following)
    acknowledge(ca, late, 2)
    settle(ca, SOAK.total_seconds())
    order(ca, Step.ACTIVATE, following)


def test_an_issuing_ca_is_activated_under_the_active_root_alone() -> None:
    ca = found_ca()
    made = ca.control.prepare(ISSUER, "spare")
    order(ca, Step.ACTIVATE, made)
    first = only(ca, ISSUER, OLD)
    _, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True)
    assert "its root is not the active one" in refusal(ca, Step.ACTIVATE, first)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", [ROOT, ISSUER])
def test_nothing_is_activated_outside_the_time_in_which_it_is_valid(kind: AuthorityKind, force: bool) -> None:
    ca = found_ca()
    ca.clock.move(5 * DAY)
    made = ca.control.prepare(kind, "made while the clock was ahead")
    ca.clock.move(-5 * DAY)
    assert f"cannot activate {kind.value} {made.id}: it is valid from" in refusal(ca, Step.ACTIVATE, made, force=force)
    ca.clock.moment = made.not_after
    assert "only" in refusal(ca, Step.ACTIVATE, made, force=force)


def a_tainted_root(ca: FoundedCa) -> tuple[Authority, str]:
    """The root from before, tainted, while another signs; and the serial of a certificate from under it."""
    serial = a_leaf(ca)
    first, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True)
    ca.rotation.tick()
    order(ca, Step.TAINT, first)
    return only(ca, ROOT, TAINTED), serial


def test_a_tainted_root_is_revoked_when_nobody_uses_what_comes_from_it_and_every_server_has_heard() -> None:
    ca = found_ca()
    tainted, serial = a_tainted_root(ca)
    assert "it is tainted for less than the 20s in which every server hears of that" in refusal(
        ca, Step.REVOKE, tainted
    )
    settle(ca)
    assert "certificates depend on it" in refusal(ca, Step.REVOKE, tainted)
    renewal = ca.issue(replace(WORKLOAD, serial=serial), SigningRequest(CSR, 3600)).certificate.prepared.serial_hex
    assert "certificates depend on it" in refusal(ca, Step.REVOKE, tainted), "the answer may be lost"
    acknowledge(ca, renewal, 2)
    order(ca, Step.REVOKE, tainted)
    assert only(ca, ROOT, REVOKED).id == tainted.id
    assert tainted.key_id not in ca.key_ids()


def test_a_root_is_not_revoked_while_somebody_uses_a_certificate_that_the_ledger_lacks() -> None:
    ca = found_ca()
    tainted, _ = a_tainted_root(ca)
    ca.clock.move(LEAF)
    settle(ca)
    acknowledge(ca, "ff" * 16, 2)
    assert "certificates depend on it" in refusal(ca, Step.REVOKE, tainted)
    ca.clock.move(LEAF)
    order(ca, Step.REVOKE, tainted)


@pytest.mark.parametrize("kind", [ROOT, ISSUER])
def test_what_is_old_is_pruned_when_nothing_comes_from_it_and_every_server_has_heard(kind: AuthorityKind) -> None:
    ca = found_ca()
    a_leaf(ca)
    _, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True)
    ca.rotation.tick()
    old = only(ca, kind, OLD)
    assert f"cannot prune {kind.value} {old.id} yet: it is old for less than the 20s" in refusal(ca, Step.PRUNE, old)
    settle(ca)
    assert "certificates that it may vouch for are valid until 2026-06-01T13:00:00Z" in refusal(ca, Step.PRUNE, old)
    ca.clock.move(LEAF)
    acknowledge(ca, "ff" * 16, 2)
    assert "certificates that it may vouch for are valid until" in refusal(ca, Step.PRUNE, old), "it may be from it"
    ca.clock.move(LEAF)
    order(ca, Step.PRUNE, old)
    assert ca.ring.find(old.id) is None
    assert old.key_id not in ca.key_ids()


def test_a_restart_begins_anew_to_wait_for_every_server_to_hear() -> None:
    ca = found_ca()
    _, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True)
    ca.rotation.tick()
    old = only(ca, ROOT, OLD)
    settle(ca)
    ca.restart()
    assert "for less than" in refusal(ca, Step.PRUNE, old)
    settle(ca)
    order(ca, Step.PRUNE, old)


def test_a_successor_is_not_pruned_under_its_rotation() -> None:
    ca = found_ca()
    ca.control.begin("new year")
    ca.rotation.tick()
    successor = only(ca, ROOT, PREPARED)
    assert "`meshca rotate abort` ends that" in refusal(ca, Step.PRUNE, successor)
    ca.control.abort("not yet")
    assert ca.ring.find(successor.id) is None


def test_what_only_waits_is_pruned_at_once() -> None:
    ca = found_ca()
    _, following = with_a_next_root(ca)
    order(ca, Step.PRUNE, following)
    assert ca.ring.find(following.id) is None
    assert following.key_id not in ca.key_ids()


def test_what_the_table_does_not_hold_is_refused_forced_or_not() -> None:
    ca = found_ca()
    for force in (False, True):
        assert "cannot revoke" in refusal(ca, Step.REVOKE, only(ca, ROOT, ACTIVE), force=force)
        assert "cannot prune" in refusal(ca, Step.PRUNE, only(ca, ISSUER, ACTIVE), force=force)


# Force, and what is written down


def test_force_goes_past_missing_evidence_and_that_is_written_down() -> None:
    ca = found_ca()
    a_leaf(ca)
    first, following = with_a_next_root(ca)
    order(ca, Step.ACTIVATE, following, force=True, reason="  the old one \n leaked ")
    (line,) = ca.store.journal(1)
    assert (line.actor, line.step, line.authority_id) == ("operator", "activate", following.id)
    assert (line.reason, line.forced, line.at, line.sequence) == ("the old one leaked", True, FOUNDED, 2)
    ca.rotation.tick()
    order(ca, Step.PRUNE, first, force=True)
    assert ca.store.journal(1)[0].forced
    assert ca.ring.find(first.id) is None


def test_force_where_nothing_was_missing_is_not_written_down_as_forced() -> None:
    ca = found_ca()
    _, following = with_a_next_root(ca)
    order(ca, Step.PRUNE, following, force=True)
    assert not ca.store.journal(1)[0].forced


@pytest.mark.parametrize("reason", ["", "  "])
def test_force_needs_a_reason(reason: str) -> None:
    ca = found_ca()
    with pytest.raises(MeshcaError, match="--force needs --reason") as refused:
        order(ca, Step.TAINT, only(ca, ROOT, ACTIVE), force=True, reason=reason)
    assert refused.value.kind is ErrorKind.INVALID
    order(ca, Step.TAINT, only(ca, ROOT, ACTIVE), reason=reason)


@pytest.mark.parametrize("reason", ["x" * (MAX_REASON + 1), "a\x00b", "a\x1b[31mb"])
def test_a_reason_that_cannot_be_written_down_is_refused(reason: str) -> None:
    ca = found_ca()
    before = ca.ring
    for call in (
        lambda: order(ca, Step.TAINT, only(ca, ROOT, ACTIVE), reason=reason),
        lambda: ca.control.begin(reason),
        lambda: ca.control.prepare(ROOT, reason),
    ):
        with pytest.raises(MeshcaError, match=r"^reason: at most 500 printable characters") as refused:
            call()
        assert refused.value.kind is ErrorKind.INVALID
    assert ca.ring == before


def test_a_taint_tells_when_its_root_is_distrusted_at_the_latest_and_takes_what_is_under_it() -> None:
    ca = found_ca()
    order(ca, Step.TAINT, only(ca, ROOT, ACTIVE), distrust_after=2 * HOUR)
    assert only(ca, ROOT, TAINTED).distrust_at == FOUNDED + 2 * HOUR
    assert only(ca, ISSUER, TAINTED).distrust_at is None


def test_each_order_is_a_line_of_the_journal() -> None:
    ca = found_ca()
    made = ca.control.prepare(ROOT, "one")
    ca.control.begin("two")
    with pytest.raises(MeshcaError, match="is under way since"):
        ca.control.begin("again")
    ca.control.abort("three")
    with pytest.raises(MeshcaError, match="nothing to abort"):
        ca.control.abort("again")
    lines = [(each.step, each.authority_id, each.reason) for each in reversed(ca.store.journal(100))]
    assert lines == [
        ("prepare root", made.id, "one"),
        ("begin rotation", "", "two"),
        ("abort rotation", made.id, "three"),
    ]
    assert ca.control.standing().journal == ca.store.journal(100)


def test_what_was_made_for_a_ring_that_somebody_else_changed_is_discarded() -> None:
    ca = found_ca()
    before = ca.key_ids()
    stored = ca.store.load()
    ca.store.overtake = lambda: ca.store.inner.save(stored.ring, expected_revision=stored.revision)
    with pytest.raises(MeshcaError) as refused:
        ca.control.prepare(ROOT, "next")
    assert refused.value.kind is ErrorKind.CONFLICT
    assert ca.key_ids() == before


# Names


def test_an_authority_is_named_by_a_beginning_of_its_id_that_fits_no_other() -> None:
    ca = found_ca()
    active = only(ca, ROOT, ACTIVE)
    assert ca.control.carry_out(Order(Step.TAINT, active.id[:8].upper(), "because")).id == active.id


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("", ErrorKind.INVALID, "too short: give at least 4 digits"),
        ("abc", ErrorKind.INVALID, "too short: give at least 4 digits"),
        ("0" * 40, ErrorKind.NOT_FOUND, "there is no authority 0000"),
        ("not-an-id", ErrorKind.NOT_FOUND, "there is no authority not-an-id"),
    ],
)
def test_a_name_that_fits_none_is_refused(name: str, kind: ErrorKind, words: str) -> None:
    ca = found_ca()
    with pytest.raises(MeshcaError, match=words) as refused:
        ca.control.carry_out(Order(Step.TAINT, name, "because"))
    assert refused.value.kind is kind


def test_a_name_that_fits_several_is_refused() -> None:
    ca = found_ca()
    stored = ca.store.load()
    active = only(ca, ROOT, ACTIVE)
    twin = replace(only(ca, ISSUER, ACTIVE), id=active.id[:4] + "0" * 36, state=OLD)
    ring = replace(stored.ring, authorities=(*stored.ring.authorities, twin))
    ca.store.save(ring, expected_revision=stored.revision)
    with pytest.raises(MeshcaError, match="fits 2 ids: give more digits") as refused:
        ca.control.carry_out(Order(Step.TAINT, active.id[:4], "because"))
    assert refused.value.kind is ErrorKind.INVALID


# What is shown


def test_where_everything_stands_and_what_a_rotation_would_do() -> None:
    ca = found_ca()
    serial = a_leaf(ca)
    acknowledge(ca, serial, 1)
    standing = ca.control.standing()
    assert (standing.ring, standing.now) == (ca.ring, FOUNDED)
    assert (standing.progress.phase, standing.progress.holders, standing.progress.renewed) == (Phase.IDLE, 1, 1)
    assert standing.alarms == ()
    plan = ca.control.plan()
    assert (plan.holders, plan.streams) == (1, 1)
    assert isinstance(plan.steps[0], PlanStep)
