"""A model Envoy against the stream: whatever happens, both end up agreeing, and nothing goes on for ever."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshca.xds.effects import Effect, Send
from meshca.xds.snapshot import SECRET_TYPE, Snapshot
from tests.xds.envoys import DeltaWire, SotwWire, Wire, contents, nacked, new_stream, resource

NAMES = ("ROOTCA", "default", "other")
names = st.sampled_from(NAMES)


class Meeting(RuleBasedStateMachine):
    """One Envoy and one agent, with messages on their way in both directions, each direction in order.

    Envoy keeps what it was sent last of each secret (`provider`), even where it refuses it. It builds its TLS context
    of all of them, or refuses the update that made it impossible, which may not be the culprit. What is the same as
    before it accepts without a look.
    """

    wire: Wire
    aggregated = True

    def __init__(self) -> None:
        super().__init__()
        self.nonces = (f"n{number}" for number in itertools.count(1))
        self.counter = itertools.count(1)
        self.snapshot = Snapshot()
        self.published: dict[str, set[str]] = {name: set() for name in NAMES}
        self.bad: set[str] = set()
        self.provider: dict[str, str] = {}
        self.context: dict[str, str] = {}
        self.seen_nonces: set[str] = set()
        self.answered: list[Any] = []
        self.stream = new_stream(self.wire.mode, aggregated=self.aggregated, nonces=self.nonces)
        self.to_envoy: deque[Any] = deque()
        self.to_agent: deque[Any] = deque()

    # --- the agent

    def serve(self, effects: list[Effect]) -> None:
        sent = [effect for effect in effects if isinstance(effect, Send)]
        for effect in sent:
            self.check_response(effect)
            self.to_envoy.append(effect.response)
        assert {refusal.reason for refusal in nacked(effects)} <= {"refused"}

    def check_response(self, effect: Send) -> None:
        response = effect.response
        assert response.nonce not in self.seen_nonces, "a nonce came twice"
        self.seen_nonces.add(response.nonce)
        current = self.snapshot.named(SECRET_TYPE)
        parked = self.stream.parked(SECRET_TYPE)
        assert contents(response) == dict(effect.versions)
        for name, version in contents(response).items():
            assert name in self.stream.subscribed(SECRET_TYPE), "nobody asked for it"
            assert name in current, "it is not in the snapshot"
            assert version in self.published[name], "it never was"
            assert version not in parked.get(name, frozenset()), "it was refused"
        for name in getattr(response, "removed_resources", ()):
            assert name not in current

    def publish(self, name: str, version: str) -> None:
        self.published[name].add(version)
        others = (r for r in self.snapshot.named(SECRET_TYPE).values() if r.name != name)
        self.snapshot = Snapshot.of(SECRET_TYPE, [*others, resource(name, version)])

    @rule(name=names, bad=st.sampled_from([False, False, True]), push=st.booleans())
    def update(self, name: str, *, bad: bool, push: bool) -> None:
        version = f"{name}-{next(self.counter)}"
        if bad:
            self.bad.add(version)
        self.publish(name, version)
        if push:
            self.push()

    @rule(name=names, data=st.data())
    def go_back(self, name: str, data: st.DataObject) -> None:
        if self.published[name]:
            self.publish(name, data.draw(st.sampled_from(sorted(self.published[name]))))
            self.push()

    @rule(name=names)
    def withdraw(self, name: str) -> None:
        others = (r for r in self.snapshot.named(SECRET_TYPE).values() if r.name != name)
        self.snapshot = Snapshot.of(SECRET_TYPE, others)
        self.push()

    @rule()
    def push(self) -> None:
        self.serve(self.stream.push(self.snapshot))

    @precondition(lambda self: self.to_agent)
    @rule()
    def agent_reads(self) -> None:
        self.serve(self.stream.receive(self.to_agent.popleft(), self.snapshot))

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def agent_reads_something_stale(self, data: st.DataObject) -> None:
        """An answer that was read before comes again; it must change nothing."""
        before = (self.stream.subscribed(SECRET_TYPE), self.stream.accepted(SECRET_TYPE))
        stale = data.draw(st.sampled_from(self.answered))
        current = self.stream._subscriptions[SECRET_TYPE].last_nonce
        if stale.response_nonce != current and stale not in self.to_agent:
            effects = self.stream.receive(stale, self.snapshot)
            assert all(isinstance(effect, Send) for effect in effects)  # as a push of the snapshot would send
            self.serve(effects)
            assert (self.stream.subscribed(SECRET_TYPE), self.stream.accepted(SECRET_TYPE)) == before

    # --- Envoy

    @rule(name=names)
    def subscribe(self, name: str) -> None:
        if name not in self.wire.names:
            self.to_agent.append(self.wire.subscribe(name))

    @rule(name=names)
    def unsubscribe(self, name: str) -> None:
        if name in self.wire.names:
            self.to_agent.append(self.wire.unsubscribe(name))
            self.provider.pop(name, None)
            self.context.pop(name, None)

    @precondition(lambda self: self.to_envoy)
    @rule()
    def envoy_reads(self) -> None:
        response = self.to_envoy.popleft()
        answer = self.wire.ack(response) if self.takes(response) else self.wire.nack(response)
        self.to_agent.append(answer)
        self.answered.append(answer)

    def takes(self, response: Any) -> bool:
        changes = {n: v for n, v in contents(response).items() if n in self.wire.names and self.provider.get(n) != v}
        self.provider |= changes
        if changes and self.bad & set(self.provider.values()):
            return False
        if changes:
            self.context = dict(self.provider)
        return True

    @rule()
    def reconnect(self) -> None:
        self.to_envoy.clear()
        self.to_agent.clear()
        self.answered.clear()
        self.provider = dict(self.context)
        self.stream = new_stream(self.wire.mode, aggregated=self.aggregated, nonces=self.nonces)
        self.to_agent.append(self.wire.reconnect())

    # --- what must hold

    @invariant()
    def at_most_so_many_responses_are_remembered(self) -> None:
        subscription = self.stream._subscriptions.get(SECRET_TYPE)
        assert subscription is None or len(subscription._flights) <= 32

    @rule()
    def it_comes_to_rest_and_both_agree(self) -> None:
        self.push()
        for _ in range(10 * (len(self.to_envoy) + len(self.to_agent)) + 100):
            if self.to_envoy:
                self.envoy_reads()
            elif self.to_agent:
                self.agent_reads()
            else:
                break
        assert not self.to_envoy, "they never come to rest"
        assert not self.to_agent, "they never come to rest"
        self.check_agreement()

    def check_agreement(self) -> None:
        assert self.stream.subscribed(SECRET_TYPE) == self.wire.names
        accepted, parked = self.stream.accepted(SECRET_TYPE), self.stream.parked(SECRET_TYPE)
        for name in self.wire.names & self.snapshot.named(SECRET_TYPE).keys():
            current = self.snapshot.named(SECRET_TYPE)[name].version
            if current not in parked.get(name, frozenset()):
                assert accepted[name] == current, "the newest version that was not refused is held"
            if name in accepted:
                assert self.provider[name] == accepted[name], "evidence tells what Envoy holds"
            assert self.provider.get(name) not in self.bad or name not in accepted, (
                "a bad half stays where a good one was"
            )

    def teardown(self) -> None:
        self.it_comes_to_rest_and_both_agree()


class SotwMeeting(Meeting):
    def __init__(self) -> None:
        self.wire = SotwWire()
        super().__init__()

    @precondition(lambda self: len(self.to_envoy) > 1)
    @rule()
    def envoy_answers_several_at_once(self) -> None:
        """Two answers are due, but both are made of the latest state, as Envoy's queue does."""
        assert isinstance(self.wire, SotwWire)
        for _ in range(2):
            response = self.to_envoy.popleft()
            self.wire.note(response, "" if self.takes(response) else "refused")
        self.to_agent.extend([self.wire.request(), self.wire.request()])


