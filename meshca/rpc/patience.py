"""Slow peers: whoever keeps a thread of the door waiting is let go, by the clock and, in a crowd, by turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

_log = structlog.get_logger("meshca.door")

_SWEEP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class PatienceLimits:
    """`seconds`: how long a call may keep a thread waiting for its peer. Beyond `crowd` such calls at once the oldest
    are let go as soon as they have waited for `grace`. Another thread takes the place of one that waits for `moment`;
    not sooner, since on a busy machine every call waits a little, and more threads would only make it busier.
    """

    seconds: float = 5.0
    crowd: int = 64
    grace: float = 0.3
    moment: float = 0.2


class Wait:
    """One call that waits for its peer; `over` ends it well."""

    __slots__ = ("cancel", "is_over", "since")

    def __init__(self, cancel: Callable[[], object], since: float) -> None:
        self.cancel = cancel
        self.since = since
        self.is_over = False

    def over(self) -> None:
        """The peer has done its part."""
        self.is_over = True


class Patience:
    """Watches the calls that wait, from a thread of its own, and cancels those whose time is up.

    gRPC hands a call over as soon as its headers are there, and then waits in a thread for its message. A few dozen
    calls that never send theirs would otherwise hold every thread of the door. `stretch` is told how many threads wait,
    so that others can take their place.
    """

    def __init__(self, limits: PatienceLimits, stretch: Callable[[int], object]) -> None:
        self._limits = limits
        self._stretch = stretch
        self._arrived: deque[Wait] = deque()
        self._waiting: list[Wait] = []  # the oldest first; only the watcher's
        self._some = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="door-patience", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Lets everybody go who still waits, and ends."""
        self._stopped.set()
        self._some.set()

    def begin(self, cancel: Callable[[], object]) -> Wait:
        """A call waits from now on; `cancel` lets it go. From any thread."""
        wait = Wait(cancel, time.monotonic())
        self._arrived.append(wait)
        if not self._some.is_set():
            self._some.set()
        return wait

    def _watch(self) -> None:
        while self._some.wait() and not self._stopped.wait(_SWEEP_SECONDS):
            self._sweep(time.monotonic())
            if not self._waiting:
                self._rest()
        for wait in self._look():
            _let_go(wait)

    def _rest(self) -> None:
        """Sleeps until somebody waits; who came meanwhile is not forgotten."""
        self._some.clear()
        if self._arrived:
            self._some.set()

    def _sweep(self, now: float) -> None:
        """Lets go whose time is up."""
        waiting = self._look()
        crowded = len(waiting) - self._limits.crowd
        for turn, wait in enumerate(waiting):
            if now - wait.since >= (self._limits.grace if turn < crowded else self._limits.seconds):
                _let_go(wait)
        self._waiting = [wait for wait in waiting if not wait.is_over]
        self._stretch(sum(now - wait.since >= self._limits.moment for wait in self._waiting))

    def _look(self) -> list[Wait]:
        """Who waits now, the oldest first."""
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        return [wait for wait in self._waiting if not wait.is_over]


def _let_go(wait: Wait) -> None:
    wait.over()
    wait.cancel()
    _log.debug("slow_call_cancelled")
