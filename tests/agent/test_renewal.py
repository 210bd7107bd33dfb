"""When to renew and when to try again, for lifetimes of five seconds to ninety days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meshca.agent.renewal import (
    FIRST_RETRY,
    FLOOR,
    MAX_PUSHBACK,
    MAX_RETRY,
    Lifetime,
    renewal_time,
    retry_delay,
)

RECEIVED = datetime(2026, 1, 1, tzinfo=UTC)
lifetimes = st.timedeltas(timedelta(seconds=5), timedelta(days=90)).map(lambda d: Lifetime(RECEIVED, RECEIVED + d))
dice = st.floats(0, 1, exclude_max=True)


@given(lifetimes, dice)
def test_renewal_falls_within_ten_percent_of_half_the_life_from_receipt(life: Lifetime, die: float) -> None:
    waited = renewal_time(life, die) - life.received_at
    slack = timedelta(microseconds=2)
    assert life.length * 0.45 - slack <= waited <= life.length * 0.55 + slack


@given(lifetimes)
def test_renewals_are_spread_over_the_whole_jitter(life: Lifetime) -> None:
    spread = renewal_time(life, 0.999999) - renewal_time(life, 0.0)
    assert spread >= life.length * 0.0999


@given(st.timedeltas(-timedelta(days=1), timedelta(seconds=1)), dice)
def test_a_life_that_is_all_but_over_does_not_make_a_busy_loop(left: timedelta, die: float) -> None:
    assert renewal_time(Lifetime(RECEIVED, RECEIVED + left), die) >= RECEIVED + FLOOR


@given(st.integers(1, 10_000), lifetimes, st.floats(0, 1.5), dice)
def test_a_retry_always_comes_before_the_certificate_expires(
    failures: int, life: Lifetime, elapsed: float, die: float
) -> None:
    now = life.received_at + life.length * elapsed
    wait = retry_delay(failures, life, now, die)
    assert timedelta(0) < wait <= MAX_RETRY
    if now < life.not_after:
        assert wait <= max(life.not_after - now, FLOOR)


@given(st.integers(1, 10_000), st.none() | lifetimes, dice)
def test_retries_grow_up_to_a_cap_that_follows_the_lifetime(failures: int, life: Lifetime | None, die: float) -> None:
    now = RECEIVED if life is None else life.not_after + timedelta(seconds=1)
    wait = retry_delay(failures, life, now, die)
    assert wait >= FIRST_RETRY / 2
    assert wait <= retry_delay(failures + 1, life, now, die)
    longest = timedelta(seconds=15) if life is None else max(timedelta(seconds=1), life.length / 10)
    assert wait <= longest


def test_the_first_retry_comes_quickly_and_later_ones_at_the_cap() -> None:
    hour = Lifetime(RECEIVED, RECEIVED + timedelta(hours=1))
    middle = RECEIVED + timedelta(minutes=30)
    assert retry_delay(1, hour, middle, 0.0) == FIRST_RETRY / 2
    assert retry_delay(50, hour, middle, 0.0) == MAX_RETRY / 2


@given(st.integers(1, 100), st.none() | lifetimes, dice, st.timedeltas(timedelta(0), timedelta(days=365)))
def test_the_servers_pushback_is_the_least_wait_but_cannot_silence_an_agent(
    failures: int, life: Lifetime | None, die: float, pushback: timedelta
) -> None:
    wait = retry_delay(failures, life, RECEIVED, die, pushback=pushback)
    assert wait >= min(pushback, MAX_PUSHBACK)
    assert wait <= max(MAX_PUSHBACK * 1.1, MAX_RETRY)
