"""The health of the server, for threads: the event loop tells it, or is not waited for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from meshca.errors import ErrorKind, MeshcaError
from meshca.http.metrics import Metrics
from meshca.services.health import Check, Health, LastTick, Problem
from meshca.wiring.health import health_for_threads
from meshca.wiring.ticks import Ticks
from tests.assets.founded import found_ca
from tests.fakes.clock import Stopwatch

EVERY = timedelta(hours=1)


def rotating() -> Ticks:
    ticks = Ticks(Metrics(lambda: found_ca().ring), Stopwatch())
    ticks.add("rotation", EVERY, lambda: None)
    return ticks


async def test_checks_are_made_on_the_event_loop_at_each_call() -> None:
    checks: dict[str, Check] = {"loop": lambda: f"asked on {id(asyncio.get_running_loop())}"}
    health = health_for_threads(checks, rotating())
    on_this = Problem("loop", f"asked on {id(asyncio.get_running_loop())}")
    assert await asyncio.to_thread(health) == Health((on_this,), LastTick(EVERY, timedelta(0)))
    checks["later"] = lambda: "came later"
    assert (await asyncio.to_thread(health)).problems == (on_this, Problem("later", "came later"))


async def test_an_event_loop_that_does_not_answer_is_not_waited_for() -> None:
    health = health_for_threads({}, rotating(), 0.01)
    with pytest.raises(MeshcaError, match=r"did not tell its health within 0\.01s") as refused:
        health()  # which keeps the loop from answering
    assert refused.value.kind is ErrorKind.UNAVAILABLE
