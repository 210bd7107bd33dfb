"""The server's ticks: each in a thread of its own, one at a time, watched, and waited for before anything closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from meshca.errors import MeshcaError
from meshca.http.metrics import Metrics
from meshca.services.health import LastTick

_log = structlog.get_logger("meshca.server")

Step = Callable[[], object]


class Ticks:
    """Runs steps in threads: by the scheduler, or when asked. A step that fails is logged and has its next turn.

    `monotonic` gives seconds that never go back. All methods are for the event loop's thread.
    """

    def __init__(self, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._every: dict[str, timedelta] = {}
        self._last: dict[str, _Last] = {}
        self._running: dict[asyncio.Future[None], str] = {}

    def add(self, name: str, every: timedelta, step: Step) -> None:
        """`step` is taken every `every`, from `start` on; it counts as taken well just now."""
        self._every[name] = every
        self._last[name] = _Last(self._monotonic())
        self._scheduler.add_job(
            self.run,
            "interval",
            (name, step),
            seconds=every.total_seconds(),
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            jitter=min(1.0, every.total_seconds() / 10),
        )

    def start(self) -> None:
        """Begins to tick."""
        self._scheduler.start()

    def stop(self) -> None:
        """Begins no more of them; see `finish` for those under way."""
        self._scheduler.pause()  # a shutdown would cancel who waits for those

    async def run(self, name: str, step: Step) -> None:
        """Takes `step` now; returns when it has ended, well or with a logged failure. Raises what nobody foresaw."""
        taken = asyncio.get_running_loop().run_in_executor(None, self._take, name, step)
        self._running[taken] = name
        taken.add_done_callback(self._running.pop)
        await asyncio.shield(taken)  # a thread cannot be cancelled: who asked may go, the step is still under way

    async def finish(self, patience: timedelta) -> None:
        """Ends the scheduler when no step is under way, or after `patience`; those that are left then are logged."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=patience.total_seconds())
        for name in self._running.values():
            _log.error("tick_unfinished", job=name, waited_seconds=patience.total_seconds())
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def problem(self, name: str, patience: timedelta) -> str | None:
        """What is wrong where the step of that name was last taken well longer than `patience` ago; None otherwise."""
        delay = self._monotonic() - self._last[name].well
        return None if delay <= patience.total_seconds() else f"no tick has gone well for {delay:.0f}s"

    def last(self, name: str) -> LastTick:
        """How the turns of the step of that name went."""
        last = self._last[name]
        quiet = timedelta(seconds=self._monotonic() - last.well)
        return LastTick(self._every[name], quiet, last.well_at, last.failure)

    def hurry(self, now: datetime) -> None:
        """Brings forward what is planned too late: the scheduler goes by the time of day, and after that was set back
        by an hour, it would rest for as long."""
        for job in self._scheduler.get_jobs():
            planned = job.next_run_time
            if planned is not None and planned - now > 2 * self._every[job.id]:
                _log.warning("tick_brought_forward", job=job.id, planned=planned.isoformat())
                job.modify(next_run_time=now)

    def _take(self, name: str, step: Step) -> None:
        failure = "it broke off: the log tells why"
        try:
            step()
        except MeshcaError as error:
            failure = error.message
            _log.error("tick_failed", job=name, kind=error.kind.value, reason=error.message)
        else:
            failure = ""
        finally:
            self._note(name, failure)

    def _note(self, name: str, failure: str) -> None:
        if failure:
            if name in self._last:
                self._last[name] = replace(self._last[name], failure=failure)
            return
        at = datetime.now(UTC)
        self._last[name] = _Last(self._monotonic(), at)
        self._metrics.ticked(name, at)


@dataclass(frozen=True, slots=True)
class _Last:
    """When a step last went well, by both clocks, and why it has failed since."""

    well: float
    well_at: datetime | None = None
    failure: str = ""
