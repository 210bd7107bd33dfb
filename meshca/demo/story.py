"""The demonstration itself: what happens in which order, what is shown, and what must be true at the end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from meshca.demo.intruders import foreign_credentials, is_admitted
from meshca.demo.mesh import CLIENT, SERVICE, Mesh, Sidecar

RENEWALS = 5
_TIMEOUT_SECONDS = 45.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of the final table."""

    serials: dict[str, tuple[str, ...]]
    handshakes: int
    sent: int
    failed: int
    failures: dict[str, int]
    anonymous_refused: bool
    foreigner_refused: bool
    recorded: int
    seconds: float

    def problems(self) -> list[str]:
        """Whatever is not as it must be, in words; empty when all is well."""
        found = [
            f"{name} saw {len(seen) - 1} renewals, not {RENEWALS}"
            for name, seen in self.serials.items()
            if len(seen) <= RENEWALS
        ]
        if self.failed or not self.sent:
            found.append(f"{self.failed} of {self.sent} requests failed: {self.failures}")
        if self.handshakes < self.sent:
            found.append(f"only {self.handshakes} handshakes for {self.sent} requests")
        if not self.anonymous_refused:
            found.append("a caller without a certificate was admitted")
        if not self.foreigner_refused:
            found.append("a caller with a certificate of a foreign CA was admitted")
        served = sum(len(seen) for seen in self.serials.values())
        if self.recorded < served:
            found.append(f"{served} certificates were served, but the ledger holds {self.recorded}")
        return found


class Story:
    """Runs a mesh in `directory` until both sides were renewed often enough, or until it is told to stop."""

    def __init__(self, directory: Path, *, ttl_seconds: int, once: bool, say: Say) -> None:
        self._mesh = Mesh(directory, ttl_seconds)
        self._ttl = ttl_seconds
        self._once = once
        self._say = say
        self._interrupted = asyncio.Event()
        self._began = time.monotonic()

    async def run(self, show: Callable[[Outcome], None]) -> Outcome:
        """Tells the story; `show` gets the figures when the renewals are done. The outcome at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted.set)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            await self._watch_renewals()
            outcome = await self._outcome()
            show(outcome)
            if not self._once and not outcome.problems():
                await self._go_on()
                outcome = await self._outcome()
            await self._mesh.traffic.stop()
        return outcome

    async def _start(self, stack: AsyncExitStack) -> None:
        mesh = self._mesh
        self._say("making a certificate authority and starting its server")
        await mesh.start_server(stack)
        self._say(f"server is up: tokens {mesh.facts['token']}, certificates {mesh.facts['mtls']}")
        self._say("starting two agents and two Envoys; each agent proves itself with a single-use token")
        await mesh.start_sidecars(stack)
        mesh.traffic.start()
        self._say(f"traffic flows: client -> Envoy -> mTLS -> Envoy -> service; certificates live {self._ttl}s")

    async def _watch_renewals(self) -> None:
        told: dict[str, int] = {}
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline and not self._interrupted.is_set():
            await self._look()
            for sidecar in self._mesh.sidecars:
                self._tell(sidecar, told)
            if all(len(sidecar.serials) > RENEWALS for sidecar in self._mesh.sidecars):
                return
            await asyncio.sleep(0.2)

    def _tell(self, sidecar: Sidecar, told: dict[str, int]) -> None:
        if len(sidecar.serials) == told.get(sidecar.name, 0):
            return
        told[sidecar.name] = len(sidecar.serials)
        renewal = len(sidecar.serials) - 1
        what = f"renewal {renewal}" if renewal else "first certificate"
        serial = next(reversed(sidecar.serials))
        traffic = self._mesh.traffic
        self._say(
            f"{sidecar.name:<8}{what:<18}serial {serial[:16]}…   {traffic.sent} requests, {traffic.failed} failed"
        )

    async def _look(self) -> None:
        self._mesh.check()
        for sidecar in self._mesh.sidecars:
            await sidecar.look()

    async def _outcome(self) -> Outcome:
        mesh = self._mesh
        client = mesh.sidecars[0]
        foreign = foreign_credentials(CLIENT)
        anonymous = await asyncio.to_thread(is_admitted, mesh.inbound, None)
        foreigner = await asyncio.to_thread(is_admitted, mesh.inbound, foreign)
        sent, failed = mesh.traffic.sent, mesh.traffic.failed
        await self._look()
        return Outcome(
            serials={str(sidecar.identity): tuple(sidecar.serials) for sidecar in mesh.sidecars},
            handshakes=await client.stat("cluster[.].*ssl[.]handshake"),
            sent=sent,
            failed=failed,
            failures=dict(mesh.traffic.failures),
            anonymous_refused=not anonymous,
            foreigner_refused=not foreigner,
            recorded=await self._recorded(),
            seconds=time.monotonic() - self._began,
        )

    async def _recorded(self) -> int:
        from meshca.demo.processes import run_meshca

        total = 0
        for identity in (CLIENT, SERVICE):
            arguments = ("--data-dir", str(self._mesh.data_dir), "--spiffe-id", str(identity), "--limit", "10000")
            total += (await run_meshca("ledger", "list", *arguments)).count(str(identity))
        return total

    async def _go_on(self) -> None:
        mesh = self._mesh
        self._say(f"everything goes on running until Ctrl-C; look around in {mesh.directory}, for example:")
        self._say(f"  meshca ledger list --data-dir {mesh.data_dir}")
        self._say(f"  curl --unix-socket {mesh.sidecars[1].admin} http://envoy/certs")
        while not self._interrupted.is_set():
            try:
                await asyncio.wait_for(self._interrupted.wait(), 1.0)
            except TimeoutError:
                await self._look()
