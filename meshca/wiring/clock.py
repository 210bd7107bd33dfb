"""The real clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The operating system's time."""

    def now(self) -> datetime:
        """Now, aware, in UTC."""
        return datetime.now(UTC)


def uptime() -> float:
    """Seconds since the machine started. Nobody can set them, and the time that it was suspended counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
