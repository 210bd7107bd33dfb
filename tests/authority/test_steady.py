"""The time that is safe to act upon, while the clock errs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.steady import GAP, TOLERANCE, SteadyTime
from tests.assets.authorities import FOUNDED

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
SETTLING = 3600


class Mesh:
    """True time, a clock that may err, and what is made of it; all in seconds."""

    def __init__(self) -> None:
        self.true = 0.0
        self.error = 0.0
        self.time = SteadyTime(timedelta(seconds=SETTLING))
        self.read()

    @property
    def wall(self) -> datetime:
        return FOUNDED + timedelta(seconds=self.true + self.error)

    def read(self) -> float:
        return (self.time.now(self.wall, 500.0 + self.true) - FOUNDED).total_seconds()

    def wait(self, seconds: float) -> float:
        self.true += seconds
        return self.read()

    def leap(self, seconds: float) -> float:
        self.error += seconds
        return self.read()


def test_the_first_reading_is_what_the_clock_shows() -> None:
    assert SteadyTime(HOUR).now(FOUNDED, 12345.0) == FOUNDED


def test_a_clock_that_is_ahead_of_what_is_known_is_believed_when_the_longest_life_of_a_leaf_has_passed() -> None:
    time = SteadyTime(HOUR, FOUNDED)
    assert time.now(FOUNDED + 7200 * SECOND, 100.0) == FOUNDED
    assert time.now(FOUNDED + 10799 * SECOND, 3699.0) == FOUNDED + 3599 * SECOND
    assert time.now(FOUNDED + 10800 * SECOND, 3700.0) == FOUNDED + 10800 * SECOND


@pytest.mark.parametrize("ahead", [-86400, 0, 300])
def test_a_clock_that_is_little_ahead_of_what_is_known_is_believed(ahead: int) -> None:
    assert timedelta(seconds=300) == GAP
    shown = FOUNDED + ahead * SECOND
    assert SteadyTime(HOUR, FOUNDED).now(shown, 1.0) == shown


def test_a_clock_that_was_ahead_of_what_is_known_and_is_set_right_is_believed() -> None:
    time = SteadyTime(HOUR, FOUNDED)
    time.now(FOUNDED + 7200 * SECOND, 0.0)
    assert time.now(FOUNDED + 10 * SECOND, 10.0) == FOUNDED + 10 * SECOND
    assert time.now(FOUNDED + 7200 * SECOND, 7200.0) == FOUNDED + 7200 * SECOND


def test_a_clock_that_does_not_err_is_followed() -> None:
    mesh = Mesh()
    assert [mesh.wait(seconds) for seconds in (1, 0, 86400, 0.5)] == [1, 1, 86401, 86401.5]


def test_a_leap_ahead_counts_only_when_the_longest_life_of_a_leaf_has_passed() -> None:
    mesh = Mesh()
    mesh.wait(100)
    assert mesh.leap(7200) == 100
    assert mesh.wait(SETTLING - 1) == 100 + SETTLING - 1
    assert mesh.wait(1) == 100 + SETTLING + 7200
    assert mesh.wait(1) == 101 + SETTLING + 7200


def test_a_leap_that_is_seen_late_counts_from_when_it_is_seen() -> None:
    mesh = Mesh()
    mesh.error = 7200
    assert mesh.wait(10 * SETTLING) == 10 * SETTLING
    assert mesh.wait(SETTLING - 1) == 11 * SETTLING - 1
    assert mesh.wait(1) == 11 * SETTLING + 7200


def test_a_leap_that_is_set_right_in_time_never_counts() -> None:
    mesh = Mesh()
    mesh.leap(7200)
    assert mesh.wait(SETTLING - 1) == SETTLING - 1
    assert mesh.leap(-7200) == SETTLING - 1
    assert mesh.wait(5 * SETTLING) == 6 * SETTLING - 1


def test_a_leap_that_is_set_right_in_part_counts_for_the_rest() -> None:
    mesh = Mesh()
    mesh.leap(7200)
    assert mesh.leap(-3000) == 0
    assert mesh.wait(SETTLING - 1) == SETTLING - 1
    assert mesh.wait(1) == SETTLING + 4200


def test_a_clock_that_is_set_back_is_followed_at_once() -> None:
    mesh = Mesh()
    mesh.wait(100)
    assert mesh.leap(-7200) == 100 - 7200
    assert mesh.wait(1) == 101 - 7200


def test_a_clock_that_is_set_back_further_than_it_leapt_is_followed_for_the_rest() -> None:
    mesh = Mesh()
    mesh.leap(3600)
    assert mesh.leap(-5000) == -1400
    assert mesh.wait(2 * SETTLING) == 2 * SETTLING - 1400


def test_a_clock_that_is_set_right_after_it_was_set_back_is_believed_late() -> None:
    mesh = Mesh()
    mesh.leap(-7200)
    assert mesh.leap(7200) == -7200
    assert mesh.wait(SETTLING) == SETTLING


def test_several_leaps_count_each_in_its_time() -> None:
    mesh = Mesh()
    mesh.leap(1000)
    assert mesh.wait(600) == 600
    assert mesh.leap(2000) == 600
    assert mesh.wait(3000) == 3600 + 1000
    assert mesh.wait(599) == 4199 + 1000
    assert mesh.wait(1) == 4200 + 3000


def test_a_clock_that_is_set_back_takes_back_the_latest_leap_first() -> None:
    mesh = Mesh()
    mesh.leap(1000)
    mesh.wait(600)
    mesh.leap(2000)
    assert mesh.leap(-2500) == 600
    assert mesh.wait(2999) == 3599
    assert mesh.wait(1) == 3600 + 500
    assert mesh.wait(SETTLING) == 7200 + 500


@pytest.mark.parametrize(("by", "shown"), [(5.0, 5.0), (5.1, 0.0), (-5.0, -5.0), (-5.1, -5.1)])
def test_what_is_within_the_tolerance_is_no_leap(by: float, shown: float) -> None:
    assert timedelta(seconds=5) == TOLERANCE
    assert Mesh().leap(by) == pytest.approx(shown)


def test_a_leap_within_the_tolerance_takes_back_none_of_those_before() -> None:
    mesh = Mesh()
    mesh.leap(7200)
    assert mesh.leap(-5) == -5
    assert mesh.wait(SETTLING) == SETTLING + 7195


LEAPS = st.integers(6, 100_000) | st.integers(-100_000, -6)
EVENTS = st.lists(st.tuples(st.integers(0, 5000), st.just(0) | LEAPS), max_size=30)


@given(EVENTS)
def test_it_is_never_ahead_of_the_clock(events: list[tuple[int, int]]) -> None:
    mesh = Mesh()
    for seconds, leap in events:
        assert mesh.wait(seconds) <= mesh.true + mesh.error
        assert mesh.leap(leap) <= mesh.true + mesh.error


@given(st.lists(st.tuples(st.integers(0, 119), LEAPS), max_size=30))
def test_it_is_never_ahead_of_what_has_passed_before_a_leap_has_settled(events: list[tuple[int, int]]) -> None:
    mesh = Mesh()
    for seconds, leap in events:
        assert mesh.wait(seconds) <= mesh.true
        assert mesh.leap(leap) <= mesh.true


@given(EVENTS)
def test_in_the_end_it_is_what_the_clock_shows(events: list[tuple[int, int]]) -> None:
    mesh = Mesh()
    for seconds, leap in events:
        mesh.wait(seconds)
        mesh.leap(leap)
    assert mesh.wait(SETTLING) == mesh.true + mesh.error
