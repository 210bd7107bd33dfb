"""The signing workers of a server: spawned, watched, started again when they end, ended with it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import structlog

from meshca.errors import unavailable
from meshca.settings.server import ServerSettings, parse_listen_address
from meshca.wiring.door import DoorAddresses
from meshca.wiring.exposition import WorkerTotals

_log = structlog.get_logger("meshca.workers")

# -P: a module that lies in the working directory must not be taken for one of ours
_COMMAND = (sys.executable, "-P", "-m", "meshca.cli", "signing-worker")
_START_SECONDS = 30.0
_MAX_REPORT_BYTES = 1024 * 1024
_RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)


class Workers:
    """`settings.workers` processes that share the two ports. `start` returns when all of them serve."""

    def __init__(self, settings: ServerSettings, totals: WorkerTotals) -> None:
        self._totals = totals
        self._reservations: list[socket.socket] = []
        token, mtls = (self._reserve(address) for address in (settings.token_listen, settings.mtls_listen))
        self.addresses = DoorAddresses(token, mtls)
        advertised = settings.advertise_mtls or mtls
        self._settings = settings.model_copy(
            update={"token_listen": token, "mtls_listen": mtls, "advertise_mtls": advertised}
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """Starts them. Raises UNAVAILABLE where one ends at once or does not come up in time."""
        serving = [asyncio.Event() for _ in range(self._settings.workers)]
        self._tasks = [asyncio.create_task(self._keep(number, event)) for number, event in enumerate(serving)]
        everyone = asyncio.ensure_future(asyncio.gather(*(event.wait() for event in serving)))
        either: set[asyncio.Future[Any]] = {everyone, *self._tasks}
        await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not everyone.done():
            everyone.cancel()
            await asyncio.wait((everyone,))
            raise unavailable("a signing worker did not start; its own words are above")

    @property
    def missing(self) -> int:
        """How many of them are not running."""
        return self._settings.workers - len(self._processes)

    async def stop(self) -> None:
        """Ends them: their standard input closes, they drain, they exit."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reservation in self._reservations:
            reservation.close()

    async def _keep(self, number: int, serving: asyncio.Event) -> None:
        attempt = 0
        while True:
            code = await self._run(number, serving)
            self._totals.ended(number)
            if not serving.is_set():
                return  # it never came up: that is for `start` to say
            pause = _RESTART_SECONDS[min(attempt, len(_RESTART_SECONDS) - 1)]
            _log.error("worker_ended", worker=number, exit_code=code, restart_in_seconds=pause)
            attempt += 1
            await asyncio.sleep(pause)

    async def _run(self, number: int, serving: asyncio.Event) -> int:
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_REPORT_BYTES
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            async for line in process.stdout:
                self._processes[number] = process
                self._totals.report(number, json.loads(line))
                serving.set()
            return await process.wait()
        finally:
            self._processes.pop(number, None)
            await self._end(process)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.communicate(), self._settings.shutdown_grace.total_seconds() + 5)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _reserve(self, address: str) -> str:
        """Holds a port for the workers, who share it; the address with its real port. It never listens itself."""
        host, port = parse_listen_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        reservation = socket.socket(family, socket.SOCK_STREAM)
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))  # fails where another server listens, which a shared port would hide
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reservation.bind((host, port))
        except OSError as error:
            reservation.close()
            raise unavailable(f"cannot listen on {address}: {error.strerror}") from error
        self._reservations.append(reservation)
        bound = reservation.getsockname()[1]
        return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
