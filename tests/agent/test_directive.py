"""Directed renewals: whom they concern, when they happen, and that they happen once."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from meshca.agent.directive import LATE_JITTER, MAX_ISSUERS, DirectedRenewal, Directive, directed_time, parse_directive
from meshca.agent.identity import AgentIdentity
from meshca.errors import MeshcaError
from meshca.proto.meshca.v1 import discovery_pb2 as pb
from tests.agent.identities import identity
from tests.fakes.certificate_authority import fresh_root
from tests.fakes.clock import OffsetClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ISSUER = "ab" * 20


def directive(start: datetime, window: timedelta, *issuers: str) -> Directive:
    return Directive(frozenset(issuers or (ISSUER,)), start, window)


def test_moments_are_spread_evenly_over_the_window() -> None:
    drawn = [directed_time(directive(NOW + HOUR, HOUR), NOW, dice / 10) for dice in range(10)]
    assert drawn == [NOW + HOUR + HOUR * (n / 10) for n in range(10)]


@pytest.mark.parametrize("ago", [HOUR / 2, HOUR, 24 * HOUR])
def test_who_comes_late_is_spread_as_widely_as_those_on_time(ago: timedelta) -> None:
    """As a whole fleet does after an outage that began with the switch: it must not come as a herd (law 8)."""
    drawn = [directed_time(directive(NOW - ago, HOUR), NOW, dice / 10) for dice in range(10)]
    assert drawn == [NOW + HOUR * (n / 10) for n in range(10)]


def test_a_window_without_length_is_a_few_seconds_all_the_same() -> None:
    drawn = [directed_time(directive(NOW, 0 * HOUR), NOW, dice / 10) for dice in range(10)]
    assert drawn == [NOW + LATE_JITTER * (n / 10) for n in range(10)]


@pytest.mark.parametrize(
    ("issuers", "start", "seconds", "problem"),
    [
        ((ISSUER,), NOW, 31 * 86400, "30 days"),
        ((ISSUER,), NOW, 2**62, "30 days"),
        ((ISSUER,), NOW, -1, "window_seconds"),
        ((ISSUER,), NOW + timedelta(days=31), 1, "window_start"),
        ((ISSUER.upper(),), NOW, 1, "lower-case hex"),
        (("",), NOW, 1, "lower-case hex"),
        (("a" * 200,), NOW, 1, "lower-case hex"),
        ((ISSUER,) * (MAX_ISSUERS + 1), NOW, 1, "at most"),
    ],
)
def test_what_nobody_can_mean_is_refused(issuers: tuple[str, ...], start: datetime, seconds: int, problem: str) -> None:
    message = pb.RenewalDirective(issuer_ids=issuers, window_start=int(start.timestamp()), window_seconds=seconds)
    with pytest.raises(MeshcaError, match=problem):
        parse_directive(message, NOW)


@pytest.mark.parametrize("start", [-1, 2**62])
def test_a_time_beyond_all_calendars_is_refused(start: int) -> None:
    with pytest.raises(MeshcaError, match="window_start"):
        parse_directive(pb.RenewalDirective(window_start=start), NOW)


def test_an_empty_directive_and_a_sound_one_are_read() -> None:
    assert parse_directive(pb.RenewalDirective(), NOW).issuer_ids == frozenset()
    message = pb.RenewalDirective(issuer_ids=[ISSUER], window_start=int(NOW.timestamp()), window_seconds=3600)
    assert parse_directive(message, NOW) == directive(NOW, HOUR)


class Case:
    """A directed renewal with a clock and a fixed throw of the dice, and an identity that it may concern."""

    def __init__(self, dice: float = 0.5) -> None:
        self.clock = OffsetClock()
        self.root = fresh_root()
        self.throws = 0
        self.dice = dice
        self.directed = DirectedRenewal(self.clock, self.throw)

    def throw(self) -> float:
        self.throws += 1
        return self.dice

    def heed(self, held: AgentIdentity, *, after: timedelta, window: timedelta) -> None:
        self.directed.heed(directive(self.clock.now() + after, window, held.issuer_id), held)


async def test_it_concerns_only_certificates_of_the_issuers_named_and_those_only_once() -> None:
    case = Case()
    held, other = identity(case.root), identity(fresh_root())
    assert case.directed.left(held) == math.inf
    case.heed(held, after=HOUR, window=HOUR)
    assert case.directed.left(held) == pytest.approx(5400, abs=5)
    assert case.directed.left(other) == math.inf
    assert case.directed.left(None) == math.inf
    case.directed.begin(held)
    assert case.directed.left(held) == pytest.approx(5400, abs=5), "an ordinary renewal that comes earlier stays"
    case.clock.offset = timedelta(hours=1.6)
    assert case.directed.left(held) <= 0
    case.directed.begin(held)
    assert case.directed.left(held) == math.inf, "should it fail, it is tried again as any other"


async def test_the_same_directive_again_draws_no_new_moment_and_another_one_does() -> None:
    case = Case()
    held = identity(case.root)
    same = directive(case.clock.now(), HOUR, held.issuer_id)
    for _ in range(3):
        case.directed.heed(same, held)
    assert case.throws == 1
    case.directed.heed(directive(case.clock.now(), 2 * HOUR, held.issuer_id), held)
    assert case.throws == 2
    case.directed.heed(None, held)
    assert case.directed.left(held) == math.inf


async def test_a_certificate_that_came_after_the_moment_is_not_replaced_again() -> None:
    case = Case()
    held = identity(case.root)
    case.heed(held, after=-2 * HOUR, window=HOUR)
    assert case.directed.left(held) <= HOUR.total_seconds()
    before_it = identity(case.root)
    assert case.directed.left(before_it) < math.inf
    case.directed.heed(None, held)
    case.heed(held, after=-2 * HOUR, window=HOUR)
    case.dice = 0.0
    case.heed(held, after=-3 * HOUR, window=HOUR)
    assert case.directed.left(identity(case.root)) == math.inf
