"""The server process: opens the state, opens the doors, ticks, drains."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from meshca.authority.ring import AuthorityKind
from meshca.errors import MeshcaError, internal, invalid
from meshca.http.app import build_app
from meshca.http.metrics import Metrics
from meshca.http.server import serve
from meshca.proto.meshca.v1 import admin_pb2_grpc
from meshca.rpc.admin import AdminDoor
from meshca.rpc.listeners import Listener, ListenerLimits
from meshca.services.alarms import AlarmWatch
from meshca.services.health import Health
from meshca.services.revocation_lists import ServedList
from meshca.settings.server import ServerSettings, parse_listen_address
from meshca.wiring.clock import uptime
from meshca.wiring.core import REFRESH, Core, build_core
from meshca.wiring.data_dir import DataDir, check_socket_path, clear_socket, lock_data_dir
from meshca.wiring.door import Door, DoorAddresses, door_threads
from meshca.wiring.exposition import WorkerTotals
from meshca.wiring.health import health_for_threads
from meshca.wiring.logs import configure_logging
from meshca.wiring.open_files import raise_open_files_limit
from meshca.wiring.ticks import Ticks
from meshca.wiring.workers import Workers

_log = structlog.get_logger("meshca.server")

ADMIN_SERVICE = "meshca.v1.AdminService"

# A record that waits longer for its durable write makes the server unready.
LEDGER_PATIENCE = timedelta(seconds=5)
# So does a rotation that has failed, or not come, for so long, if that is three ticks at least.
ROTATION_PATIENCE = timedelta(minutes=1)
# Between two looks for an issuing CA where there is none yet.
_IDLE = timedelta(milliseconds=200)
# What a tick that is under way gets at shutdown, before the stores are closed all the same.
_TICK_GRACE = timedelta(seconds=10)


def run_server(settings: ServerSettings) -> None:
    """Runs the server until SIGTERM or SIGINT; raises what keeps it from starting."""
    configure_logging(settings.log_format, settings.log_level)
    os.umask(0o077)
    raise_open_files_limit()
    asyncio.run(Server(settings).run())


class Server:
    """One server process. `monotonic` (seconds) tells the age of what it holds."""

    def __init__(self, settings: ServerSettings, monotonic: Callable[[], float] = uptime) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._stop = asyncio.Event()
        self._open = False
        self._background: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Starts everything in order, waits for the signal, ends everything in the opposite order.

        Raises INTERNAL where a task of its own ended by itself: what it did, nobody would do any more.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(door_threads(self._settings))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            await self._until_stopped()
            _log.info("stopping", grace_seconds=self._settings.shutdown_grace.total_seconds())
        _log.info("stopped")

    async def _until_stopped(self) -> None:
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        either: set[asyncio.Task[Any]] = {stop, *self._background}
        ended, _ = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if stop not in ended:
            raise _ended_by_itself(ended.pop())

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        data_dir = DataDir(settings.data_dir)
        admin_socket = check_socket_path((settings.admin_socket or data_dir.admin_socket).absolute())
        stack.callback(os.close, lock_data_dir(data_dir))
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)  # of a server that was killed
        core = await asyncio.to_thread(build_core, settings, self._monotonic)
        stack.push_async_callback(asyncio.to_thread, core.stores.close)
        await asyncio.to_thread(_first_tick, core)

        metrics = Metrics(lambda: core.signing.latest().ring, ledger=core.stores.ledger)
        totals = WorkerTotals(metrics.registry)
        ticks = self._ticks(core, metrics)
        stack.push_async_callback(ticks.finish, _TICK_GRACE)
        if core.authorities.upstream is not None:
            stack.callback(core.authorities.upstream.close)  # so that no tick waits for it
        checks = _checks(core)
        patience = max(3 * settings.tick, ROTATION_PATIENCE)
        checks["rotation"] = lambda: ticks.problem("rotation", patience)
        checks["listeners"] = lambda: None if self._open else "the listeners are not open yet"
        health = health_for_threads(checks, ticks)
        ticks.add("alarms", settings.tick, AlarmWatch(core.authorities.control.standing, health, metrics).look)
        await self._open_admin(core, admin_socket, health, stack)
        http = await self._open_http(core, totals, checks, stack)
        self._start_ticks(core, ticks, stack)
        if not await self._until_it_can_sign(core):
            return
        if settings.workers > 1:
            addresses = await self._start_workers(totals, checks, stack)
        else:
            addresses = await self._open_door(core, metrics, stack)
        self._open = True
        stack.callback(ticks.stop)  # before the doors close, too
        self._announce(addresses, http, admin_socket, stack)

    async def _until_it_can_sign(self, core: Core) -> bool:
        """Waits for an issuing CA, without which the listeners would have no certificate of their own; whether it came,
        rather than the end of the server. Operators are answered meanwhile, and the ticks make the certificate."""
        if core.identity.material is None:
            _log.warning("waiting_for_issuing_ca", reason=core.signing.latest().idle)
        while core.identity.material is None:
            if self._stop.is_set() or any(task.done() for task in self._background):
                return False
            await asyncio.sleep(_IDLE.total_seconds())
        return True

    async def _open_door(self, core: Core, metrics: Metrics, stack: AsyncExitStack) -> DoorAddresses:
        door = Door(core, self._settings, metrics)
        stack.push_async_callback(door.close)
        addresses = await door.open()
        assert door.pushing is not None
        self._background.append(door.pushing)
        return addresses

    async def _start_workers(
        self, totals: WorkerTotals, checks: dict[str, Callable[[], str | None]], stack: AsyncExitStack
    ) -> DoorAddresses:
        workers = Workers(self._settings, totals)
        stack.push_async_callback(workers.stop)
        await workers.start()
        checks["workers"] = workers.problem
        self._background.extend(workers.tasks)
        return workers.addresses

    async def _open_admin(self, core: Core, path: Path, health: Callable[[], Health], stack: AsyncExitStack) -> None:
        clear_socket(path)
        listener = Listener((), (ADMIN_SERVICE,), ListenerLimits(64, timedelta(hours=1)))
        authorities = core.authorities
        door = AdminDoor(
            core.signing,
            core.stores.ledger,
            core.enrolment,
            authorities.control,
            authorities.revocations,
            authorities.imports,
            health,
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(door, listener.server)
        listener.bind_unix(str(path))
        os.chmod(path, 0o600)
        await listener.start()
        stack.callback(path.unlink, missing_ok=True)
        stack.push_async_callback(listener.stop, timedelta(seconds=1))

    async def _open_http(
        self, core: Core, totals: WorkerTotals, checks: dict[str, Callable[[], str | None]], stack: AsyncExitStack
    ) -> str:
        host, port = parse_listen_address(self._settings.http_listen)
        registry = CollectorRegistry()
        registry.register(totals)
        handle = await serve(host, port, build_app(checks, registry, lambda issuer_id: _crl(core, issuer_id)))
        stack.push_async_callback(handle.stop)
        self._background.append(handle.finished)
        return handle.address

    def _ticks(self, core: Core, metrics: Metrics) -> Ticks:
        ticks = Ticks(metrics, self._monotonic)
        every = self._settings.tick
        ticks.add("rotation", every, core.authorities.rotation.tick)
        ticks.add("revocation_lists", every, core.authorities.lists.tick)
        ticks.add("server_certificate", every, lambda: _renew_identity(core))
        if core.authorities.directory is not None:
            ticks.add("ca_dir", self._settings.authority.poll, core.authorities.directory.look)
        if core.authorities.upstream is not None and self._settings.upstream is not None:
            ticks.add("upstream", self._settings.upstream.poll, core.authorities.upstream.look)
        ticks.add("join_tokens", max(every, timedelta(minutes=10)), core.enrolment.prune)
        ticks.add("evidence", max(every, timedelta(minutes=10)), core.authorities.relying.prune)
        return ticks

    def _start_ticks(self, core: Core, ticks: Ticks, stack: AsyncExitStack) -> None:
        ticks.start()
        stack.callback(ticks.stop)
        following = asyncio.create_task(_follow(core, ticks), name="authorities")
        stack.callback(following.cancel)
        self._background.append(following)

    def _announce(self, addresses: DoorAddresses, http: str, admin: Path, stack: AsyncExitStack) -> None:
        facts = {
            "token": addresses.token,
            "mtls": addresses.mtls,
            "http": http,
            "admin": str(admin),
            "pid": os.getpid(),
        }
        ready_file = self._settings.ready_file
        if ready_file is not None:
            _write_whole(ready_file, json.dumps(facts) + "\n")
            stack.callback(ready_file.unlink, missing_ok=True)
        _log.info("serving", **facts)


def _first_tick(core: Core) -> None:
    """What is due, before anybody is served. A step that fails has its next turn; only a server whose own certificate
    cannot be made, though an issuing CA is there, cannot begin."""
    for name, step in (
        ("revocations", core.authorities.lists.tick),  # lists that ended meanwhile would have everybody refused
        ("rotation", core.authorities.rotation.tick),
    ):
        try:
            step()
        except MeshcaError as error:
            _log.error("tick_failed", job=name, kind=error.kind.value, reason=error.message)
    core.authorities.keeper.refresh()  # a fleet's certificates take a while to read, and what was seen before is old
    _renew_identity(core)


async def _follow(core: Core, ticks: Ticks) -> None:
    """Keeps what the server signs with confirmed, a rotation under way in motion and revocation lists fresh, whatever
    the time of day does to the scheduler."""
    while True:
        await asyncio.sleep(REFRESH.total_seconds())
        await ticks.run("authorities", core.authorities.rotation.follow)
        await ticks.run("revocations", core.authorities.lists.follow)
        await ticks.run("own_certificate", lambda: _renew_identity(core))  # its roots and its issuer are those of now
        ticks.hurry(core.clock.now())


def _ended_by_itself(task: asyncio.Task[Any]) -> MeshcaError:
    cause = None if task.cancelled() else task.exception()
    _log.error("background_task_ended", task=task.get_name(), exc_info=cause)
    how = "it was cancelled" if task.cancelled() else "it returned" if cause is None else repr(cause)
    error = internal(f"the server's task {task.get_name()!r} ended by itself ({how}), and it cannot go on without")
    error.__cause__ = cause
    return error


def _crl(core: Core, issuer_id: str) -> ServedList | None:
    state = core.signing.latest()
    return core.authorities.lists.served(state.ring, state.bans, issuer_id)


def _renew_identity(core: Core) -> None:
    """The server's own certificate, where there is something to sign it with, or to say that there is no more."""
    if core.signing.latest().own is not None or core.identity.material is not None:
        core.identity.ensure()


