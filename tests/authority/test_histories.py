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

from meshca.authority.ring import AuthorityState, Step
from tests.authority.world import LEAF_TTL, Party, World

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
                self.world.receive(party, replica)

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
    def renew_in_vain(self, index: int, replica: int) -> None:
        self.world.renew(self.party(index), replica, lost=True)

    @rule(index=PARTIES, replica=REPLICAS, answer=st.sampled_from(["ack", "ack", "silence", "nack"]))
    def push(self, index: int, replica: int, answer: str) -> None:
        party = self.party(index)
        if party.stream and self.world.receive(party, replica):
            if answer == "ack":
                self.world.acknowledge(party)
            elif answer == "nack":
                self.world.refuse(party)

    @rule(replica=REPLICAS)
    def everybody_takes_the_bundle(self, replica: int) -> None:
        for party in self.world.parties.values():
            if party.stream and self.world.receive(party, replica):
                self.world.acknowledge(party)

    @rule(minutes=st.integers(1, 90), absent=st.sets(PARTIES, max_size=2), replica=REPLICAS)
    def a_quiet_while(self, minutes: int, absent: set[int], replica: int) -> None:
        """Everything works, but for those who are absent: streams deliver, certificates are renewed, ticks taken."""
        world = self.world
        there = [party for index, party in enumerate(world.parties.values()) if index not in absent]
        for _ in range(max(1, minutes // 10)):
            world.wait(min(minutes, 10) * 60)
            for each in range(3):
                world.look(each)
            for party in there:
                if party.ends - world.now < LEAF_TTL / 2:
                    world.renew(party, replica)
                if party.stream and world.receive(party, replica):
                    world.acknowledge(party)
            while world.tick(replica):
                world.check()

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

    @rule(hours=st.sampled_from([-3, -1, 1, 3]))
    def the_clock_is_set(self, hours: int) -> None:
        """It will be set right: a server that is for ever ahead of everybody cannot know when others see an end."""
        self.world.set_clock(hours * 3600)

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
    with pytest.raises(AssertionError, match=r"lacks .*, whose certificates live"):
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