class DedicatedSotwMeeting(SotwMeeting):
    """A stream of its own: Envoy's subscription lives as long as the stream, so it drops no name."""

    aggregated = False

    def unsubscribe(self, name: str) -> None:
        raise NotImplementedError


class DeltaMeeting(Meeting):
    def __init__(self) -> None:
        self.wire = DeltaWire()
        super().__init__()

    @rule()
    def reconnect(self) -> None:
        """Envoy claims its bad half where that came twice, as the second time it took it; no stream can tell."""
        assert isinstance(self.wire, DeltaWire)
        self.wire.versions = {n: v for n, v in self.wire.versions.items() if self.context.get(n) == v}
        super().reconnect()

    @rule(name=names)
    def ask_again(self, name: str) -> None:
        if name in self.wire.names:
            self.to_agent.append(self.wire.subscribe(name))


TestSotwMeeting = SotwMeeting.TestCase
TestSotwMeeting.settings = settings(max_examples=150, stateful_step_count=40)
TestDedicatedSotwMeeting = DedicatedSotwMeeting.TestCase
TestDedicatedSotwMeeting.settings = settings(max_examples=150, stateful_step_count=40)
TestDeltaMeeting = DeltaMeeting.TestCase
TestDeltaMeeting.settings = settings(max_examples=150, stateful_step_count=40)
