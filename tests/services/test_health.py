"""The server's health, and what of it somebody should know."""

from __future__ import annotations

from datetime import timedelta

from meshca.authority.progress import Severity
from meshca.services.health import Health, LastTick, Problem, problems_of
from tests.assets.authorities import FOUNDED

SECOND = timedelta(seconds=1)
EVERY = 30 * SECOND


def told(health: Health) -> list[tuple[Severity, str, str]]:
    return [(alarm.severity, alarm.subject, alarm.message) for alarm in health.alarms]


def test_a_server_that_is_ready_and_ticks_alarms_nobody() -> None:
    assert told(Health((), LastTick(EVERY, 5 * EVERY, FOUNDED))) == []
    assert told(Health((), LastTick(EVERY, 5 * EVERY))) == [], "it has just begun"


def test_each_reason_why_it_is_not_ready_is_critical() -> None:
    checks = {"ledger": lambda: "it is full", "loop": lambda: None, "signing": lambda: "nothing is known"}
    problems = problems_of(checks)
    assert problems == (Problem("ledger", "it is full"), Problem("signing", "nothing is known"))
    assert told(Health(problems, LastTick(EVERY, SECOND, FOUNDED))) == [
        (Severity.CRITICAL, "ledger", "the server is not ready: it is full"),
        (Severity.CRITICAL, "signing", "the server is not ready: nothing is known"),
    ]


def test_a_tick_that_failed_is_a_warning_and_so_is_none_for_more_than_five() -> None:
    assert told(Health((), LastTick(EVERY, SECOND, FOUNDED, "the store is out"))) == [
        (Severity.WARNING, "tick", "the last rotation tick failed: the store is out")
    ]
    assert told(Health((), LastTick(EVERY, 5 * EVERY + SECOND, FOUNDED))) == [
        (Severity.WARNING, "tick", "no rotation tick has ended well for 151s: the log tells why")
    ]
