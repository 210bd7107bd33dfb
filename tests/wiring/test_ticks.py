"""Ticks: what fails is told and comes again, nothing is planned away, and nothing closes under one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from meshca.authority.ring import AuthorityRing
from meshca.errors import unavailable
from meshca.http.metrics import Metrics
from meshca.services.health import LastTick
from meshca.wiring.ticks import Ticks
from tests.assets.founded import found_ca
from tests.fakes.clock import Stopwatch

OFTEN, RARELY = timedelta(milliseconds=20), timedelta(hours=1)
PATIENCE = timedelta(seconds=5)
LAST_TICK = "meshca_scheduler_last_tick_timestamp_seconds"


def ring() -> AuthorityRing:
    return found_ca().ring


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


class Held:
    """A step that takes until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(20)
        self.ended.set()


async def test_a_step_is_taken_again_and_again_and_a_failure_is_logged_and_no_end() -> None:
    ticks, taken = Ticks(Metrics(ring), Stopwatch()), 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken == 1:
            raise unavailable("the store is out")

    ticks.add("look", OFTEN, step)
    with capture_logs() as logs:
        ticks.start()
        await until(lambda: taken >= 3)
        ticks.stop()
        await ticks.finish(RARELY)
    assert [log for log in logs if log["event"] == "tick_failed"] == [
        {
            "event": "tick_failed",
            "log_level": "error",
            "job": "look",
            "kind": "unavailable",
            "reason": "the store is out",
        }
    ]


async def test_it_is_a_problem_where_the_last_step_that_went_well_is_long_ago() -> None:
    watch = Stopwatch()
    metrics = Metrics(ring)
    ticks = Ticks(metrics, watch)

    def fail() -> None:
        raise unavailable("the store is out")

    ticks.add("look", RARELY, fail)
    watch.seconds += 5
    assert ticks.problem("look", PATIENCE) is None
    watch.seconds += 1
    await ticks.run("look", fail)
    assert ticks.problem("look", PATIENCE) == "no tick has gone well for 6s"
    assert metrics.registry.get_sample_value(LAST_TICK, {"job": "look"}) is None
    await ticks.run("look", lambda: None)
    assert ticks.problem("look", PATIENCE) is None
    assert metrics.registry.get_sample_value(LAST_TICK, {"job": "look"}) is not None


async def test_it_is_told_when_a_step_last_went_well_and_why_it_has_failed_since() -> None:
    watch = Stopwatch()
    ticks = Ticks(Metrics(ring), watch)

    def fail() -> None:
        raise unavailable("the store is out")

    ticks.add("look", RARELY, fail)
    assert ticks.last("look") == LastTick(RARELY, timedelta(0))
    watch.seconds += 5
    await ticks.run("look", fail)
    assert ticks.last("look") == LastTick(RARELY, PATIENCE, None, "the store is out")
    await ticks.run("look", lambda: None)
    well = ticks.last("look")
    assert (well.quiet, well.failure) == (timedelta(0), "")
    assert well.well_at is not None
    watch.seconds += 5
    with pytest.raises(ZeroDivisionError):
        await ticks.run("look", lambda: 1 / 0)
    assert ticks.last("look") == LastTick(RARELY, PATIENCE, well.well_at, "it broke off: the log tells why")


async def test_what_nobody_foresaw_is_no_success_and_is_not_swallowed() -> None:
    watch = Stopwatch()
    ticks = Ticks(Metrics(ring), watch)
    ticks.add("look", RARELY, lambda: None)
    watch.seconds += 6
    with pytest.raises(ZeroDivisionError):
        await ticks.run("look", lambda: 1 / 0)
    assert ticks.problem("look", PATIENCE)


@pytest.mark.parametrize("by_scheduler", [True, False])
async def test_the_end_waits_for_a_step_under_way(by_scheduler: bool, caplog: pytest.LogCaptureFixture) -> None:
    ticks, held = Ticks(Metrics(ring), Stopwatch()), Held()
    ticks.add("look", OFTEN if by_scheduler else RARELY, held)
    ticks.start()
    asked = None if by_scheduler else asyncio.create_task(ticks.run("look", held))
    await until(held.begun.is_set)
    ticks.stop()
    if asked is not None:
        asked.cancel()
    end = asyncio.create_task(ticks.finish(RARELY))
    await asyncio.wait((end,), timeout=0.1)
    assert not end.done(), "nothing may close yet"
    held.go.set()
    async with asyncio.timeout(10):
        await end
    assert held.ended.is_set()
    assert caplog.records == [], "the scheduler has nothing to complain of"


async def test_the_end_does_not_wait_for_ever_and_names_what_it_left() -> None:
    ticks, held = Ticks(Metrics(ring), Stopwatch()), Held()
    ticks.add("look", OFTEN, held)
    ticks.start()
    await until(held.begun.is_set)
    ticks.stop()
    with capture_logs() as logs:
        await ticks.finish(timedelta(milliseconds=50))
    assert logs == [{"event": "tick_unfinished", "log_level": "error", "job": "look", "waited_seconds": 0.05}]
    held.go.set()


async def test_nothing_begins_after_the_stop() -> None:
    ticks, taken = Ticks(Metrics(ring), Stopwatch()), threading.Semaphore(0)
    ticks.add("look", OFTEN, taken.release)
    ticks.start()
    await until(lambda: taken.acquire(blocking=False))
    ticks.stop()
    await ticks.finish(RARELY)
    while taken.acquire(blocking=False):
        pass
    await asyncio.wait((asyncio.create_task(asyncio.Event().wait()),), timeout=0.1)
    assert not taken.acquire(blocking=False)


async def test_an_end_without_a_beginning_is_nothing() -> None:
    ticks = Ticks(Metrics(ring), Stopwatch())
    ticks.add("look", OFTEN, lambda: None)
    await ticks.finish(RARELY)


async def test_a_clock_that_was_set_back_does_not_put_off_what_is_due() -> None:
    """The scheduler plans by the time of day; an hour back, and it would rest for an hour."""
    ticks, taken = Ticks(Metrics(ring), Stopwatch()), threading.Event()
    ticks.add("look", RARELY, taken.set)
    ticks.start()
    ticks.hurry(datetime.now(UTC))
    ticks.hurry(datetime.now(UTC) - timedelta(minutes=59))
    await asyncio.wait((asyncio.create_task(asyncio.to_thread(taken.wait, 0.1)),))
    assert not taken.is_set(), "what is planned as it should be stays planned"
    ticks.hurry(datetime.now(UTC) - timedelta(hours=2))
    await until(taken.is_set)
    ticks.stop()
    await ticks.finish(RARELY)
