"""Whole lives of a mesh: whatever happens, nobody presents a certificate to somebody who lacks its root (law 4).

A failing history is printed as the script that repeats it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meshca.authority.evidence import BundleFact
from meshca.authority.ring import AuthorityState, Step
from tests.authority.world import ISSUER, LEAF_TTL, ROOT, SOAK, Party, World

REPLICAS = st.integers(0, 2)
PARTIES = st.integers(0, 5)


class Histories(RuleBasedStateMachine):
    """Servers, relying parties and operators do what they do, in any order."""

    gate = True

    @initialize(streams=st.lists(st.booleans(), min_size=2, max_size=4))
    def begin(self, streams: list[bool]) -> None:
        self.world = World(gate=self.gate)
        for stream in streams:
            self.join(stream=stream, replica=0)

    def party(self, index: int) -> Party:
        everybody = list(self.world.parties.values())
        return everybody[index % len(everybody)]

    @rule(stream=st.booleans(), replica=REPLICAS)
    def join(self, *, stream: bool, replica: int) -> None:
        if len(self.world.parties) < 6:
            party = Party(f"party{len(self.world.parties)}", stream)
            if self.world.renew(party, replica):
                self.world.parties[party.name] = party
                self.world.take_trust(party)
                self.world.take_identity(party)

    @rule(seconds=st.sampled_from([1, 5, 11, 30, 60, 600, 1800, 3600]))
    def time_passes(self, seconds: int) -> None:
        """With replicas that look every second, and agents that hold their streams."""
        self.world.wait(seconds)

    @rule(replica=REPLICAS)
    def a_replica_looks(self, replica: int) -> None:
        self.world.look(replica)

    @rule(replica=REPLICAS, steps=st.integers(1, 4))
    def tick(self, replica: int, steps: int) -> None:
        for _ in range(steps):
            self.world.tick(replica)

    @rule(replica=REPLICAS)
    def crash_in_a_tick(self, replica: int) -> None:
        self.world.tick(replica, crash=True)

    @rule(index=PARTIES, replica=REPLICAS)
    def renew(self, index: int, replica: int) -> None:
        self.world.renew(self.party(index), replica)

    @rule(index=PARTIES, replica=REPLICAS)
    def renew_by_token(self, index: int, replica: int) -> None:
        """As when the listener for certificates is out of reach, or the certificate has ended."""
        self.world.renew(self.party(index), replica, token=True)

    @rule(index=PARTIES, replica=REPLICAS)
    def renew_in_vain(self, index: int, replica: int) -> None:
        self.world.renew(self.party(index), replica, lost=True)

    @rule(index=PARTIES)
    def its_proxy_takes_the_identity(self, index: int) -> None:
        self.world.take_identity(self.party(index))

    @rule(index=PARTIES, replica=REPLICAS, answer=st.sampled_from(["ack", "ack", "silence", "nack"]))
    def push(self, index: int, replica: int, answer: str) -> None:
        party = self.party(index)
        if not party.stream or not self.world.receive(party, replica):
            return
        if answer == "ack":
            self.world.take_trust(party)
            self.world.acknowledge(party)
        elif answer == "nack":
            self.world.refuse(party)

    @rule(replica=REPLICAS)
    def everybody_takes_the_bundle(self, replica: int) -> None:
        for party in self.world.parties.values():
            if party.stream and self.world.receive(party, replica):
                self.world.take_trust(party)
                self.world.acknowledge(party)

    @rule(minutes=st.integers(1, 90), absent=st.sets(PARTIES, max_size=2), replica=REPLICAS)
    def a_quiet_while(self, minutes: int, absent: set[int], replica: int) -> None:
        """Everything works, but for those who are absent: streams deliver, certificates are renewed, ticks taken."""
        there = [party for index, party in enumerate(self.world.parties.values()) if index not in absent]
        for _ in range(max(1, minutes // 10)):
            a_quiet_time(self.world, there, min(minutes, 10) * 60, replica)

    @rule()
    def rotate(self) -> None:
        self.world.begin()

    @rule()
    def abort(self) -> None:
        self.world.abort()

    @precondition(lambda self: self.world.ring.successor is not None)
    @rule(index=PARTIES)
    def taint(self, index: int) -> None:
        roots = [r for r in self.world.ring.trusted if r.state in (AuthorityState.ACTIVE, AuthorityState.OLD)]
        if roots:
            self.world.taint(roots[index % len(roots)].id)

    @rule(index=PARTIES, replica=REPLICAS | st.none())
    def ban_or_unban(self, index: int, replica: int | None) -> None:
        """By an operator at that replica, which publishes the lists at once if it can."""
        party = self.party(index)
        if not self.world.unban(party):
            self.world.ban(party)
        if replica is not None:
            self.world.publish_lists(replica)

    @precondition(lambda self: self.world.bans.bans or self.world.ring.crls)
    @rule(replica=REPLICAS)
    def lists_are_published(self, replica: int) -> None:
        self.world.publish_lists(replica)

    @rule(hours=st.sampled_from([-3, -1, 1, 3]))
    def the_clock_is_set(self, hours: int) -> None:
        """It will be set right: a server that is for ever ahead of everybody cannot know when others see an end."""
        self.world.set_clock(hours * 3600)

    @rule(replica=REPLICAS)
    def a_process_ends_and_another_begins(self, replica: int) -> None:
        """While the clock is ahead, none that began with it does: what it wrote meanwhile is taken for the time."""
        if self.world.skew <= 0:
            self.world.restart(replica)

    @precondition(lambda self: not self.world.skew)
    @rule(hours=st.sampled_from([1, 3]))
    def everything_begins_anew_with_a_clock_that_is_ahead(self, hours: int) -> None:
        self.world.reboot_with_a_clock_that_is_ahead(hours * 3600)

    @precondition(lambda self: any(r.state is AuthorityState.PREPARED for r in self.world.ring.trusted))
    @rule()
    def an_operator_forces(self) -> None:
        prepared = next(r for r in self.world.ring.trusted if r.state is AuthorityState.PREPARED)
        self.world.force(prepared.id, Step.ACTIVATE)

    @invariant()
    def the_laws_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()
            self.world.check_evidence()


def a_quiet_time(world: World, there: list[Party], seconds: float, replica: int = 0) -> None:
    """It passes; then those who are there renew what is half over and take what is served, and a replica ticks."""
    world.wait(seconds)
    for each in range(3):
        world.look(each)
    for party in there:
        left = -1.0 if party.held is None else party.held.ends - world.now
        if left < LEAF_TTL / 2:
            world.renew(party, replica)
        take_everything(world, party, replica)
    while world.publish_lists(replica) or world.tick(replica):
        world.check()


def take_everything(world: World, party: Party, replica: int = 0) -> None:
    if party.stream and world.receive(party, replica):
        world.take_trust(party)
        world.take_identity(party)
        world.acknowledge(party)


# Histories that are known: each broke a law once.


def a_mesh(*names: str, list_gate: bool = True) -> tuple[World, list[Party]]:
    """Agents of these names, each with its first certificate, and a minute."""
    world, parties = World(list_gate=list_gate), [Party(name, stream=True) for name in names]
    for party in parties:
        world.parties[party.name] = party
        world.renew(party, 0)
    for party in parties:
        take_everything(world, party)
    a_quiet_time(world, parties, 60)
    return world, parties


def rotate(world: World, parties: list[Party]) -> str:
    """To where the next root signs; gives the id of the one from before, whose certificates everybody still has."""
    before = world.ring.active(ROOT)
    assert before is not None
    assert world.begin()
    for _ in range(5):
        a_quiet_time(world, parties, 15)
    issuer, after = world.ring.active(ISSUER), world.ring.active(ROOT)
    assert after is not None
    assert after != before
    assert issuer is not None
    assert issuer.issuer_id == after.id
    return before.id


def ticks_until_it_leaves(world: World, root: str, parties: list[Party], minutes: int) -> int | None:
    """After how many minutes the root leaves the bundle, which all of them take; None where it does not."""
    for minute in range(minutes):
        world.wait(60)
        while world.tick(0):
            pass
        for party in parties:
            if world.receive(party, 0):
                world.take_trust(party)
                world.acknowledge(party)
        world.check()
        if root not in {each.id for each in world.ring.trusted}:
            return minute
    return None


def test_a_tainted_root_waits_for_whoever_never_got_the_answer_to_its_renewal() -> None:
    world, (heard, unheard) = a_mesh("heard", "unheard")
    root = rotate(world, [heard, unheard])
    world.taint(root)
    world.renew(heard, 0)
    take_everything(world, heard)
    world.renew(unheard, 0, lost=True)
    assert ticks_until_it_leaves(world, root, [heard, unheard], 10) is None
    world.renew(unheard, 0)
    take_everything(world, unheard)
    assert ticks_until_it_leaves(world, root, [heard, unheard], 10) == 0


def test_a_tainted_root_waits_for_proxies_that_have_not_taken_the_renewed_certificate() -> None:
    world, parties = a_mesh("quick", "slow")
    quick, slow = parties
    root = rotate(world, parties)
    world.taint(root)
    for party in parties:
        world.renew(party, 0)
    take_everything(world, quick)
    assert ticks_until_it_leaves(world, root, parties, 10) is None
    world.renew(slow, 0)
    assert ticks_until_it_leaves(world, root, parties, 10) is None, "a second renewal shows no more than the first"
    take_everything(world, slow)
    assert ticks_until_it_leaves(world, root, parties, 10) == 0


def test_a_root_is_not_taken_for_unused_after_a_restore_that_lost_who_uses_it() -> None:
    world, (known, lost) = a_mesh("known", "lost")
    assert world.facts[1].serial == lost.held.serial  # type: ignore[union-attr]
    root = rotate(world, [known, lost])
    world.facts = [f for f in world.facts if isinstance(f, BundleFact) or f.spiffe_id == known.spiffe_id]
    for replica in range(3):
        world.restart(replica)
    world.renew(known, 0)
    take_everything(world, known)
    world.taint(root)
    assert ticks_until_it_leaves(world, root, [known, lost], 10) is None
    world.renew(lost, 0)
    take_everything(world, lost)
    world.wait(LEAF_TTL)  # all that nobody knows of has ended
    assert ticks_until_it_leaves(world, root, [known, lost], 10) is not None


def test_a_process_that_begins_with_a_clock_that_is_ahead_takes_nobody_for_gone() -> None:
    world, (there, absent) = a_mesh("there", "absent")
    world.begin()
    a_quiet_time(world, [there], 15)
    world.reboot_with_a_clock_that_is_ahead(3 * 3600)
    for _ in range(10):
        a_quiet_time(world, [there], 15)
    successor = world.ring.successor
    assert successor is not None
    assert successor.state is AuthorityState.PREPARED
    take_everything(world, absent)
    for _ in range(10):
        a_quiet_time(world, [there, absent], 15)
    assert world.ring.active(ROOT) == world.ring.successor


def test_a_step_of_a_replica_whose_clock_is_behind_is_not_taken_for_an_old_one() -> None:
    world, late = World(), Party("late", stream=False)
    world.parties[late.name] = late
    world.begin()
    while world.tick(1):
        pass
    world.wait(SOAK)
    world.look(2)
    for replica in (1, 0):
        while world.tick(replica):
            pass
    assert world.ring.active(ROOT) == world.ring.successor
    assert world.renew(late, 2), "its door goes on as before for some seconds"
    newcomer = Party("newcomer", stream=False)
    world.parties[newcomer.name] = newcomer
    assert world.renew(newcomer, 0)
    world.check()


def test_newcomers_do_not_hold_a_rotation_up() -> None:
    """Each got the next root along with its first certificate, and shows it on its stream a moment later."""
    world, parties = a_mesh("first")
    world.begin()
    for number in range(12):
        a_quiet_time(world, parties, 10)
        newcomer = Party(f"newcomer{number}", stream=True)
        world.parties[newcomer.name] = newcomer
        world.renew(newcomer, 0)
        world.tick(0)
        parties.append(newcomer)
    successor = world.ring.successor
    assert successor is not None
    assert successor.state is AuthorityState.ACTIVE


def test_a_successor_that_was_made_while_the_clock_was_ahead_is_replaced_when_that_is_set_right() -> None:
    world, parties = a_mesh("one")
    world.set_clock(3 * 3600)
    world.begin()
    a_quiet_time(world, parties, 15)
    early = world.ring.successor
    world.set_clock(0)
    for _ in range(5):
        a_quiet_time(world, parties, 15)
    assert early is not None
    assert world.ring.find(early.id) is None
    assert world.ring.active(ROOT) == world.ring.successor


def test_a_new_issuing_ca_waits_for_newcomers_that_have_only_the_lists_that_came_with_their_certificate() -> None:
    """It was put to use, and the newcomer, whose stream was stuck, refused everybody."""
    world, (one, two, bad) = a_mesh("one", "two", "bad")
    world.ban(bad)
    a_quiet_time(world, [one, two], 30)
    world.begin()
    a_quiet_time(world, [one, two], 5)
    newcomer = Party("newcomer", stream=True)
    world.parties[newcomer.name] = newcomer
    world.renew(newcomer, 0)
    world.take_trust(newcomer)
    world.take_identity(newcomer)
    for _ in range(5):
        a_quiet_time(world, [one, two], 60)
    root, issuer = world.ring.active(ROOT), world.ring.active(ISSUER)
    assert root is not None
    assert issuer is not None
    assert issuer.issuer_id != root.id, "it waits"
    take_everything(world, newcomer)
    a_quiet_time(world, [one, two, newcomer], 60)
    assert world.ring.active(ISSUER).issuer_id == root.id  # type: ignore[union-attr]


def test_without_the_gate_of_the_lists_who_is_late_refuses_everybody() -> None:
    """The negative control."""
    world, (one, late, bad) = a_mesh("one", "late", "bad", list_gate=False)
    world.ban(bad)
    a_quiet_time(world, [one, late], 30)
    world.begin()
    for _ in range(2):
        a_quiet_time(world, [one, late], SOAK)
    for _ in range(3):
        a_quiet_time(world, [one], 30)
    world.renew(one, 0)
    take_everything(world, one)
    with pytest.raises(AssertionError, match="late lacks the lists of"):
        world.check()


def test_a_new_issuing_ca_waits_for_those_who_have_not_heard_that_lists_are_in_use_no_more() -> None:
    """It was put to use at once when the last ban was lifted; who still had the lists of before refused everybody."""
    world, (one, late, bad) = a_mesh("one", "late", "bad")
    world.ban(bad)
    for _ in range(3):
        a_quiet_time(world, [one, late], 30)
    world.begin()
    for _ in range(2):
        a_quiet_time(world, [one, late], SOAK)
    world.unban(bad)
    assert late.trust.lists
    for _ in range(4):
        a_quiet_time(world, [one, bad], 30)
    assert not world.ring.crls
    assert late.trust.lists
    root, issuer = world.ring.active(ROOT), world.ring.active(ISSUER)
    assert root is not None
    assert issuer is not None
    assert issuer.issuer_id != root.id, "it waits"
    for _ in range(3):
        a_quiet_time(world, [one, late, bad], 30)
    assert world.ring.active(ISSUER).issuer_id == root.id  # type: ignore[union-attr]


def test_who_is_banned_holds_no_rotation_up_and_its_certificates_are_outlived_by_their_root() -> None:
    world, (one, two, bad) = a_mesh("one", "two", "bad")
    before = world.ring.active(ROOT)
    assert before is not None
    world.ban(bad)
    world.begin()
    for _ in range(6):
        a_quiet_time(world, [one, two], 60)
    assert world.ring.active(ROOT) == world.ring.successor != before
    assert before.id in {root.id for root in world.ring.trusted}, "what was banned may be accepted here and there"
    world.unban(bad)
    a_quiet_time(world, [one, two, bad], 10)
    assert not bad.astray
    for _ in range(10):
        a_quiet_time(world, [one, two, bad], 600)
    assert [root.id for root in world.ring.trusted] != [before.id]
    assert len(world.ring.trusted) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("share", range(4))
def test_in_ten_thousand_histories_nobody_meets_a_certificate_whose_root_it_lacks(share: int) -> None:
    class Share(Histories):
        pass

    Share.__name__ = f"Histories{share}"
    run_state_machine_as_test(
        Share, settings=settings(max_examples=2500, stateful_step_count=30, suppress_health_check=list(HealthCheck))
    )


class Ungated(Histories):
    """The same mesh, whose servers take everybody's trust for granted."""

    gate = False


def test_without_the_gate_of_evidence_the_same_histories_break_the_law() -> None:
    """The negative control: the model can fail, and it is the gate that keeps it from failing."""
    with pytest.raises(AssertionError, match=r"lacks {.*}, whose certificates live"):
        run_state_machine_as_test(
            Ungated,
            settings=settings(
                max_examples=2500,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),
                report_multiple_bugs=False,
            ),
        )
