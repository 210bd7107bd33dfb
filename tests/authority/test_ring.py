"""The ring moves by its table and in no other way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshca.authority.ring import (
    TRANSITIONS,
    Advanced,
    Authority,
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    CrossCertificate,
    Prepared,
    RingEvent,
    RootRotation,
    RotationAborted,
    RotationBegun,
    Step,
    apply,
    apply_all,
)
from meshca.errors import ErrorKind, MeshcaError
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.rings import authority, ring_of, root_der

ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState

# Written out once more, so that a change of the table is seen by somebody.
LEGAL = {
    (PREPARED, Step.ACTIVATE): ACTIVE,
    (OLD, Step.ACTIVATE): ACTIVE,
    (ACTIVE, Step.RETIRE): OLD,
    (PREPARED, Step.TAINT): TAINTED,
    (ACTIVE, Step.TAINT): TAINTED,
    (OLD, Step.TAINT): TAINTED,
    (TAINTED, Step.REVOKE): REVOKED,
    (PREPARED, Step.PRUNE): None,
    (OLD, Step.PRUNE): None,
    (TAINTED, Step.PRUNE): None,
    (REVOKED, Step.PRUNE): None,
}


def test_the_table_is_the_one_that_was_agreed() -> None:
    assert TRANSITIONS == LEGAL


@pytest.mark.parametrize(("state", "step"), list(product(AuthorityState, Step)))
@pytest.mark.parametrize("kind", AuthorityKind)
def test_each_pair_of_state_and_step_does_what_the_table_says(
    kind: AuthorityKind, state: AuthorityState, step: Step
) -> None:
    ring = ring_of(authority(1, kind, state), authority(2, ROOT))
    if (state, step) not in LEGAL:
        with pytest.raises(MeshcaError) as refused:
            apply(ring, Advanced(f"{kind.value}1", step))
        assert refused.value.kind is ErrorKind.CONFLICT
        assert refused.value.message == f"cannot {step.value} authority {kind.value}1: it is {state.value}"
        return
    moved = apply(ring, Advanced(f"{kind.value}1", step)).find(f"{kind.value}1")
    assert (moved.state if moved else None) == LEGAL[state, step]


CROSS = CrossCertificate(b"cross", "root1", FOUNDED + timedelta(days=30))


def crossed(signer: AuthorityState | None, root: AuthorityState = ACTIVE) -> AuthorityRing:
    """A root with an issuing CA, and a cross certificate by another in that state (None: gone)."""
    others = () if signer is None else (authority(1, ROOT, signer),)
    return ring_of(
        *others, replace(authority(2, ROOT, root), cross=CROSS), authority(3, ISSUER, OLD, issuer_id="root2")
    )


@pytest.mark.parametrize(
    ("ring", "offered"),
    [
        (crossed(OLD), True),
        (crossed(ACTIVE, OLD), True),
        (crossed(None), False),
        (crossed(TAINTED), False),
        (crossed(REVOKED), False),
        (crossed(PREPARED), False),
        (crossed(OLD, TAINTED), False),
        (crossed(OLD, REVOKED), False),
    ],
)
def test_a_cross_certificate_is_offered_while_both_roots_are_in_use(ring: AuthorityRing, offered: bool) -> None:
    assert ring.cross_of(ring.of(ISSUER)[0]) == (CROSS if offered else None)


def test_other_issuing_cas_have_no_cross_certificate() -> None:
    ring = crossed(OLD)
    assert ring.cross_of(authority(4, issuer_id="root1")) is None
    assert ring.cross_of(authority(4, issuer_id="gone")) is None


def test_an_abort_takes_the_successors_cross_certificate_away() -> None:
    ring = replace(crossed(OLD), rotation=RootRotation("operator", "x", FOUNDED, "root1", "root2"))
    after = apply(ring, RotationAborted(FOUNDED))
    assert [(a.id, a.state, a.cross) for a in after.of(ROOT)] == [("root1", ACTIVE, None), ("root2", OLD, None)]


def test_activating_one_retires_the_other() -> None:
    after = apply(ring_of(authority(1, ISSUER, ACTIVE), authority(2)), Advanced("issuer2", Step.ACTIVATE))
    assert [(a.id, a.state) for a in after.authorities] == [("issuer1", OLD), ("issuer2", ACTIVE)]


def test_activating_leaves_other_kinds_alone() -> None:
    ring = ring_of(authority(1, ROOT, ACTIVE), authority(2, AuthorityKind.JWT, ACTIVE), authority(3))
    after = apply(ring, Advanced("issuer3", Step.ACTIVATE))
    assert [a.state for a in after.authorities] == [ACTIVE, ACTIVE, ACTIVE]


def test_activating_what_is_active_changes_nothing() -> None:
    ring = ring_of(authority(1, ISSUER, ACTIVE), authority(2))
    with pytest.raises(MeshcaError, match="cannot activate authority issuer1: it is active"):
        apply(ring, Advanced("issuer1", Step.ACTIVATE))


@pytest.mark.parametrize("step", Step)
def test_a_stranger_cannot_be_moved(step: Step) -> None:
    with pytest.raises(MeshcaError) as refused:
        apply(ring_of(authority(1, ISSUER, ACTIVE)), Advanced("issuer9", step))
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.CONFLICT,
        "there is no authority issuer9 in the ring",
    )


@pytest.mark.parametrize("state", set(AuthorityState) - {PREPARED})
def test_a_new_authority_starts_as_prepared(state: AuthorityState) -> None:
    with pytest.raises(MeshcaError) as refused:
        apply(ring_of(), Prepared(authority(1, ISSUER, state)))
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.CONFLICT,
        f"a new authority starts as prepared, not as {state.value}",
    )


def test_an_authority_is_added_once() -> None:
    with pytest.raises(MeshcaError) as refused:
        apply(ring_of(authority(1, ISSUER, OLD)), Prepared(authority(1)))
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.CONFLICT,
        "authority issuer1 is in the ring already",
    )


def test_a_ring_with_two_active_ones_cannot_be() -> None:
    with pytest.raises(MeshcaError) as refused:
        ring_of(authority(1, ISSUER, ACTIVE), authority(2, ISSUER, ACTIVE))
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.INTERNAL,
        "two active issuer authorities in one ring: issuer1, issuer2",
    )


def test_a_ring_with_the_same_one_twice_cannot_be() -> None:
    with pytest.raises(MeshcaError) as refused:
        ring_of(authority(1), authority(1))
    assert refused.value.message == "the same authority stands twice in one ring"


@pytest.mark.parametrize("roots", [(), (authority(1, ROOT, REVOKED),)])
def test_there_is_no_empty_bundle(roots: tuple[object, ...]) -> None:
    ring = ring_of(authority(2, ISSUER, ACTIVE), *roots)  # type: ignore[arg-type]  # authorities
    with pytest.raises(MeshcaError) as refused:
        ring.bundle()
    assert refused.value.kind is ErrorKind.INVALID
    assert refused.value.message == "the trust bundle of example.org is empty, which would switch verification off"


def test_the_bundle_holds_every_root_that_is_not_revoked() -> None:
    roots = [authority(index, ROOT, state) for index, state in enumerate(AuthorityState)]
    bundle = ring_of(*roots, authority(9, ISSUER, ACTIVE), sequence=7).bundle()
    assert bundle.x509_authorities == tuple(root_der(index) for index in range(4))
    assert (bundle.sequence, bundle.trust_domain) == (7, MESH)


def test_the_bundle_in_which_a_root_appeared_is_remembered() -> None:
    ring = apply_all(
        AuthorityRing(MESH), Prepared(authority(1, ROOT)), Prepared(authority(2, ROOT)), Prepared(authority(3))
    )
    assert [a.bundle_sequence for a in ring.authorities] == [1, 2, 0]


def test_the_last_root_cannot_be_taken_out_of_the_bundle() -> None:
    for state, step in ((TAINTED, Step.REVOKE), (OLD, Step.PRUNE)):
        with pytest.raises(MeshcaError) as refused:
            apply(ring_of(authority(1, ROOT, state), authority(2, ROOT, REVOKED)), Advanced("root1", step))
        assert refused.value.kind is ErrorKind.CONFLICT
        assert refused.value.message.endswith("the trust bundle would be empty without it")


def test_whatever_a_tainted_root_has_signed_is_tainted_with_it() -> None:
    below = [authority(i, ISSUER, state, issuer_id="root1") for i, state in enumerate((ACTIVE, PREPARED, OLD, REVOKED))]
    other = authority(9, ISSUER, OLD, issuer_id="root2")
    ring = ring_of(authority(1, ROOT, ACTIVE), authority(2, ROOT, OLD), *below, other)
    deadline = FOUNDED + timedelta(hours=1)
    after = apply(ring, Advanced("root1", Step.TAINT, FOUNDED, deadline))
    assert [a.state for a in after.authorities] == [TAINTED, OLD, TAINTED, TAINTED, TAINTED, REVOKED, OLD]
    assert [a.distrust_at for a in after.authorities] == [deadline, *[None] * 6]
    assert after.active(ROOT) is None
    assert after.active(ISSUER) is None
    assert after.sequence == ring.sequence, "it stays in the bundle until nobody depends on it"


def begun(*authorities: Authority) -> AuthorityRing:
    return apply(ring_of(*authorities), RotationBegun(RootRotation("operator", "because", FOUNDED)))


def test_a_rotation_knows_where_it_came_from_and_takes_the_next_root_that_is_made() -> None:
    ring = begun(authority(1, ROOT, ACTIVE))
    assert ring.rotation == RootRotation("operator", "because", FOUNDED, predecessor="root1")
    assert ring.successor is None
    ring = apply(ring, Prepared(authority(2, ROOT)))
    assert ring.successor is ring.find("root2")
    assert apply(ring, Prepared(authority(3, ROOT))).successor == ring.successor


def test_a_rotation_takes_a_root_that_is_prepared_already() -> None:
    assert begun(authority(1, ROOT, ACTIVE), authority(2, ROOT)).rotation.successor == "root2"  # type: ignore[union-attr]


def test_a_tainted_successor_gives_way_to_another() -> None:
    ring = apply(begun(authority(1, ROOT, ACTIVE), authority(2, ROOT)), Advanced("root2", Step.TAINT))
    assert ring.successor is None
    assert apply(ring, Prepared(authority(3, ROOT))).successor.id == "root3"  # type: ignore[union-attr]


def test_there_is_one_rotation_at_a_time() -> None:
    with pytest.raises(MeshcaError, match="a rotation of the root is under way since 2026-06-01T12:00:00Z") as refused:
        apply(begun(authority(1, ROOT, ACTIVE)), RotationBegun(RootRotation("operator", "again", FOUNDED)))
    assert refused.value.kind is ErrorKind.CONFLICT


ABORT = RotationAborted(FOUNDED)


def test_aborting_before_the_successor_is_used_forgets_it() -> None:
    ring = begun(authority(1, ROOT, ACTIVE), authority(2, ROOT))
    after = apply(ring, ABORT)
    assert [(a.id, a.state) for a in after.authorities] == [("root1", ACTIVE)]
    assert (after.sequence, after.rotation, after.held_since) == (ring.sequence + 1, None, FOUNDED)


def test_aborting_after_the_successor_was_used_goes_back_to_the_one_before() -> None:
    ring = apply(begun(authority(1, ROOT, ACTIVE), authority(2, ROOT)), Advanced("root2", Step.ACTIVATE))
    after = apply(ring, ABORT)
    assert [(a.id, a.state) for a in after.authorities] == [("root1", ACTIVE), ("root2", OLD)]
    assert after.sequence == ring.sequence, "both stay trusted"
    assert after.held_since == FOUNDED


def test_aborting_before_a_successor_was_made_ends_the_rotation() -> None:
    after = apply(begun(authority(1, ROOT, ACTIVE)), ABORT)
    assert (after.rotation, after.active(ROOT)) == (None, authority(1, ROOT, ACTIVE))


@pytest.mark.parametrize("fate", [Step.TAINT, Step.PRUNE])
def test_there_is_no_way_back_to_a_root_that_is_tainted_or_gone(fate: Step) -> None:
    ring = begun(authority(1, ROOT, ACTIVE), authority(2, ROOT))
    ring = apply_all(ring, Advanced("root2", Step.ACTIVATE), Advanced("root1", fate))
    with pytest.raises(MeshcaError, match="so there is no way back to it: rotate again") as refused:
        apply(ring, ABORT)
    assert refused.value.kind is ErrorKind.CONFLICT


def test_a_rotation_whose_successor_was_tainted_before_it_was_used_can_be_aborted() -> None:
    ring = apply(begun(authority(1, ROOT, ACTIVE), authority(2, ROOT)), Advanced("root2", Step.TAINT))
    after = apply(ring, ABORT)
    assert [(a.id, a.state) for a in after.authorities] == [("root1", ACTIVE), ("root2", TAINTED)]
    assert (after.rotation, after.held_since) == (None, FOUNDED)


def test_a_rotation_whose_successor_was_put_aside_by_hand_can_be_aborted() -> None:
    ring = begun(authority(1, ROOT, ACTIVE), authority(2, ROOT))
    ring = apply_all(ring, Advanced("root2", Step.ACTIVATE), Advanced("root1", Step.ACTIVATE))
    after = apply(ring, ABORT)
    assert [(a.id, a.state) for a in after.authorities] == [("root1", ACTIVE), ("root2", OLD)]
    assert (after.rotation, after.held_since) == (None, FOUNDED)


def test_aborting_after_a_used_successor_was_tainted_goes_back_to_the_one_before() -> None:
    ring = begun(authority(1, ROOT, ACTIVE), authority(2, ROOT))
    ring = apply_all(ring, Advanced("root2", Step.ACTIVATE), Advanced("root2", Step.TAINT))
    after = apply(ring, ABORT)
    assert [(a.id, a.state) for a in after.authorities] == [("root1", ACTIVE), ("root2", TAINTED)]


def test_the_successor_of_a_tainted_root_is_not_given_up() -> None:
    ring = apply(begun(authority(1, ROOT, ACTIVE), authority(2, ROOT)), Advanced("root1", Step.TAINT))
    with pytest.raises(MeshcaError, match="no root is active: there is none to go back to") as refused:
        apply(ring, ABORT)
    assert refused.value.kind is ErrorKind.CONFLICT


def test_what_is_not_under_way_cannot_be_aborted() -> None:
    with pytest.raises(MeshcaError, match="no rotation of the root is under way") as refused:
        apply(ring_of(authority(1, ROOT, ACTIVE)), ABORT)
    assert refused.value.kind is ErrorKind.CONFLICT


def test_beginning_a_rotation_ends_the_hold_of_an_abort() -> None:
    held = apply(begun(authority(1, ROOT, ACTIVE)), ABORT)
    assert apply(held, RotationBegun(RootRotation("operator", "again", FOUNDED))).held_since is None


def test_each_step_says_since_when_the_authority_is_in_its_state() -> None:
    later = FOUNDED + timedelta(hours=1)
    after = apply(ring_of(authority(1, ISSUER, ACTIVE), authority(2)), Advanced("issuer2", Step.ACTIVATE, at=later))
    assert [a.since for a in after.authorities] == [later, later]


class RingMachine(RuleBasedStateMachine):
    """Any events in any order, held against a model that knows only the agreed table."""

    @initialize()
    def found(self) -> None:
        self.ring = AuthorityRing(MESH)
        self.model: dict[str, tuple[AuthorityKind, AuthorityState]] = {}
        self.changes = 0
        self.made = 0

    @rule(kind=st.sampled_from(AuthorityKind), state=st.sampled_from([PREPARED] * 8 + [ACTIVE, OLD, REVOKED]))
    def prepare(self, kind: AuthorityKind, state: AuthorityState) -> None:
        new = authority(self.made % 12, kind, state)
        legal = state is PREPARED and new.id not in self.model
        self.made += 1
        if self.attempt(Prepared(new), legal=legal):
            self.model[new.id] = (kind, PREPARED)
            self.changes += kind is ROOT

    @rule(data=st.data(), step=st.sampled_from(Step))
    def advance(self, data: st.DataObject, step: Step) -> None:
        chosen = data.draw(st.sampled_from([*sorted(self.model), "stranger"]))
        kind, state = self.model.get(chosen, (None, None))
        legal = state is not None and (state, step) in LEGAL and not self.would_empty_the_bundle(chosen, step)
        if not self.attempt(Advanced(chosen, step), legal=legal):
            return
        assert kind is not None
        assert state is not None
        if step is Step.ACTIVATE:
            self.retire(kind)
        self.changes += kind is ROOT and (state is not REVOKED) and LEGAL[state, step] in (REVOKED, None)
        self.move(chosen, kind, LEGAL[state, step])

    def would_empty_the_bundle(self, chosen: str, step: Step) -> bool:
        kind, state = self.model[chosen]
        trusted = {name for name, (kind, state) in self.model.items() if kind is ROOT and state is not REVOKED}
        return kind is ROOT and LEGAL[state, step] in (REVOKED, None) and trusted == {chosen}

    def retire(self, kind: AuthorityKind) -> None:
        for other, (other_kind, state) in self.model.items():
            if (other_kind, state) == (kind, ACTIVE):
                self.model[other] = (kind, OLD)

    def move(self, chosen: str, kind: AuthorityKind, state: AuthorityState | None) -> None:
        if state is None:
            del self.model[chosen]
        else:
            self.model[chosen] = (kind, state)

    def attempt(self, event: RingEvent, *, legal: bool) -> bool:
        before = replace(self.ring)
        if legal:
            self.ring = apply(self.ring, event)
            return True
        with pytest.raises(MeshcaError) as refused:
            apply(self.ring, event)
        assert refused.value.kind is ErrorKind.CONFLICT
        assert self.ring == before
        return False

    @invariant()
    def the_ring_is_what_the_model_says(self) -> None:
        assert {a.id: (a.kind, a.state) for a in self.ring.authorities} == self.model

    @invariant()
    def never_two_active(self) -> None:
        for kind in AuthorityKind:
            assert len(self.ring.of(kind, ACTIVE)) <= 1
            assert self.ring.active(kind) == next(iter(self.ring.of(kind, ACTIVE)), None)

    @invariant()
    def the_sequence_counts_the_changes_of_the_bundle(self) -> None:
        assert self.ring.sequence == self.changes

    @invariant()
    def a_bundle_that_was_there_once_is_never_empty(self) -> None:
        trusted = [a for a in self.ring.of(ROOT) if a.state is not REVOKED]
        if self.changes:
            assert self.ring.bundle().x509_authorities == tuple(a.certificate for a in trusted)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40)
