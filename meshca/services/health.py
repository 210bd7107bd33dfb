"""How the server itself is: whether it is ready, and whether its rotation ticks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.authority.progress import Alarm, Severity

# None where all is well, otherwise what is wrong, in words that may be shown. Called on the event loop: never blocks.
Check = Callable[[], str | None]

# So many ticks may pass without one that goes well before that is an alarm.
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps the server from being ready, and which check found it."""

    check: str
    what: str


@dataclass(frozen=True, slots=True)
class LastTick:
    """How the turns of a step went that has one every `every`.

    `well_at` is when one last ended well, None where none has since the server began; `quiet` is for how long none has.
    `failure` is why the last one failed, "" where it went well.
    """

    every: timedelta
    quiet: timedelta
    well_at: datetime | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """How the server is at one moment: what keeps it from being ready, and how rotation ticks."""

    problems: tuple[Problem, ...]
    rotation: LastTick

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What somebody should know of it."""
        unready = (Alarm(Severity.CRITICAL, p.check, f"the server is not ready: {p.what}") for p in self.problems)
        return (*unready, *_tick_alarms(self.rotation))


def problems_of(checks: Mapping[str, Check]) -> tuple[Problem, ...]:
    """Those of the checks that fail; the server is ready while there are none."""
    found = ((name, check()) for name, check in checks.items())
    return tuple(Problem(name, what) for name, what in found if what is not None)


def _tick_alarms(tick: LastTick) -> tuple[Alarm, ...]:
    if tick.failure:
        what = f"the last rotation tick failed: {tick.failure}"
    elif tick.quiet > _TICKS * tick.every:
        what = f"no rotation tick has ended well for {tick.quiet.total_seconds():.0f}s: the log tells why"
    else:
        return ()
    return (Alarm(Severity.WARNING, "tick", what),)
