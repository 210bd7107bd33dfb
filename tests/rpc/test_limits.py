"""Fair admission: who floods drains only what is his own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.rpc.limits import STREAM_BURST, STREAM_RATE, Pace, PeerLimiter
from meshca.xds.stream import MAX_NAMES
from tests.fakes.clock import Stopwatch


def limiter(rate: float = 10.0, burst: int = 5) -> tuple[PeerLimiter, Stopwatch]:
    watch = Stopwatch()
    return PeerLimiter(rate, burst, watch), watch


def retry_after(call: Callable[[], None]) -> float:
    """Seconds that a refusal asks for; 0 where the call is admitted."""
    try:
        call()
    except MeshcaError as error:
        return refusal(error)
    return 0.0


def refusal(error: MeshcaError) -> float:
    assert (error.kind, error.message) == (ErrorKind.EXHAUSTED, "too many requests from this peer: slow down")
    assert error.retry_after is not None
    assert error.retry_after > 0
    return error.retry_after


def admitted(limits: PeerLimiter, peer: str, calls: int) -> int:
    return sum(retry_after(lambda: limits.admit(peer)) == 0 for _ in range(calls))


def paced(pace: Pace, requests: int) -> int:
    """How many of them are admitted."""
    for count in range(requests):
        try:
            pace.admit()
        except MeshcaError:
            return count
    return requests


def test_a_stream_has_a_pace_of_its_own() -> None:
    watch = Stopwatch()
    pace, other = Pace(watch, rate=2.0, burst=5), Pace(watch, rate=2.0, burst=5)
    assert paced(pace, 20) == 5
    assert paced(other, 5) == 5
    with pytest.raises(MeshcaError, match="too many requests on this stream") as refused:
        pace.admit()
    assert (refused.value.kind, refused.value.retry_after) == (ErrorKind.EXHAUSTED, 2.5)
    watch.seconds += 1.5
    assert paced(pace, 20) == 3
    watch.seconds += 1000
    assert paced(pace, 20) == 5


def test_an_envoy_may_ask_for_each_of_its_names_and_acknowledge_it_by_itself() -> None:
    assert STREAM_BURST >= 2 * MAX_NAMES
    assert STREAM_RATE > 0


def test_a_burst_is_admitted_and_no_more() -> None:
    limits, _ = limiter()
    assert admitted(limits, "a", 100) == 5


def test_a_flood_takes_nothing_from_others() -> None:
    limits, watch = limiter()
    for _ in range(100):
        watch.seconds += 0.01
        admitted(limits, "flood", 50)
    assert admitted(limits, "other", 5) == 5


def test_over_time_a_peer_gets_its_rate() -> None:
    limits, watch = limiter(rate=10.0, burst=5)
    admitted(limits, "a", 5)
    total = 0
    for _ in range(1000):
        watch.seconds += 0.01
        total += admitted(limits, "a", 3)
    assert total in (99, 100)


def test_after_the_time_it_was_told_a_peer_is_admitted_and_not_before() -> None:
    limits, watch = limiter(rate=4.0, burst=2)
    admitted(limits, "a", 2)
    assert retry_after(lambda: limits.admit("a")) == 0.25
    watch.seconds += 0.125
    assert retry_after(lambda: limits.admit("a")) == 0.125
    watch.seconds += 0.125
    assert retry_after(lambda: limits.admit("a")) == 0


def test_being_refused_costs_nothing() -> None:
    limits, watch = limiter(rate=1.0, burst=1)
    admitted(limits, "a", 1000)
    watch.seconds += 1
    assert admitted(limits, "a", 10) == 1


def test_a_batch_costs_what_it_holds() -> None:
    limits, _ = limiter(rate=10.0, burst=5)
    limits.admit("a", 4)
    assert retry_after(lambda: limits.admit("a", 3)) == pytest.approx(0.2)
    limits.admit("a", 1)


def test_a_batch_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    limits, watch = limiter(rate=10.0, burst=5)
    limits.admit("a", 25)
    assert retry_after(lambda: limits.admit("a")) == pytest.approx(2.1)
    watch.seconds += 2.1
    limits.admit("a")
    assert retry_after(lambda: limits.admit("a", 25)) == pytest.approx(0.5)


def test_a_pause_fills_no_more_than_the_burst() -> None:
    limits, watch = limiter()
    admitted(limits, "a", 5)
    watch.seconds += 1_000_000
    assert admitted(limits, "a", 100) == 5


def test_the_table_is_bounded_and_forgets_who_was_away_longest() -> None:
    limits, _ = limiter(rate=0.001, burst=1)
    for peer in ("first", "second"):
        limits.admit(peer)
    for index in range(9_998):
        limits.admit(f"stranger {index}")
    assert retry_after(lambda: limits.admit("first")) > 0, "10,000 peers are remembered"
    limits.admit("one more")
    assert retry_after(lambda: limits.admit("first")) > 0, "it was seen just now"
    limits.admit("second")  # forgotten, hence with a full bucket
    assert len(limits._buckets) == 10_000


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.floats(0, 3)), max_size=60),
    st.floats(0.5, 20),
    st.integers(1, 10),
)
def test_no_peer_gets_more_than_its_burst_and_its_rate(
    calls: list[tuple[str, int, float]], rate: float, burst: int
) -> None:
    limits, watch = limiter(rate, burst)
    start, taken = watch.seconds, dict.fromkeys("abc", 0)
    for peer, cost, pause in calls:
        watch.seconds += pause
        wait = retry_after(lambda peer=peer, cost=cost: limits.admit(peer, cost))  # type: ignore[misc]
        if wait == 0:
            debt = max(0, cost - burst)
            taken[peer] += cost
            assert taken[peer] - debt <= burst + rate * (watch.seconds - start) + 1e-6
        else:
            watch.seconds += wait * 1.000001
            limits.admit(peer, cost)
            taken[peer] += cost
