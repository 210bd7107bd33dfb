"""A time to come that neither a clock which is set nor a host which sleeps can put off."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from meshca.ports import Clock


@dataclass(frozen=True, slots=True)
class Alarm:
    """A time to come: when the clock shows `at`, or at the loop's time `end`, when as much has passed as was left.

    So a clock that is set back, as on a host that started with a wrong one, silences nobody; and one that is set
    forward, or went on while the host slept, is heeded.
    """

    at: datetime
    end: float

    def left(self, clock: Clock) -> float:
        """Seconds until then; not positive once it has come."""
        return min((self.at - clock.now()).total_seconds(), self.end - asyncio.get_running_loop().time())


def alarm(at: datetime, clock: Clock) -> Alarm:
    """The alarm for a time by that clock."""
    return Alarm(at, asyncio.get_running_loop().time() + (at - clock.now()).total_seconds())
