"""Who owes a verdict: never is a bundle acknowledged while a proxy that may use the agent's certificates lacks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshca.agent.relying import Debt, KnownProxy, RelyingProxies, Standing

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = ("a", "b", "")


def owing(relying: RelyingProxies, now: datetime = NOW) -> list[str]:
    return [debt.node_id for debt in relying.debts(now)]


def with_proxy(node_id: str = "a", standing: Standing = Standing.HOLDS) -> RelyingProxies:
    """One stream, 1, that has a certificate for an hour and did that about the trust t1."""
    relying = RelyingProxies()
    relying.served("t1")
    relying.gave(node_id, NOW + HOUR)
    relying.stands(1, node_id, standing, NOW)
    return relying


def test_new_trust_is_owed_by_every_open_stream_that_wants_trust() -> None:
    relying = with_proxy()
    relying.stands(2, "b", Standing.APART, NOW)
    assert owing(relying) == []
    relying.served("t2")
    assert owing(relying) == ["a"]
    relying.stands(1, "a", Standing.HOLDS, NOW)
    assert owing(relying) == []


def test_who_refused_comes_first_and_with_the_reason() -> None:
    relying = with_proxy("a", Standing.OWES)
    relying.stands(2, "z", Standing.REFUSED, NOW, "no")
    assert relying.debts(NOW) == (Debt("z", away=False, refusal="no"), Debt("a", away=False))


def test_an_open_stream_owes_whatever_the_clock_says() -> None:
    assert owing(with_proxy(standing=Standing.OWES), NOW + 100 * HOUR) == ["a"]


def test_one_that_left_with_this_trust_owes_nothing_until_there_is_newer() -> None:
    relying = with_proxy()
    relying.left(1, "a", NOW)
    assert owing(relying) == []
    relying.served("t2")
    assert owing(relying) == ["a"]
    assert owing(relying, NOW + HOUR) == []


def test_one_that_comes_back_with_a_certificate_stream_alone_still_owes() -> None:
    relying = with_proxy()
    relying.left(1, "a", NOW)
    relying.served("t2")
    relying.stands(2, "a", Standing.APART, NOW)
    assert owing(relying) == ["a"]
    relying.stands(3, "a", Standing.HOLDS, NOW)
    assert owing(relying) == []


def test_one_that_wants_trust_no_longer_but_renews_on_is_waited_for_as_long_as_what_it_had_then() -> None:
    relying = with_proxy()
    relying.stands(2, "a", Standing.APART, NOW)
    relying.left(1, "a", NOW)
    relying.served("t2")
    relying.gave("a", NOW + 2 * HOUR)
    assert owing(relying, NOW + HOUR / 2) == ["a"]
    assert owing(relying, NOW + HOUR) == [], "it has its trust elsewhere by now"
    relying.left(2, "a", NOW + HOUR / 2)  # but had it gone altogether before, it could come back until then
    assert owing(relying, NOW + HOUR) == ["a"]
    assert owing(relying, NOW + 2 * HOUR) == []


def test_nameless_ones_do_not_speak_for_each_other() -> None:
    relying = with_proxy("")
    relying.left(1, "", NOW)
    relying.served("t2")
    relying.stands(2, "", Standing.HOLDS, NOW)
    assert owing(relying) == [""]
    relying.left(2, "", NOW)
    assert owing(relying) == [""]
    assert owing(relying, NOW + HOUR) == []


def test_a_nameless_one_that_leaves_without_it_is_not_spoken_for_by_one_that_stays() -> None:
    relying = with_proxy("", Standing.OWES)
    relying.stands(2, "", Standing.HOLDS, NOW)
    relying.left(1, "", NOW)
    assert owing(relying) == [""]
    named = with_proxy("a", Standing.OWES)
    named.stands(2, "a", Standing.HOLDS, NOW)
    named.left(1, "a", NOW)
    assert owing(named) == [], "a named one came back before its old stream was known to be over"


def test_a_restart_keeps_who_was_there_until_when_and_with_what() -> None:
    relying = with_proxy()
    relying.gave("b", NOW + 2 * HOUR)
    relying.stands(2, "b", Standing.OWES, NOW)
    relying.gave("files", NOW + HOUR)
    relying.stands(3, "files", Standing.APART, NOW)
    known = relying.known(NOW)
    assert known == (
        KnownProxy("a", NOW + HOUR, "t1"),
        KnownProxy("b", NOW + 2 * HOUR, ""),
        KnownProxy("files", NOW + HOUR, None),
    )
    again = RelyingProxies(known)
    again.served("t1")
    assert owing(again) == ["b"]
    assert owing(again, NOW + 2 * HOUR) == []


def test_a_clock_that_was_ahead_makes_nobody_forgotten() -> None:
    relying = with_proxy()
    relying.left(1, "a", NOW)
    again = RelyingProxies(relying.known(NOW + timedelta(days=3)))
    again.served("t2")
    assert owing(again) == ["a"]
    assert relying.known(NOW + timedelta(days=30)) == ()


def test_too_many_that_are_away_lose_their_names_but_not_what_they_owe() -> None:
    relying = RelyingProxies(max_away=2)
    relying.served("t1")
    for n in range(5):
        relying.gave(f"p{n}", NOW + HOUR * (n + 1))
        relying.stands(n, f"p{n}", Standing.HOLDS, NOW)
        relying.left(n, f"p{n}", NOW)
    relying.served("t2")
    assert owing(relying) == ["", "p3", "p4"]
    assert owing(relying, NOW + 3 * HOUR) == ["p3", "p4"]
    assert len(relying.known(NOW)) == 3


class Histories(RuleBasedStateMachine):
    """Random lives of proxies against a model that keeps every incarnation of every proxy.

    A proxy incarnation is (name, certificate's end, trust it holds). The model asks of each whether it may still use
    its certificate and lacks the trust served: then the agent must know somebody of that name who owes.
    """

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.trust = 1
        self.next = 0
        self.streams: dict[int, tuple[str, bool]] = {}  # open: name, wants trust
        self.holds: dict[int, int] = {}  # the trust that a stream's proxy accepted there
        self.until: dict[str, datetime] = {}  # of the last certificate given to a name
        self.away: dict[str, tuple[datetime, int]] = {}  # named, gone: end, trust
        self.nameless: list[tuple[datetime, int]] = []  # each that went
        self.relying = RelyingProxies()
        self.relying.served("1")

    def standing(self, stream: int) -> Standing:
        if not self.streams[stream][1]:
            return Standing.APART
        return Standing.HOLDS if self.holds[stream] == self.trust else Standing.OWES

    @rule(name=st.sampled_from(NAMES), wants=st.booleans())
    def joins(self, name: str, wants: bool) -> None:
        self.next += 1
        self.streams[self.next], self.holds[self.next] = (name, wants), 0
        if wants:
            self.away.pop(name, None)
        self.relying.stands(self.next, name, self.standing(self.next), self.now)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), hours=st.integers(1, 4))
    def is_given_a_certificate(self, data: st.DataObject, hours: int) -> None:
        name, _ = self.streams[data.draw(st.sampled_from(sorted(self.streams)))]
        until = self.now + HOUR * hours
        self.until[name] = max(self.until.get(name, until), until)
        self.relying.gave(name, until)

    @precondition(lambda self: any(wants for _, wants in self.streams.values()))
    @rule(data=st.data(), accepts=st.booleans())
    def gives_a_verdict(self, data: st.DataObject, accepts: bool) -> None:
        stream = data.draw(st.sampled_from(sorted(n for n, (_, wants) in self.streams.items() if wants)))
        name, _ = self.streams[stream]
        if accepts:
            self.holds[stream] = self.trust
        standing = Standing.HOLDS if accepts else self.standing(stream)
        if not accepts and standing is Standing.OWES:
            standing = Standing.REFUSED
        self.relying.stands(stream, name, standing, self.now, "" if accepts else "no")

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.streams)))
        self.relying.left(stream, self.streams[stream][0], self.now)
        self.leave(stream)

    def leave(self, stream: int) -> None:
        name, wants = self.streams.pop(stream)
        holds = self.holds.pop(stream)
        if not wants or name not in self.until:
            return
        if not name:
            self.nameless.append((self.until[name], holds))
        elif not any(other == name and wanting for other, wanting in self.streams.values()):
            self.away[name] = (self.until[name], holds)

    @rule()
    def new_trust_is_served(self) -> None:
        self.trust += 1
        self.relying.served(str(self.trust))

    @rule(minutes=st.integers(10, 150))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def the_agent_is_killed_and_comes_back(self) -> None:
        known = self.relying.known(self.now)
        for stream in sorted(self.streams):
            self.leave(stream)
        self.relying = RelyingProxies(known)
        self.relying.served(str(self.trust))

    @invariant()
    def nobody_is_overlooked(self) -> None:
        owing = {debt.node_id for debt in self.relying.debts(self.now)}
        for stream, (name, wants) in self.streams.items():
            if wants and self.holds[stream] != self.trust:
                assert name in owing, f"{name!r} is connected and lacks it"
        for name, (until, holds) in self.away.items():
            if self.now < until and holds != self.trust:
                assert name in owing, f"{name!r} may come back without it"
        if any(self.now < until and holds != self.trust for until, holds in self.nameless):
            assert "" in owing

    @invariant()
    def nobody_is_waited_for_without_end(self) -> None:
        wanting = {name for name, wants in self.streams.values() if wants}
        later = {debt.node_id for debt in self.relying.debts(self.now + timedelta(days=1))}
        assert later <= wanting, "only open streams can hold it back for longer than a certificate lasts"


Histories.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestHistories = Histories.TestCase