def _checks(core: Core) -> dict[str, Callable[[], str | None]]:
    """What must hold for the server to be ready; each tells its problem, or None."""
    return {
        "authority": lambda: _authority_problem(core),
        "signing": core.signing.doubt,
        "certificate": lambda: _certificate_problem(core),
        "ledger": lambda: _ledger_problem(core),
    }


def _ledger_problem(core: Core) -> str | None:
    ledger = core.stores.ledger
    if not ledger.alive:
        return "the ledger's writer has stopped"
    if ledger.lag() > LEDGER_PATIENCE.total_seconds():
        return f"the ledger has not taken a record for {LEDGER_PATIENCE.total_seconds():.0f}s"
    return None


def _authority_problem(core: Core) -> str | None:
    """A root that was tainted is none: nothing is issued for now, but whoever comes for the next bundle must get it."""
    state = core.signing.latest()
    active = state.ring.active(AuthorityKind.ISSUER)
    if active is None and state.ring.active(AuthorityKind.ROOT) is not None:
        return state.idle
    return "the issuing CA has expired" if active is not None and active.not_after <= core.clock.now() else None


def _certificate_problem(core: Core) -> str | None:
    material = core.identity.material
    if material is None:
        return "the server has no certificate yet"
    if material.not_after <= core.clock.now():
        return "the server's own certificate has expired"
    return None


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise invalid(f"ready_file {path}: cannot be written: {error.strerror}") from error
