"""Rotation: there is always an issuing CA that can sign, whatever happens between two steps."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshca.authority.actions import IssuerPolicy
from meshca.authority.ring import Advanced, AuthorityKind, AuthorityState, Step, apply
from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import KeyAlgorithm
from meshca.pki.prepare import CA_BACKDATE
from meshca.pki.profiles import IssuanceProfile
from meshca.services.control import Order
from meshca.services.issuance import SigningRequest
from meshca.services.signing import Signing, open_state
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.verification import verify_x509_svid
from tests.assets.authorities import FOUNDED, MESH
from tests.assets.csrs import good_pem, key_of
from tests.assets.founded import POLICY, SOAK, WORKLOAD, FoundedCa, found_ca, rotated_root

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
CSR = good_pem(key_of(KeyAlgorithm.P256))
ISSUER = AuthorityKind.ISSUER


def states(ca: FoundedCa) -> list[str]:
    return [a.state.value for a in ca.ring.of(ISSUER)]


def test_a_life_of_an_issuing_ca() -> None:
    ca = found_ca()
    story = []
    for day in range(28):
        ca.clock.moment = FOUNDED + day * DAY
        if ca.rotation.tick():
            story.append((day, states(ca)))
    assert story == [
        (15, ["active", "prepared"]),
        (25, ["old", "active"]),
        (26, ["active"]),  # the old one has signed nothing that is still alive
    ]


def test_the_key_of_a_forgotten_authority_is_destroyed() -> None:
    ca = found_ca()
    first = ca.issuer_key_ids()
    for _ in range(60):
        ca.clock.move(DAY)
        ca.rotation.tick()
    assert not first & ca.issuer_key_ids()
    roots = {a.key_id for a in ca.ring.of(AuthorityKind.ROOT)}
    assert ca.key_ids() == ca.issuer_key_ids() | roots


def test_an_old_issuer_is_kept_until_its_last_leaf_has_ended() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.rotation.tick()
    ca.clock.moment = FOUNDED + 25 * DAY - SECOND
    last = ca.issue(WORKLOAD, SigningRequest(CSR, 86400)).certificate.prepared
    ca.clock.move(SECOND)
    ca.rotation.tick()
    old = ca.ring.of(ISSUER, AuthorityState.OLD)[0]
    ca.clock.moment = last.not_after - SECOND
    assert ca.rotation.tick() == 0
    ca.clock.move(SECOND)
    assert ca.rotation.tick() == 1
    assert ca.ring.find(old.id) is None


def test_the_door_signs_with_the_new_issuer_at_once_and_the_bundle_stays() -> None:
    ca = found_ca()
    before = ca.signing.current()
    for day in (15, 25):
        ca.clock.moment = FOUNDED + day * DAY
        ca.rotation.tick()
    after = ca.signing.current()
    active = ca.ring.active(ISSUER)
    assert active is not None
    assert after.issuer.authority_id == active.id != before.issuer.authority_id
    assert after.bundle == before.bundle
    assert ca.issue(WORKLOAD, SigningRequest(CSR)).certificate.prepared.issuer_id == active.id


def test_a_server_that_was_down_for_a_year_replaces_its_expired_issuer_in_one_tick() -> None:
    ca = found_ca()
    ca.clock.move(365 * DAY)
    ca.restart()
    ca.keeper.refresh()
    with pytest.raises(MeshcaError, match="can sign no more"):
        ca.issue(WORKLOAD, SigningRequest(CSR))
    assert ca.rotation.tick() == 2  # prepare, activate
    ca.issue(WORKLOAD, SigningRequest(CSR))
    ca.clock.move(POLICY.max_leaf_ttl)
    assert ca.rotation.tick() == 1, "the old one goes once it is sure that a year has passed, and not just the clock's"
    assert states(ca) == ["active"]


def test_each_new_issuer_is_in_the_ledger() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.rotation.tick()
    assert ca.journal == ["record", "sign"]


def test_no_issuer_is_made_while_the_ledger_is_out() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.ledger.out = True
    with pytest.raises(MeshcaError) as refused:
        ca.rotation.tick()
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert (ca.journal, states(ca)) == (["record"], ["active"])
    ca.ledger.out = False
    ca.rotation.tick()
    assert states(ca) == ["active", "prepared"]


def test_an_authority_whose_key_is_lost_is_not_activated() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.rotation.tick()
    lost = ca.ring.of(ISSUER, AuthorityState.PREPARED)[0]
    ca.memory_keys.delete(lost.key_id)
    ca.clock.moment = FOUNDED + 25 * DAY
    with pytest.raises(MeshcaError) as refused:
        ca.rotation.tick()
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert states(ca) == ["active", "prepared"]
    ca.restart()
    ca.keeper.refresh()
    ca.issue(WORKLOAD, SigningRequest(CSR))


def test_of_two_servers_one_wins_and_the_other_follows() -> None:
    ca = found_ca()
    signing = Signing(ca.watch)
    other = ca.second_keeper(signing)
    other.refresh()
    for day in (15, 25):
        ca.clock.moment = FOUNDED + day * DAY
        ca.rotation.tick()
    assert signing.current().issuer != ca.signing.current().issuer
    other.refresh()
    assert signing.current().issuer == ca.signing.current().issuer
    assert ca.second_rotation(signing).tick() == 0


def chain_of(ca: FoundedCa) -> tuple[bytes, ...]:
    issued = ca.issue(WORKLOAD, SigningRequest(CSR))
    prepared = issued.certificate.prepared
    return (issued.certificate.der, *issued.state.issuer.path_for(prepared.not_after))


def test_chains_under_a_new_root_end_with_its_cross_certificate_until_the_old_one_is_gone() -> None:
    ca = found_ca()
    old = ca.ring.bundle()
    assert len(ca.signing.current().issuer.path_for(FOUNDED)) == 1
    rotated_root(ca, CSR)
    new = ca.ring.active(AuthorityKind.ROOT)
    assert new is not None
    assert new.cross is not None
    chain = chain_of(ca)
    assert chain[2:] == (new.cross.certificate,)
    alone = TrustBundle(MESH, (new.certificate,), 9)
    for bundle in (old, alone, ca.ring.bundle()):
        assert verify_x509_svid(chain, {MESH: bundle}, now=ca.clock.now()) == WORKLOAD.id
    with pytest.raises(MeshcaError, match="no valid path"):
        verify_x509_svid(chain[:2], {MESH: old}, now=ca.clock.now())
    ca.clock.move(2 * POLICY.max_leaf_ttl)
    ca.rotation.tick()
    assert [a.state.value for a in ca.ring.of(AuthorityKind.ROOT)] == ["active"]
    assert len(chain_of(ca)) == 2


@pytest.mark.parametrize("step", ["taint the old one", "taint the new one", "abort"])
def test_a_cross_certificate_leaves_chains_where_a_root_is_given_up(step: str) -> None:
    ca = rotated_root(found_ca(), CSR)
    old, new = ca.ring.of(AuthorityKind.ROOT)
    if step == "abort":
        ca.control.abort("not now")
        ca.rotation.tick()
        assert all(root.cross is None for root in ca.ring.of(AuthorityKind.ROOT))
        assert len(chain_of(ca)) == 2
        return
    tainted = old if step == "taint the old one" else new
    ca.control.carry_out(Order(Step.TAINT, tainted.id, "exposed"))
    state = ca.signing.latest().for_own()
    assert len(state.issuer.path_for(ca.clock.now())) == 1
    alarms = [
        alarm.message for alarm in ca.control.standing().alarms if "has signed a certificate of it" in alarm.message
    ]
    assert len(alarms) == (tainted is new)


def test_no_chain_has_a_cross_certificate_that_ends_before_its_leaf() -> None:
    ca = rotated_root(found_ca(), CSR)
    issuer = ca.signing.current().issuer
    new = ca.ring.active(AuthorityKind.ROOT)
    assert new is not None
    assert new.cross is not None
    assert len(issuer.path_for(new.cross.not_after)) == 2
    assert len(issuer.path_for(new.cross.not_after + SECOND)) == 1
    assert [len(issuer.pem_path_for(new.cross.not_after + each)) for each in (0 * SECOND, SECOND)] == [2, 1]


def test_a_root_that_an_operator_prepares_is_cross_signed_too() -> None:
    ca = rotated_root(found_ca(), CSR)
    made = ca.control.prepare(AuthorityKind.ROOT, "in time")
    assert made.cross is not None
    assert made.cross.signer_id == ca.ring.active(AuthorityKind.ROOT).id  # type: ignore[union-attr]


def test_who_is_revoked_does_not_hold_a_rotation_up_and_counts_again_when_that_is_taken_back() -> None:
    ca = found_ca()
    ca.issue(WORKLOAD, SigningRequest(CSR))
    ca.control.begin("yearly")
    ca.rotation.tick()
    ca.clock.move(10 * SOAK)
    ca.rotation.tick()
    assert ca.control.standing().progress.coverage.holders == 1
    assert [a.state.value for a in ca.ring.of(AuthorityKind.ROOT)] == ["active", "prepared"]
    ca.revocations.revoke(str(WORKLOAD.id), "", "stolen")
    ca.rotation.tick()
    standing = ca.control.standing()
    assert (standing.progress.coverage.holders, standing.progress.coverage.left_out) == (0, 1)
    ca.clock.move(SOAK / 2)
    ca.revocations.unban(str(WORKLOAD.id), "")
    ca.clock.move(SOAK)
    ca.rotation.tick()
    assert [a.state.value for a in ca.ring.of(AuthorityKind.ROOT)] == ["active", "prepared"], "it counts again"
    ca.revocations.revoke(str(WORKLOAD.id), "", "stolen indeed")
    ca.rotation.tick()
    ca.clock.move(SOAK)
    for _ in range(3):
        ca.rotation.tick()
        ca.lists.tick()
        ca.clock.move(2 * SOAK)
    assert [a.state.value for a in ca.ring.of(AuthorityKind.ROOT)] == ["old", "active"], "its certificate lives"
    progress = ca.control.standing().progress
    assert (progress.phase.value, progress.holders, progress.renewed) == ("retiring", 0, 0)


def test_a_step_that_somebody_else_overtook_is_a_conflict_and_the_next_tick_goes_on_from_there() -> None:
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.rotation.tick()
    ca.clock.moment = FOUNDED + 25 * DAY
    ca.store.overtake = ca.second_rotation(Signing(ca.watch)).tick
    with pytest.raises(MeshcaError) as refused:
        ca.rotation.tick()
    assert refused.value.kind is ErrorKind.CONFLICT
    assert states(ca) == ["old", "active"]
    assert ca.rotation.tick() == 0
    assert ca.signing.current().issuer.authority_id == ca.ring.active(ISSUER).id  # type: ignore[union-attr]


def test_a_look_that_was_overtaken_by_a_step_does_not_bring_back_what_was_before_it() -> None:
    """Looks and ticks run on two threads: what one has read must not be published after what the other saved."""
    ca = found_ca()
    ca.clock.moment = FOUNDED + 15 * DAY
    ca.rotation.tick()
    ca.clock.moment = FOUNDED + 25 * DAY
    step = threading.Thread(target=ca.rotation.tick)

    def slowly(_: object) -> None:
        if threading.current_thread() is look:
            step.start()
            step.join(0.3)  # it has to wait for us: were it let through, it would end in this time

    look = threading.Thread(target=ca.keeper.refresh)
    ca.store.loaded = slowly
    look.start()
    for thread in (look, step):
        thread.join(10)
    assert states(ca) == ["old", "active"]
    assert ca.signing.latest().ring == ca.ring


def test_state_without_an_active_issuer_signs_nothing_until_a_tick_has_made_one() -> None:
    """As after a crash between two steps of an operator. A server that refused to start could not be helped."""
    ca = found_ca()
    stored = ca.store.load()
    active = ca.ring.active(ISSUER)
    assert active is not None
    ca.store.save(apply(stored.ring, Advanced(active.id, Step.RETIRE)), expected_revision=stored.revision)
    ca.restart()
    ca.keeper.refresh()
    with pytest.raises(MeshcaError, match="the next one under the active root is yet to be made") as refused:
        ca.issue(WORKLOAD, SigningRequest(CSR))
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.UNAVAILABLE, "CA_NOT_READY")
    ca.rotation.tick()
    ca.issue(WORKLOAD, SigningRequest(CSR))


def test_state_whose_key_is_missing_or_anothers_stops_the_server() -> None:
    ca = found_ca()
    active = ca.ring.active(ISSUER)
    assert active is not None
    ca.memory_keys.delete(active.key_id)
    with pytest.raises(MeshcaError) as refused:
        open_state(ca.ring, ca.keys)
    assert refused.value.kind is ErrorKind.NOT_FOUND
    ca.memory_keys.generate(active.key_id, KeyAlgorithm.P256)
    with pytest.raises(MeshcaError) as refused:
        open_state(ca.ring, ca.keys)
    assert refused.value.kind is ErrorKind.INTERNAL
    assert refused.value.message == (f"key {active.key_id} does not belong to the certificate of authority {active.id}")


def test_a_server_without_stored_state_makes_none() -> None:
    ca = found_ca()
    empty = found_ca().store.inner.__class__()  # a store of the same kind, never used
    ca.store.inner = empty
    for call in (ca.keeper.refresh, ca.rotation.tick):
        with pytest.raises(MeshcaError) as refused:
            call()
        assert refused.value.kind is ErrorKind.NOT_FOUND
    assert ca.journal == []


def test_an_expired_root_makes_no_issuer_and_says_so() -> None:
    ca = found_ca(root_ttl=40 * DAY)
    ca.clock.move(41 * DAY)
    with pytest.raises(MeshcaError, match="can sign no more: it expires at 2026-07-11T12:00:00Z") as refused:
        ca.rotation.tick()
    assert refused.value.kind is ErrorKind.INTERNAL
    assert states(ca) == ["active"]


def test_a_policy_that_makes_each_issuer_due_at_birth_ends_in_an_error_and_not_in_a_loop() -> None:
    """Settings refuse such a policy; a tick is bounded all the same."""
    ca = found_ca(policy=IssuerPolicy(timedelta(seconds=12), 1 / 2, 5 / 6, SECOND))
    with pytest.raises(MeshcaError) as refused:
        ca.rotation.tick()
    assert (refused.value.kind, refused.value.message) == (
        ErrorKind.INTERNAL,
        "rotation did not come to rest after 24 steps",
    )


TTLS = st.integers(600, 90 * 86400).map(lambda seconds: timedelta(seconds=seconds))


@given(
    ttl=TTLS,
    fractions=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).filter(lambda pair: pair[0] < pair[1]),
    steps=st.lists(st.floats(0.001, 0.1), min_size=5, max_size=60),
)
def test_no_leaf_is_ever_cut_short_by_more_than_a_tick_was_late(
    ttl: timedelta, fractions: tuple[float, float], steps: list[float]
) -> None:
    """Settings allow a leaf TTL of up to ttl x (1 - activate_at)."""
    assume(ttl * fractions[1] > CA_BACKDATE * (1 - fractions[1]))  # as settings demand
    longest = timedelta(seconds=max(1, int((ttl * (1 - fractions[1])).total_seconds())))
    policy = IssuerPolicy(ttl, *fractions, longest)
    ca = found_ca(policy=policy, profile=IssuanceProfile(max_ttl=longest))
    for step in steps:
        late = step * ttl
        now = ca.clock.move(late)
        before_tick = ca.signing.current().issuer
        assert before_tick.not_after > now
        assert before_tick.not_after - now >= longest - late - SECOND
        ca.rotation.tick()
        issued = ca.issue(WORKLOAD, SigningRequest(CSR, int(longest.total_seconds())))
        assert issued.certificate.prepared.not_after == (now + longest).replace(microsecond=0)


def test_a_clock_that_ran_ahead_and_was_set_right_does_not_stop_issuance_until_it_gets_there_again() -> None:
    ca = found_ca()
    ca.clock.move(40 * DAY)
    ca.rotation.tick()
    ca.clock.move(-40 * DAY)
    ca.rotation.tick()
    issued = ca.issue(WORKLOAD, SigningRequest(CSR))
    assert issued.certificate.prepared.not_before <= ca.clock.now()
    assert issued.state.issuer.not_before <= ca.clock.now()


class Rotations(RuleBasedStateMachine):
    """A server that ticks, crashes between any two steps, sleeps, and whose clock jumps."""

    @initialize()
    def found(self) -> None:
        self.ca = found_ca()
        self.latest = FOUNDED
        self.crashes = 0
        self.setbacks = 0
        self.ticked = True

    @rule(fraction=st.floats(0.001, 0.1))
    def time_passes(self, fraction: float) -> None:
        self.ca.clock.move(POLICY.ttl * fraction)
        self.tick()

    @rule(days=st.integers(1, 200))
    def outage(self, days: int) -> None:
        self.ca.clock.move(days * DAY)
        self.ca.restart()
        self.ca.keeper.refresh()
        self.ticked = False

    @precondition(lambda self: self.ca.clock.now() > FOUNDED + 2 * DAY)
    @rule(hours=st.integers(1, 40))
    def clock_is_set_back(self, hours: int) -> None:
        self.ca.clock.move(-timedelta(hours=hours))
        self.setbacks += 1
        self.tick()

    @rule(where=st.sampled_from(["before save", "after save", "at delete", "ledger"]), fraction=st.floats(0.01, 0.6))
    def crash(self, where: str, fraction: float) -> None:
        self.ca.clock.move(POLICY.ttl * fraction)
        self.ca.store.fail_before = where == "before save"
        self.ca.store.fail_after = where == "after save"
        self.ca.keys.fail_delete = where == "at delete"
        self.ca.ledger.out = where == "ledger"
        with contextlib.suppress(MeshcaError):
            self.ca.rotation.tick()
        self.crashes += 1
        self.ca.store.fail_before = self.ca.store.fail_after = self.ca.keys.fail_delete = self.ca.ledger.out = False
        self.ca.restart()
        self.ca.keeper.refresh()
        self.ticked = False

    @rule()
    def tick(self) -> None:
        self.ca.rotation.tick()
        assert self.ca.rotation.tick() == 0, "a tick leaves nothing undone"
        self.ticked = True

    @invariant()
    def after_a_tick_there_is_an_issuer_with_life_for_the_longest_leaf(self) -> None:
        active = self.ca.ring.active(ISSUER)
        assert active is not None
        if self.ticked:
            assert active.not_after - self.ca.clock.now() >= POLICY.max_leaf_ttl

    @invariant()
    def the_door_follows_the_store(self) -> None:
        active = self.ca.ring.active(ISSUER)
        assert active is not None
        assert self.ca.signing.current().issuer.authority_id == active.id

    @invariant()
    def nothing_is_signed_by_an_expired_issuer(self) -> None:
        now, issuer = self.ca.clock.now(), self.ca.signing.current().issuer
        if not issuer.not_before <= now < issuer.not_after:
            with pytest.raises(MeshcaError) as refused:
                self.ca.issue(WORKLOAD, SigningRequest(CSR, 86400))
            assert refused.value.reason == "CERT_GEN_ERROR"
            return
        prepared = self.ca.issue(WORKLOAD, SigningRequest(CSR, 86400)).certificate.prepared
        assert issuer.not_before <= prepared.not_before <= now < prepared.not_after <= issuer.not_after

    @invariant()
    def what_the_ring_holds_has_its_key_and_only_crashes_leave_keys_behind(self) -> None:
        needed = {a.key_id for a in self.ca.ring.authorities}
        assert needed <= self.ca.key_ids()
        assert len(self.ca.key_ids() - needed) <= self.crashes

    @invariant()
    def after_a_tick_what_signs_is_valid(self) -> None:
        if self.ticked:
            assert self.ca.signing.current().issuer.not_before <= self.ca.clock.now()

    @invariant()
    def no_more_than_a_few_issuers_are_kept(self) -> None:
        """Each time that the clock is set back, one that was made in what is now the future may have to be replaced."""
        assert len(self.ca.ring.of(ISSUER)) <= 4 + self.setbacks


TestRotations = Rotations.TestCase
TestRotations.settings = settings(max_examples=40, stateful_step_count=30)
