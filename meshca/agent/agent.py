"""The node agent's run: go on from saved state, obtain an identity, renew it; and an outage stays outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import structlog

from meshca.agent.alarm import Alarm, alarm
from meshca.agent.authority import CertificateAuthority
from meshca.agent.directive import DirectedRenewal
from meshca.agent.holding import Holding
from meshca.agent.identity import AgentIdentity
from meshca.agent.renewal import renewal_time, retry_delay
from meshca.agent.sds import SdsServer
from meshca.agent.upstream import Upstream
from meshca.errors import MeshcaError, internal
from meshca.ports import Clock

# Long waits are cut up: to notice a clock that was set or a host that slept, and to mend what came apart meanwhile.
_LONGEST_NAP = timedelta(seconds=2)

_log = structlog.get_logger("meshca.agent")


class Agent:
    """One agent, one identity. `dice` gives a random number from 0 up to 1."""

    def __init__(
        self,
        *,
        authority: CertificateAuthority,
        holding: Holding,
        sds: SdsServer,
        upstream: Upstream,
        directed: DirectedRenewal,
        clock: Clock,
        dice: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._holding = holding
        self._sds = sds
        self._upstream = upstream
        self._directed = directed
        self._clock = clock
        self._dice = dice

    @property
    def identity(self) -> AgentIdentity | None:
        """What the agent holds now."""
        return self._holding.identity

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Raises MeshcaError where the agent cannot start, INTERNAL where a part ends."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            parts = (
                asyncio.create_task(self._keep_identity(), name="renewal"),
                asyncio.create_task(self._upstream.run(), name="upstream"),
            )
            stopping = asyncio.create_task(stop.wait(), name="stop")
            stack.push_async_callback(_end, *parts, stopping)
            await asyncio.wait((*parts, stopping), return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
                    raise internal(f"the {part.get_name()} task ended by itself")
            _log.info("stopping")
        _log.info("stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        await self._holding.prepare_files()
        stack.push_async_callback(self._sds.stop)
        await self._sds.start()
        self._holding.clear_ready_file()  # only now: until here it could be that of another, live agent
        stack.push_async_callback(self._holding.remove_ready_file)

    async def _keep_identity(self) -> None:
        saved = await self._holding.restore()
        due = self._alarm_for(saved) if saved is not None else alarm(self._clock.now(), self._clock)
        failures = 0
        while True:
            await self._sleep_until(due)
            self._directed.begin(self.identity)
            try:
                identity = await self._authority.obtain(self.identity)
                due = self._alarm_for(identity)
                await self._holding.adopt(identity)
            except MeshcaError as error:
                failures += 1
                due = await self._failed(error, failures)
                continue
            failures = 0

    def _alarm_for(self, identity: AgentIdentity) -> Alarm:
        return alarm(renewal_time(identity.life, self._dice()), self._clock)

    async def _failed(self, error: MeshcaError, failures: int) -> Alarm:
        """Logs the failure; gives when to try again."""
        now, held = self._clock.now(), self.identity
        life = None if held is None else held.life
        pushback = None if error.retry_after is None else timedelta(seconds=error.retry_after)
        wait = retry_delay(failures, life, now, self._dice(), pushback=pushback)
        due = alarm(now + wait, self._clock)
        event = "issuance_failed" if life is None else "renewal_failed"
        _log.warning(
            event, code=error.kind.value, reason=error.message, next_try_seconds=round(wait.total_seconds(), 3)
        )
        if life is not None and life.has_ended(now):
            await self._holding.expire()
        return due

    async def _sleep_until(self, due: Alarm) -> None:
        """Until then, or until a renewal is directed for an earlier moment."""
        while (left := min(due.left(self._clock), self._directed.left(self.identity))) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LONGEST_NAP.total_seconds())):
                    await self._directed.changed.wait()
            self._directed.changed.clear()
            await self._holding.mend()


async def _end(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
