"""A signing worker: one more process with a door, for servers that need more than one core.

It is spawned, never forked. It holds no state but caches: it reads the ring from the store, signs, records. Its parent
reads what it counts from its standard output and ends it by closing its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import structlog

from meshca.errors import MeshcaError
from meshca.http.metrics import Metrics
from meshca.settings.server import ServerSettings
from meshca.wiring.core import REFRESH, Core, build_core
from meshca.wiring.door import Door
from meshca.wiring.exposition import read_samples
from meshca.wiring.logs import configure_logging
from meshca.wiring.open_files import raise_open_files_limit

_log = structlog.get_logger("meshca.worker")


def run_worker() -> None:
    """Runs until standard input ends; the settings are its first line."""
    settings = ServerSettings.model_validate_json(sys.stdin.readline())
    configure_logging(settings.log_format, settings.log_level)
    os.umask(0o077)
    raise_open_files_limit()
    asyncio.run(_run(settings))


async def _run(settings: ServerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is for the parent, which then ends us
    await _watch_parent(stop)
    core = await asyncio.to_thread(build_core, settings)
    try:
        core.identity.ensure()
        metrics = Metrics(lambda: core.signing.latest().ring, ledger=core.stores.ledger)
        door = Door(core, settings, metrics, shared_ports=True)
        await asyncio.to_thread(door.open)
        try:
            await _serve(core, metrics, stop)
        finally:
            await asyncio.to_thread(door.close)
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


async def _serve(core: Core, metrics: Metrics, stop: asyncio.Event) -> None:
    while not stop.is_set():
        _report(metrics)
        try:
            await asyncio.wait_for(stop.wait(), REFRESH.total_seconds())
        except TimeoutError:
            await asyncio.to_thread(_refresh, core)


def _refresh(core: Core) -> None:
    try:
        core.rotation.refresh()
        core.identity.ensure()
    except MeshcaError as error:
        _log.error("tick_failed", job="worker_refresh", kind=error.kind.value, reason=error.message)


def _report(metrics: Metrics) -> None:
    """One line for the parent: everything counted so far."""
    sys.stdout.write(json.dumps(read_samples(metrics.registry)) + "\n")
    sys.stdout.flush()
