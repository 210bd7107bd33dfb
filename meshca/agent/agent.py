"""The node agent's run: go on from saved state, obtain an identity, serve it, renew it; and an outage stays outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from meshca.agent.authority import CertificateAuthority
from meshca.agent.files import CertificateFiles
from meshca.agent.hub import SecretHub
from meshca.agent.identity import AgentIdentity
from meshca.agent.ready import ReadyFile
from meshca.agent.renewal import renewal_time, retry_delay
from meshca.agent.sds import SdsServer
from meshca.agent.state import AgentState
from meshca.errors import MeshcaError, internal
from meshca.ports import Clock

# Long waits are cut up: to notice a clock that was set or a host that slept, and to mend what came apart meanwhile.
_LONGEST_NAP = timedelta(seconds=2)

_log = structlog.get_logger("meshca.agent")


@dataclass(frozen=True, slots=True)
class AgentOutputs:
    """Where an identity goes beside the socket; None: not wanted."""

    files: CertificateFiles | None = None
    ready: ReadyFile | None = None


@dataclass(frozen=True, slots=True)
class _Alarm:
    """A time to come: when the clock shows `at`, or at the loop's time `end`, when as much has passed as was left.

    So a clock that is set back, as on a host that started with a wrong one, silences nobody; and one that is set
    forward, or went on while the host slept, is heeded.
    """

    at: datetime
    end: float

    def left(self, now: datetime, loop_time: float) -> float:
        """Seconds until then; not positive once it has come."""
        return min((self.at - now).total_seconds(), self.end - loop_time)


class Agent:
    """One agent, one identity. `dice` gives a random number from 0 up to 1."""

    def __init__(
        self,
        *,
        authority: CertificateAuthority,
        hub: SecretHub,
        sds: SdsServer,
        state: AgentState,
        outputs: AgentOutputs,
        clock: Clock,
        dice: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._hub = hub
        self._sds = sds
        self._state = state
        self._outputs = outputs
        self._clock = clock
        self._dice = dice
        self._identity: AgentIdentity | None = None
        self._owed: dict[str, Callable[[], None]] = {}  # what failed and is to be tried again, by the event logged

    @property
    def identity(self) -> AgentIdentity | None:
        """What the agent holds now."""
        return self._identity

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Raises MeshcaError where the agent cannot start, INTERNAL where a part ends."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            renewing = asyncio.create_task(self._keep_identity(), name="renewal")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            stack.push_async_callback(_end, renewing, stopping)
            await asyncio.wait((renewing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if renewing.done():
                renewing.result()
                raise internal("the renewal task ended by itself")
            _log.info("stopping")
        _log.info("stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        if self._outputs.files is not None:
            await asyncio.to_thread(self._outputs.files.prepare)
        stack.push_async_callback(self._sds.stop)
        await self._sds.start()
        if self._outputs.ready is not None:  # only now: until here it could be that of another, live agent
            self._outputs.ready.remove()
            stack.push_async_callback(self._try, "ready_file_not_removed", self._outputs.ready.remove)

    async def _keep_identity(self) -> None:
        saved = await asyncio.to_thread(self._state.load, self._clock.now())
        due = self._alarm(self._clock.now()) if saved is None else await self._go_on_with(saved)
        failures = 0
        while True:
            await self._sleep_until(due)
            try:
                identity = await self._authority.obtain(self._identity)
            except MeshcaError as error:
                failures += 1
                due = await self._failed(error, failures)
                continue
            failures = 0
            due = await self._adopt(identity)

    async def _go_on_with(self, saved: AgentIdentity) -> _Alarm:
        _log.info("identity_restored", **_facts(saved))
        due = self._alarm(renewal_time(saved.life, self._dice()))
        await self._serve(saved)
        return due

    async def _adopt(self, identity: AgentIdentity) -> _Alarm:
        """Makes it the agent's identity; gives when to renew it. It is saved first: the token may be spent by now."""
        _log.info("identity_obtained", **_facts(identity))
        due = self._alarm(renewal_time(identity.life, self._dice()))
        await self._save(identity)
        await self._serve(identity)
        return due

    async def _serve(self, identity: AgentIdentity) -> None:
        self._identity = identity
        await self._hub.publish(identity.publication)
        await self._sds.set_serving(True)
        await self._write(identity)

    async def _save(self, identity: AgentIdentity) -> None:
        await self._try("state_not_saved", partial(self._state.save, identity))

    async def _write(self, identity: AgentIdentity) -> None:
        if self._outputs.files is not None:
            await self._try("files_not_written", partial(write_files, self._outputs.files, identity))
        if self._outputs.ready is not None:
            await self._try("ready_file_not_written", partial(self._outputs.ready.write, identity.spiffe_id))

    async def _failed(self, error: MeshcaError, failures: int) -> _Alarm:
        """Logs the failure; gives when to try again."""
        now = self._clock.now()
        life = None if self._identity is None else self._identity.life
        pushback = None if error.retry_after is None else timedelta(seconds=error.retry_after)
        wait = retry_delay(failures, life, now, self._dice(), pushback=pushback)
        due = self._alarm(now + wait)
        event = "issuance_failed" if life is None else "renewal_failed"
        _log.warning(
            event, code=error.kind.value, reason=error.message, next_try_seconds=round(wait.total_seconds(), 3)
        )
        if self._identity is not None and self._identity.life.has_ended(now):
            # Envoys keep what they have; whoever connects now gets the trust bundle alone.
            _log.error("identity_expired", **_facts(self._identity))
            await self._sds.set_serving(False)
        return due

    def _alarm(self, at: datetime) -> _Alarm:
        left = (at - self._clock.now()).total_seconds()
        return _Alarm(at, asyncio.get_running_loop().time() + left)

    async def _sleep_until(self, due: _Alarm) -> None:
        loop_time = asyncio.get_running_loop().time
        while (left := due.left(self._clock.now(), loop_time())) > 0:
            await asyncio.sleep(min(left, _LONGEST_NAP.total_seconds()))
            await self._mend()

    async def _mend(self) -> None:
        """Listens anew where the socket is gone, and tries again what could not be written."""
        if await self._listened_anew() and self._identity is not None:
            # whoever removed the socket may have removed more
            await self._save(self._identity)
            await self._write(self._identity)
            return
        for event, step in tuple(self._owed.items()):
            await self._try(event, step)

    async def _listened_anew(self) -> bool:
        try:
            return await self._sds.keep_listening()
        except MeshcaError as error:
            _log.error("socket_lost", reason=error.message)
            return False

    async def _try(self, event: str, step: Callable[[], None]) -> None:
        """Does a step that may fail without harm to what is served; it is then tried again later."""
        self._owed.pop(event, None)
        try:
            await asyncio.to_thread(step)
        except MeshcaError as error:
            self._owed[event] = step
            _log.error(event, reason=error.message)


def write_files(files: CertificateFiles, identity: AgentIdentity) -> None:
    """Writes an identity's set. Raises as `CertificateFiles.write` does."""
    files.write(
        private_key_pem=identity.svid.private_key_pem,
        chain_pem=identity.svid.chain_pem.encode("ascii"),
        roots_pem=identity.bundle.pem.encode("ascii"),
    )


def _facts(identity: AgentIdentity) -> dict[str, str | int]:
    return {
        "spiffe_id": str(identity.spiffe_id),
        "serial": identity.serial,
        "expires": f"{identity.life.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "bundle_sequence": identity.bundle.sequence,
    }


async def _end(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
