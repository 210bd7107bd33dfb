"""The server process as a whole: what ends it, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshca.cli.admin_client import fetch_status
from meshca.compile.envoy_addresses import TcpAddress
from meshca.errors import ErrorKind, MeshcaError
from meshca.settings.server import ServerSettings
from meshca.spiffe.ids import TrustDomain
from meshca.wiring.clock import SystemClock, uptime
from meshca.wiring.data_dir import Founding, create_data_dir
from meshca.wiring.server import Server
from tests.assets.foreign import DAY, foreign_ca, subject
from tests.fakes.clock import Stopwatch
from tests.load import get


def task(name: str) -> asyncio.Task[object]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == name)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def running(
    directory: Path, monotonic: Callable[[], float] = uptime
) -> AsyncIterator[tuple[asyncio.Task[None], TcpAddress]]:
    """A server in this process, which serves; and its HTTP address."""
    create_data_dir(directory / "ca", Founding(TrustDomain("server.test")), None, SystemClock())
    anywhere = dict.fromkeys(("token_listen", "mtls_listen", "http_listen"), "127.0.0.1:0")
    ready = directory / "ready"
    settings = ServerSettings.model_validate(
        {"data_dir": directory / "ca", "ready_file": ready, "tick": 0.1, "shutdown_grace": 0, **anywhere}
    )
    server = asyncio.create_task(Server(settings, monotonic).run())
    try:
        await until(lambda: ready.exists() or server.done())
        host, _, port = json.loads(ready.read_text())["http"].rpartition(":")
        yield server, TcpAddress(host, int(port))
    finally:
        server.cancel()
        await asyncio.wait((server,))


@pytest.mark.parametrize("name", ["http", "authorities"])
async def test_a_background_task_that_ends_by_itself_ends_the_server_in_order(short_tmp: Path, name: str) -> None:
    async with running(short_tmp) as (server, _):
        with capture_logs() as logs:
            task(name).cancel()
            await asyncio.wait((server,), timeout=20)
        with pytest.raises(MeshcaError) as ended:
            await server
        assert ended.value.kind is ErrorKind.INTERNAL
        assert (
            ended.value.message
            == f"the server's task {name!r} ended by itself (it was cancelled), and it cannot go on without"
        )
        assert [log["task"] for log in logs if log["event"] == "background_task_ended"] == [name]
        assert not (short_tmp / "ready").exists()
        assert not (short_tmp / "ca" / "admin.sock").exists()


async def test_a_server_that_ticks_is_ready(short_tmp: Path) -> None:
    async with running(short_tmp) as (_, http):
        answer = await get(http, "/readyz")
        assert (answer.status, answer.body) == (200, b"ok\n")
        samples = (await get(http, "/metrics")).body.decode()
        async with asyncio.timeout(20):
            while 'tick_timestamp_seconds{job="authorities"}' not in samples:
                await asyncio.sleep(0.05)
                samples = (await get(http, "/metrics")).body.decode()


async def samples_of(http: TcpAddress, *, until: Callable[[str], bool]) -> str:
    async with asyncio.timeout(20):
        while not until(samples := (await get(http, "/metrics")).body.decode()):
            await asyncio.sleep(0.05)
    return samples


async def test_a_server_that_ticks_tells_operators_so(short_tmp: Path) -> None:
    async with running(short_tmp), asyncio.timeout(20):
        status = await asyncio.to_thread(fetch_status, short_tmp / "ca", None)
        while not status.rotation_tick.well_at:
            status = await asyncio.to_thread(fetch_status, short_tmp / "ca", None)
    assert (status.readiness.ready, list(status.alarms)) == (True, [])
    assert (status.rotation_tick.well_at <= status.now, status.rotation_tick.failure) == (True, "")


async def test_a_server_without_an_issuing_ca_runs_is_not_ready_and_ends_when_told(short_tmp: Path) -> None:
    root = foreign_ca(subject("Corp Root"), until=datetime.now(UTC) + 900 * DAY).certificate
    create_data_dir(short_tmp / "ca", Founding(TrustDomain("server.test"), external=root), None, SystemClock())
    anywhere = dict.fromkeys(("token_listen", "mtls_listen"), "127.0.0.1:0")
    port = free_port()
    settings = ServerSettings.model_validate(
        {"data_dir": short_tmp / "ca", "tick": 0.1, "http_listen": f"127.0.0.1:{port}", **anywhere}
    )
    server = Server(settings)
    serving = asyncio.create_task(server.run())
    try:
        with capture_logs() as logs:
            await until(lambda: serving.done() or "waiting_for_issuing_ca" in {log["event"] for log in logs})
        assert (short_tmp / "ca" / "admin.sock").exists()
        answer = await get(TcpAddress("127.0.0.1", port), "/readyz")
        assert answer.status == 503
        assert [line.split(":")[0] for line in answer.body.decode().splitlines()] == [
            "authority",
            "certificate",
            "listeners",
        ]
        status = await asyncio.to_thread(fetch_status, short_tmp / "ca", None)
        assert not status.readiness.ready
        reasons = "".join(f"{reason.check}: {reason.problem}\n" for reason in status.readiness.reasons)
        assert reasons == answer.body.decode()
        assert {"authority", "certificate", "listeners"} <= {
            a.subject for a in status.alarms if a.severity == "critical"
        }
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait((serving,), timeout=20)
        assert serving.done()
        assert serving.exception() is None
    finally:
        serving.cancel()
        await asyncio.wait((serving,))


async def test_a_server_whose_authorities_became_unreadable_says_so_until_they_are_not(short_tmp: Path) -> None:
    watch = Stopwatch()
    async with running(short_tmp, watch) as (server, http):
        with closing(sqlite3.connect(short_tmp / "ca" / "meshca.db")) as database:
            (document,) = database.execute("SELECT document FROM authority_ring").fetchone()
            database.execute("UPDATE authority_ring SET document = 'not one of ours'")
            database.commit()
            with capture_logs() as logs:
                await until(lambda: {"rotation", "authorities"} <= {log.get("job") for log in logs})
            watch.seconds += 61
            answer = await get(http, "/readyz")
            assert (answer.status, answer.body.decode().splitlines()) == (
                503,
                [
                    "signing: the authorities in the store could not be read for 61s: nothing is signed until they can",
                    "rotation: no tick has gone well for 61s",
                ],
            )
            assert not server.done()
            with capture_logs() as logs:
                alarm = 'meshca_alarms{kind="signing",severity="critical"} 1.0'
                await samples_of(http, until=lambda samples: alarm in samples)
                database.execute("UPDATE authority_ring SET document = ?", (document,))
                database.commit()
                samples = await samples_of(http, until=lambda samples: "meshca_alarms{" not in samples)
            assert "meshca_rotation_holders 0.0" in samples
            assert [log["kind"] for log in logs if log["event"] == "alarm_ended"].count("signing") == 1
        async with asyncio.timeout(20):
            while (await get(http, "/readyz")).status != 200:
                await asyncio.sleep(0.05)
