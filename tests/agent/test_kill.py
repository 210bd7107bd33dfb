"""kill -9 at any moment: the next agent goes on, and nothing on the disk is ever half of something."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshca.agent.addresses import parse_server_address
from meshca.agent.identity import AgentIdentity
from meshca.agent.state import AgentState, state_binding
from tests.agent.discovery import serial, until
from tests.agent.nursery import Nursery
from tests.agent.sites import BEARER, JOIN, Site
from tests.agent.test_crash_points import written_serial
from tests.fakes.certificate_authority import Behaviour, FakeAuthority

KILLS = 24


@pytest.fixture
async def ca() -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,)) as authority:
        yield authority


@pytest.fixture
def site(short_tmp: Path, ca: FakeAuthority) -> Site:
    return Site(short_tmp, ca)


@asynccontextmanager
async def nursery(site: Site) -> AsyncIterator[Nursery]:
    arguments = ["--server", site.ca.token_address, "--trust-bundle", str(site.trust), "--socket", str(site.socket)]
    arguments += ["--output-dir", str(site.output), "--token-file", str(site.token_file)]
    async with Nursery(site.directory / "agents.log", site.ready, arguments) as running:
        yield running


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def state_of(site: Site) -> AgentState:
    binding = state_binding(site.ca.trust_pem, parse_server_address("--server", site.ca.token_address))
    return AgentState(site.socket.parent / "state", binding)


def saved_then(site: Site) -> AgentIdentity | None:
    """The saved identity, verified as of the time when it was received."""
    state = state_of(site)
    return state.load(datetime.fromisoformat(json.loads(state.path.read_text())["received_at"]))


def serial_of(held: AgentIdentity | None) -> str:
    return "-" if held is None else held.serial


@pytest.mark.slow
async def test_agents_killed_at_any_moment_of_a_renewal_are_followed_by_one_that_serves(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=2))
    dice = random.Random(20)
    async with nursery(site) as agents:
        for _ in range(KILLS):
            pid = await agents.start()
            secrets = await site.fetch()
            assert secrets["default"].tls_certificate.private_key.inline_bytes
            calls = len(ca.calls)
            await until(lambda count=calls: len(ca.calls) > count)  # type: ignore[misc]  # a renewal has just begun
            await asyncio.sleep(dice.random() * 0.03)
            await agents.end(pid)
            assert written_serial(site.output) != "-"
            assert saved_then(site) is not None
        pid = await agents.start()
        assert len(list(site.output.glob("..meshca-*"))) <= 2
        assert serial((await site.fetch())["default"]) == written_serial(site.output)
        await agents.end(pid, signal.SIGTERM)
        assert not site.socket.exists()
    log = events(agents.log)
    assert sum(event["event"] == "identity_restored" for event in log) > KILLS / 2
    # a slow machine may find that the certificate of two seconds is over, but never anything else
    assert {event["event"] for event in log if event["level"] != "info"} <= {"state_ignored"}
    assert all("expired" in event["reason"] for event in log if event["event"] == "state_ignored")
    assert BEARER not in agents.log.read_text()
    assert "PRIVATE" not in agents.log.read_text()


async def test_a_full_disk_stops_no_renewal_and_the_files_follow_when_there_is_room(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=4))
    async with nursery(site) as agents:
        pid = await agents.start()
        first = written_serial(site.output)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # EFBIG where it would be ENOSPC

        async with asyncio.timeout(10):
            while (served := serial((await site.fetch())["default"])) == first:
                await asyncio.sleep(0.02)
        ca.behaviour = Behaviour(refuse=grpc.StatusCode.UNAVAILABLE)  # what follows is no matter of another renewal
        assert written_serial(site.output) == first
        assert serial_of(saved_then(site)) == first
        kept = {entry.name for entry in (site.socket.parent / "state").iterdir()}
        assert kept == {"identity.json", "proxies.json"}

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await until(lambda: written_serial(site.output) == served)
        await until(lambda: serial_of(saved_then(site)) == served)
        await agents.end(pid, signal.SIGTERM)
