"""A signing worker: one more process with a door, for servers that need more than one core.

It is spawned, never forked. It holds no state but caches: it reads the ring from the store, signs, records. Its parent
reads what it counts from its standard output and ends it by closing its standard input, in its turn; signals do not,
for those that are meant for the parent come to the whole group: Ctrl-C, and SIGTERM from systemd.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog

from meshca.errors import MeshcaError, internal
from meshca.http.metrics import Metrics
from meshca.settings.server import ServerSettings
from meshca.wiring.core import REFRESH, Core, build_core
from meshca.wiring.door import Door, door_threads
from meshca.wiring.exposition import write_report
from meshca.wiring.logs import configure_logging
from meshca.wiring.open_files import raise_open_files_limit

_log = structlog.get_logger("meshca.worker")


def run_worker() -> None:
    """Runs until standard input ends; the settings are its first line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    settings = ServerSettings.model_validate_json(sys.stdin.readline())
    configure_logging(settings.log_format, settings.log_level)
    os.umask(0o077)
    raise_open_files_limit()
    asyncio.run(_run(settings))


async def _run(settings: ServerSettings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().set_default_executor(door_threads(settings))
    await _watch_parent(stop)
    core = await asyncio.to_thread(build_core, settings)
    try:
        core.identity.ensure()
        metrics = Metrics(lambda: core.signing.latest().ring, ledger=core.stores.ledger)
        door = Door(core, settings, metrics, shared_ports=True)
        await door.open()
        assert door.pushing is not None
        door.pushing.add_done_callback(lambda _: stop.set())
        try:
            await serve(core, metrics, stop)
            if door.pushing.done():
                raise internal("the task that pushes to streams ended by itself") from door.pushing.exception()
        finally:
            await door.close()
            _report(metrics)
    finally:
        core.stores.close()


async def _watch_parent(stop: asyncio.Event) -> None:
    """Sets `stop` when the parent closes our standard input, as it also does by dying."""
    loop = asyncio.get_running_loop()

    class Parent(asyncio.Protocol):
        def connection_lost(self, _: Exception | None) -> None:
            stop.set()

    await loop.connect_read_pipe(Parent, sys.stdin)


async def serve(core: Core, metrics: Metrics, stop: asyncio.Event) -> None:
    """Keeps what the door signs with confirmed, and reports, until `stop`. Raises INTERNAL where the ledger's writer
    has stopped: the next worker has a new one."""
    while not stop.is_set():
        if not core.stores.ledger.alive:
            raise internal("the ledger's writer has stopped")
        _report(metrics)
        try:
            await asyncio.wait_for(stop.wait(), REFRESH.total_seconds())
        except TimeoutError:
            await asyncio.to_thread(_refresh, core)


def _refresh(core: Core) -> None:
    try:
        core.authorities.keeper.refresh()
        core.identity.ensure()
    except MeshcaError as error:
        _log.error("tick_failed", job="worker_refresh", kind=error.kind.value, reason=error.message)


def _report(metrics: Metrics) -> None:
    """One line for the parent: everything counted so far."""
    sys.stdout.write(write_report(metrics.registry))
    sys.stdout.flush()
