"""The demonstration itself: what happens in which order, what is shown, and what must be true at the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from meshca.demo.intruders import ask, foreign_credentials, is_admitted
from meshca.demo.mesh import CLIENT, SERVICE, Mesh, Sidecar
from meshca.demo.processes import run_meshca
from meshca.errors import MeshcaError

RENEWALS = 5
_SLACK_SECONDS = 15.0
_NEWS_SECONDS = 15.0
_REAPED_SECONDS = 0.2
_HTTP_OK = 200
_REMEMBERED = 9_000  # one list of the ledger has 10,000

Say = Callable[[str], None]
_T = TypeVar("_T")


class Interrupted(Exception):
    """Somebody ended the demonstration by a signal before its figures were complete."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of the final table."""

    serials: dict[str, tuple[str, ...]]  # by identity, oldest first
    renewals_wanted: int
    handshakes: int
    sent: int
    failed: int
    failures: dict[str, int]
    member_admitted: bool
    anonymous_refused: bool
    foreigner_refused: bool
    recorded: frozenset[str]  # serials in the ledger
    seconds: float

    def problems(self) -> list[str]:
        """Whatever is not as it must be, in words; empty when all is well."""
        return [*self._renewal_problems(), *self._traffic_problems(), *self._caller_problems()]

    def _renewal_problems(self) -> list[str]:
        found = [
            f"{identity}: {max(len(seen) - 1, 0)} renewals were seen, not {self.renewals_wanted}"
            for identity, seen in self.serials.items()
            if len(seen) <= self.renewals_wanted
        ]
        served = {serial for seen in self.serials.values() for serial in seen}
        if unrecorded := served - self.recorded:
            found.append(f"certificates were served that are not in the ledger: {', '.join(sorted(unrecorded))}")
        return found

    def _traffic_problems(self) -> list[str]:
        found = []
        if not self.sent:
            found.append("no request was sent")
        if self.failed:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self.failures.items())
            found.append(f"{self.failed} of {self.sent} requests failed: {reasons}")
        if self.handshakes < self.sent:
            found.append(f"only {self.handshakes} handshakes for {self.sent} requests")
        return found

    def _caller_problems(self) -> list[str]:
        found = []
        if not self.member_admitted:
            found.append("the client's own certificate was refused: the refusals below prove nothing")
        if not self.anonymous_refused:
            found.append("a caller without a certificate was not refused for that by Envoy")
        if not self.foreigner_refused:
            found.append("a caller with a certificate of a foreign CA was not refused for that by Envoy")
        return found


