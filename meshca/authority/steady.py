"""A clock that steps forward must not end what still lives: time for decisions that take trust away."""

from __future__ import annotations

from datetime import datetime, timedelta

TOLERANCE = timedelta(seconds=5)
# A process that begins cannot tell a clock that leapt while there was none from time in which nothing was recorded.
GAP = timedelta(minutes=5)


class SteadyTime:
    """The earlier of what the clock shows and what has passed since the time that was known first.

    Certificates expire by the clocks of those who verify them. Where ours leaps ahead, whatever was alive then may be
    alive still, so the leap counts only once `settling` (the longest life of a leaf) has really passed. A clock that is
    set back is followed at once: then things only last longer.

    `known` is the latest time that is known from before, if any: where the clock is ahead of that by more than five
    minutes when it is first read, all of it is a leap.
    """

    def __init__(self, settling: timedelta, known: datetime | None = None) -> None:
        self._settling = settling
        self._known = known
        self._last: tuple[datetime, float] | None = None
        self._ahead: list[tuple[float, timedelta]] = []  # leaps that do not count yet: when they count, and how far

    def now(self, wall: datetime, monotonic: float) -> datetime:
        """The time that is safe to act upon; `monotonic` is in seconds and never goes back."""
        if self._last is not None:
            leap = (wall - self._last[0]) - timedelta(seconds=monotonic - self._last[1])
            self._account(leap, monotonic)
        elif self._known is not None and wall - self._known > GAP:
            self._account(wall - self._known, monotonic)
        self._last = (wall, monotonic)
        self._ahead = [(counts_at, by) for counts_at, by in self._ahead if counts_at > monotonic]
        return wall - sum((by for _, by in self._ahead), timedelta(0))

    def _account(self, leap: timedelta, monotonic: float) -> None:
        if leap > TOLERANCE:
            self._ahead.append((monotonic + self._settling.total_seconds(), leap))
        elif leap < -TOLERANCE:
            self._take_back(-leap)

    def _take_back(self, by: timedelta) -> None:
        """A clock that is set back makes up for leaps ahead, the latest first."""
        while self._ahead and by > timedelta(0):
            counts_at, ahead = self._ahead.pop()
            if ahead > by:
                self._ahead.append((counts_at, ahead - by))
            by -= ahead
