"""The signing workers of a server: spawned, watched, started again when they end, ended with it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from meshca.errors import unavailable
from meshca.settings.server import ServerSettings, parse_listen_address
from meshca.wiring.door import DoorAddresses
from meshca.wiring.exposition import WorkerTotals, parse_report

_log = structlog.get_logger("meshca.workers")

# -P: a module that lies in the working directory must not be taken for one of ours
_COMMAND = (sys.executable, "-P", "-m", "meshca.cli", "signing-worker")
_MAX_REPORT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WorkerPatience:
    """Seconds. `start`: until all serve; `silence`: between two reports of one, or before its first; `absence`: until
    one that does not come back makes the server unready; `restart`: before each attempt, the last for all further
    ones; `steady`: after so long, the attempts count anew.
    """

    start: float = 30.0
    silence: float = 30.0
    absence: float = 30.0
    restart: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0)
    steady: float = 60.0


class Workers:
    """`settings.workers` processes that share the two ports. `start` returns when all of them serve.

    One that ends, is silent, or reports what is no report, is ended and started again, whatever was wrong with it.
    """

    def __init__(
        self,
        settings: ServerSettings,
        totals: WorkerTotals,
        patience: WorkerPatience = WorkerPatience(),
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._totals = totals
        self._patience = patience
        self._command = command
        self._reservations: list[socket.socket] = []
        token, mtls = (self._reserve(address) for address in (settings.token_listen, settings.mtls_listen))
        self.addresses = DoorAddresses(token, mtls)
        advertised = settings.advertise_mtls or mtls
        self._settings = settings.model_copy(
            # only the server itself speaks with the upstream authority
            update={"token_listen": token, "mtls_listen": mtls, "advertise_mtls": advertised, "upstream": None}
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._missing: dict[int, float] = {}  # since when, by the loop's time

    async def start(self) -> None:
        """Starts them. Raises UNAVAILABLE where one ends at once or does not come up in time."""
        serving = [asyncio.Event() for _ in range(self._settings.workers)]
        self._missing = dict.fromkeys(range(len(serving)), asyncio.get_running_loop().time())
        self._tasks = [
            asyncio.create_task(self._keep(number, event), name=f"worker {number}")
            for number, event in enumerate(serving)
        ]
        everyone = asyncio.create_task(_all_set(serving))
        either: set[asyncio.Future[Any]] = {everyone, *self._tasks}
        await asyncio.wait(either, timeout=self._patience.start, return_when=asyncio.FIRST_COMPLETED)
        if not everyone.done():
            everyone.cancel()
            await asyncio.wait((everyone,))
            raise unavailable("a signing worker did not start; its own words are above")

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """Those that keep the workers running: after `start` none ends before `stop`."""
        return self._tasks

    @property
    def missing(self) -> int:
        """How many of them are not running."""
        return len(self._missing)

    def problem(self) -> str | None:
        """What is wrong where none is running, or where one has been gone for so long that it will hardly come back;
        None otherwise: a worker that is started again is a matter of seconds, and the others serve."""
        if self.missing == self._settings.workers:
            return "no signing worker is running"
        oldest = asyncio.get_running_loop().time() - self._patience.absence
        gone = sum(since < oldest for since in self._missing.values())
        return f"{gone} of {self._settings.workers} signing workers do not come back" if gone else None

    async def stop(self) -> None:
        """Ends them: their standard input closes, they drain, they exit."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reservation in self._reservations:
            reservation.close()

    async def _keep(self, number: int, serving: asyncio.Event) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            reason = await self._run(number, serving)
            self._totals.ended(number)
            if not serving.is_set():  # it never came up: that is for `start` to say
                _log.error("worker_ended", worker=number, reason=reason)
                return
            attempt = 0 if loop.time() - began > self._patience.steady else attempt
            pause = self._patience.restart[min(attempt, len(self._patience.restart) - 1)]
            _log.error("worker_ended", worker=number, reason=reason, restart_in_seconds=pause)
            attempt += 1
            await asyncio.sleep(pause)

    async def _run(self, number: int, serving: asyncio.Event) -> str:
        """Runs one until it ends, or has to be ended; why it did."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_REPORT_BYTES
            )
        except OSError as error:
            return f"it cannot be started: {error.strerror}"
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            await self._follow(number, process.stdout, serving)
        except TimeoutError:
            _kill(process)
            return f"it reported nothing for {self._patience.silence:g}s"
        except ValueError:  # not JSON, not of that form, not within the limit
            _kill(process)
            return "what it reported is no report"
        finally:
            self._missing.setdefault(number, asyncio.get_running_loop().time())
            await self._end(process)
        return f"exit code {process.returncode}"

    async def _follow(self, number: int, reports: asyncio.StreamReader, serving: asyncio.Event) -> None:
        """Takes its reports until there are no more. Raises TimeoutError for silence, ValueError for a bad report."""
        while True:
            async with asyncio.timeout(self._patience.silence):
                line = await reports.readline()
            if not line.endswith(b"\n"):
                return
            self._totals.report(number, parse_report(line))
            self._missing.pop(number, None)
            serving.set()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Lets it drain and ends it; when this returns, or is cancelled, it is gone."""
        if process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.shutdown_grace.total_seconds() + 5):
                    await process.communicate()
        finally:
            _kill(process)
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


async def _all_set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