class Story:
    """Runs a mesh in `directory` until both sides were renewed often enough, or until it is told to stop.

    Raises what `Mesh` raises.
    """

    def __init__(self, directory: Path, *, ttl_seconds: int, renewals: int, once: bool, say: Say) -> None:
        self._mesh = Mesh(directory, ttl_seconds)
        self._ttl = ttl_seconds
        self._renewals = renewals
        self._once = once
        self._say = say
        self._told: dict[str, int] = {}
        self._began = time.monotonic()

    async def run(self, show: Callable[[Outcome], None]) -> Outcome:
        """Tells the story; `show` gets the figures when the renewals are done. The outcome at the end.

        Raises Interrupted for a signal before that, UNAVAILABLE where a process ends by itself. Nothing runs on
        afterwards.
        """
        interrupted = _signals()
        async with AsyncExitStack() as stack:
            try:
                outcome = await _unless(interrupted, self._until_renewed(stack))
                show(outcome)
                if not self._once and not outcome.problems():
                    await self._go_on(interrupted)
                    outcome = await self._outcome()
                    show(outcome)
            except MeshcaError:
                await asyncio.sleep(_REAPED_SECONDS)
                self._mesh.check()  # where a process has died, that is the better explanation
                raise
            if outcome.problems():
                self._complain()
            self._say("ending everything")
        return outcome

    async def _until_renewed(self, stack: AsyncExitStack) -> Outcome:
        await self._start(stack)
        await self._watch_renewals()
        return await self._outcome()

    async def _start(self, stack: AsyncExitStack) -> None:
        mesh = self._mesh
        self._say("making a certificate authority and starting its server")
        await mesh.start_server(stack)
        self._say(f"it serves: tokens on {mesh.facts['token']}, certificates on {mesh.facts['mtls']}")
        self._say("starting two agents, who prove themselves with single-use tokens,")
        self._say("and an Envoy beside each")
        await mesh.start_sidecars(stack)
        mesh.traffic.start()
        stack.push_async_callback(mesh.traffic.stop)
        self._say("requests flow: client -> Envoy -> mutual TLS -> Envoy -> service")
        self._say(f"certificates live {self._ttl}s and are renewed at half of that, under load:")

    async def _watch_renewals(self) -> None:
        """Until both sides were renewed often enough; not longer than that may take, nor after a failed request."""
        deadline = time.monotonic() + self._renewals * self._ttl + _SLACK_SECONDS
        while time.monotonic() < deadline and not self._mesh.traffic.failed:
            await self._look()
            for sidecar in self._mesh.sidecars:
                self._tell(sidecar)
            if all(len(sidecar.serials) > self._renewals for sidecar in self._mesh.sidecars):
                return
            await asyncio.sleep(0.1)

    def _tell(self, sidecar: Sidecar) -> None:
        if len(sidecar.serials) == self._told.get(sidecar.name, 0):
            return
        self._told[sidecar.name] = len(sidecar.serials)
        renewal = len(sidecar.serials) - 1
        what = f"renewal {renewal}" if renewal else "first"
        serial = next(reversed(sidecar.serials))[:16]
        traffic = self._mesh.traffic
        self._say(f"{sidecar.name:<8} {what:<10} serial {serial}  {traffic.sent} requests, {traffic.failed} failed")

    async def _look(self) -> None:
        self._mesh.check()
        for sidecar in self._mesh.sidecars:
            await sidecar.look()

    async def _outcome(self) -> Outcome:
        mesh = self._mesh
        client = mesh.sidecars[0]
        member = await asyncio.to_thread(ask, mesh.inbound, client.credentials())
        anonymous_refused = await self._is_refused(None, "fail_verify_no_cert")
        foreigner_refused = await self._is_refused(foreign_credentials(CLIENT), "fail_verify_error")
        sent, failed, failures = mesh.traffic.sent, mesh.traffic.failed, dict(mesh.traffic.failures)
        await self._look()
        return Outcome(
            serials={str(sidecar.identity): tuple(sidecar.serials)[-_REMEMBERED:] for sidecar in mesh.sidecars},
            renewals_wanted=self._renewals,
            handshakes=await client.stat("cluster[.].*ssl[.]handshake"),
            sent=sent,
            failed=failed,
            failures=failures,
            member_admitted=member == _HTTP_OK,
            anonymous_refused=anonymous_refused,
            foreigner_refused=foreigner_refused,
            recorded=await self._recorded(),
            seconds=time.monotonic() - self._began,
        )

    async def _is_refused(self, credentials: bytes | None, counter: str) -> bool:
        """Whether such a caller is turned away, and Envoy says that it was for the reason of `counter`."""
        mesh = self._mesh
        service = mesh.sidecars[1]
        name = f"listener[.].*ssl[.]{counter}"
        before = await service.stat(name)
        if await asyncio.to_thread(is_admitted, mesh.inbound, credentials):
            return False
        for _ in range(20):  # Envoy sends the alert before it counts
            if await service.stat(name) > before:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _recorded(self) -> frozenset[str]:
        where = ("--data-dir", str(self._mesh.data_dir), "--limit", "10000", "-o", "json")
        serials: set[str] = set()
        for identity in (CLIENT, SERVICE):
            records: list[dict[str, Any]] = json.loads(
                await run_meshca("ledger", "list", *where, "--spiffe-id", str(identity))
            )
            serials.update(record["serial"] for record in records)
        return frozenset(serials)

    async def _go_on(self, interrupted: asyncio.Future[int]) -> None:
        mesh = self._mesh
        self._say("everything goes on running until Ctrl-C. Look around, for example:")
        self._say(f"  {_meshca()} ledger list --data-dir {mesh.data_dir}")
        self._say(f"  curl --unix-socket {mesh.outbound} http://service/")
        self._say(f"  curl --unix-socket {mesh.sidecars[1].admin} http://envoy/certs")
        news = time.monotonic() + _NEWS_SECONDS
        while not interrupted.done():
            await asyncio.wait((interrupted,), timeout=0.5)
            await self._look()
            if time.monotonic() >= news:
                news = time.monotonic() + _NEWS_SECONDS
                renewals = ", ".join(f"{sidecar.name} {len(sidecar.serials) - 1}" for sidecar in mesh.sidecars)
                self._say(f"{mesh.traffic.sent} requests, {mesh.traffic.failed} failed; renewals: {renewals}")

    def _complain(self) -> None:
        complaints = self._mesh.complaints()
        if complaints:
            self._say("the last warnings and errors in the logs:")
        for line in complaints:
            self._say(f"  {line}")


def _signals() -> asyncio.Future[int]:
    """Becomes the number of the first signal that asks us to end; later ones change nothing."""
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not interrupted.done():
            interrupted.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup means it
            loop.add_signal_handler(number, note, number)
    return interrupted


async def _unless(interrupted: asyncio.Future[int], work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` gives. Raises Interrupted, with `work` cancelled and at its end, where a signal comes first."""
    task = asyncio.ensure_future(work)
    waits: tuple[asyncio.Future[Any], ...] = (interrupted, task)
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise Interrupted(interrupted.result())
    return task.result()


def _meshca() -> str:
    """How a shell calls meshca: a newcomer's does not find it by its name."""
    found, ours = shutil.which("meshca"), Path(sys.executable).with_name("meshca")
    if not ours.exists() or (found is not None and Path(found).samefile(ours)):
        return "meshca"
    return str(ours.relative_to(Path.cwd())) if ours.is_relative_to(Path.cwd()) else str(ours)
