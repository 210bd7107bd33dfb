"""Clocks that show what the test says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class OffsetClock:
    """The real time plus an offset that the test may change: enough where real sockets and certificates take part."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset


class SetClock:
    """Stands still until the test moves it, forwards or backwards."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def move(self, by: timedelta) -> datetime:
        """The time after the move."""
        self.moment += by
        return self.moment


class Stopwatch:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds
