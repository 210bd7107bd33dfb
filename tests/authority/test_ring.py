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
    AuthorityKind,
    AuthorityRing,
    AuthorityState,
    Prepared,
    RingEvent,
    Step,
    apply,
    apply_all,
)
from meshca.errors import ErrorKind, MeshcaError
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.rings import authority, ring_of, root_der

ROOT, ISSUER = AuthorityKind.ROOT, AuthorityKind.ISSUER
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = AuthorityState
LAST_LEAF = FOUNDED + timedelta(hours=25)

# Written out once more, so that a change of the table is seen by somebody.
LEGAL = {
    (PREPARED, Step.ACTIVATE): ACTIVE,
    (OLD, Step.ACTIVATE): ACTIVE,
    (ACTIVE, Step.RETIRE): OLD,
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
    ring = ring_of(authority(1, kind, state))
    if (state, step) not in LEGAL:
        with pytest.raises(MeshcaError) as refused:
            apply(ring, Advanced(f"{kind.value}1", step))
        assert refused.value.kind is ErrorKind.CONFLICT
        assert refused.value.message == f"cannot {step.value} authority {kind.value}1: it is {state.value}"
        return
    moved = apply(ring, Advanced(f"{kind.value}1", step)).find(f"{kind.value}1")
    assert (moved.state if moved else None) == LEGAL[state, step]


def test_activating_one_retires_the_other_and_bounds_what_it_signed() -> None:
    ring = ring_of(authority(1, ISSUER, ACTIVE), authority(2))
    after = apply(ring, Advanced("issuer2", Step.ACTIVATE, LAST_LEAF))
    assert [(a.id, a.state, a.last_leaf_not_after) for a in after.authorities] == [
        ("issuer1", OLD, LAST_LEAF),
        ("issuer2", ACTIVE, None),
    ]


def test_activating_leaves_other_kinds_alone() -> None:
    ring = ring_of(authority(1, ROOT, ACTIVE), authority(2, AuthorityKind.JWT, ACTIVE), authority(3))
    after = apply(ring, Advanced("issuer3", Step.ACTIVATE, LAST_LEAF))
    assert [a.state for a in after.authorities] == [ACTIVE, ACTIVE, ACTIVE]


def test_going_back_to_the_old_one_takes_its_bound_away() -> None:
    ring = ring_of(authority(1, ISSUER, OLD, last_leaf_not_after=LAST_LEAF), authority(2, ISSUER, ACTIVE))
    after = apply(ring, Advanced("issuer1", Step.ACTIVATE, LAST_LEAF))
    assert [(a.state, a.last_leaf_not_after) for a in after.authorities] == [(ACTIVE, None), (OLD, LAST_LEAF)]


def test_tainting_and_revoking_keep_what_is_known_of_the_last_leaf() -> None:
    ring = ring_of(authority(1, ISSUER, OLD, last_leaf_not_after=LAST_LEAF))
    tainted = apply(ring, Advanced("issuer1", Step.TAINT))
    revoked = apply(tainted, Advanced("issuer1", Step.REVOKE))
    assert [r.authorities[0].last_leaf_not_after for r in (tainted, revoked)] == [LAST_LEAF, LAST_LEAF]


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
        legal = state is not None and (state, step) in LEGAL
        if not self.attempt(Advanced(chosen, step, LAST_LEAF), legal=legal):
            return
        assert kind is not None
        assert state is not None
        if step is Step.ACTIVATE:
            self.retire(kind)
        self.changes += kind is ROOT and (state is not REVOKED) and LEGAL[state, step] in (REVOKED, None)
        self.move(chosen, kind, LEGAL[state, step])

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
    def the_bundle_is_never_empty(self) -> None:
        trusted = [a for a in self.ring.of(ROOT) if a.state is not REVOKED]
        if trusted:
            assert self.ring.bundle().x509_authorities == tuple(a.certificate for a in trusted)
            return
        with pytest.raises(MeshcaError):
            self.ring.bundle()


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40)
