"""The main job, end to end: two real Envoys, a new handshake for each request, certificates of a few seconds.

Whatever happens to the server or an agent meanwhile, not one request fails.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from meshca.demo.intruders import foreign_credentials, is_admitted
from tests.flows.meshes import CLIENT, SERVICE, mesh
from tests.load import Load, get

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_ten_renewals_under_load_fail_no_request(short_tmp: Path, delta: bool) -> None:
    async with mesh(short_tmp, ttl_seconds=3, delta=delta) as running_mesh:
        async with Load(running_mesh.outbound) as load:
            await load.reach(20)
            await running_mesh.renewals(10)
            await load.reach(20)
        assert load.failed == []
        assert load.sent > 100
        handshakes = running_mesh.envoys["client"].stats("ssl.handshake")
        assert max(handshakes.values()) >= load.sent
        # each certificate that was served is in the ledger, and says who asked and how that was proven
        for identity in (CLIENT, SERVICE):
            records = running_mesh.server.ledger("--spiffe-id", str(identity))
            assert len(records) > 10
            assert [record["method"] for record in records[-2:]] == ["x509_svid", "join_token"]
            assert all(record["caller_id"] == str(identity) for record in records)


async def test_the_service_hears_who_called_and_strangers_are_refused(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=60) as running_mesh:
        answer = await get(running_mesh.outbound)
        assert (answer.status, answer.body) == (200, str(CLIENT).encode())
        inbound = Path(running_mesh.inbound.path)
        assert not await asyncio.to_thread(is_admitted, inbound, None)
        assert not await asyncio.to_thread(is_admitted, inbound, foreign_credentials(CLIENT))
        with pytest.raises((OSError, ssl.SSLError)):
            await get(running_mesh.inbound)


async def test_a_server_killed_and_restarted_mid_load_fails_no_request(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=8) as running_mesh, Load(running_mesh.outbound) as load:
        await running_mesh.renewals(1)
        running_mesh.server.kill()
        await load.reach(100)
        await running_mesh.server.start()
        await running_mesh.renewals(2)
        await load.reach(20)
    assert load.failed == []


async def test_agents_killed_and_restarted_mid_load_fail_no_request(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=8) as running_mesh, Load(running_mesh.outbound) as load:
        await running_mesh.renewals(1)
        for agent in running_mesh.agents.values():
            agent.kill()
        await load.reach(100)
        for agent in running_mesh.agents.values():
            await agent.start()  # its single-use token is spent: it goes on from its state
        await running_mesh.renewals(2)
        await load.reach(20)
    assert load.failed == []


async def test_sigterm_drains_and_exits_0(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=60) as running_mesh:
        programs: list[Callable[[], int]] = [*(a.stop for a in running_mesh.agents.values()), running_mesh.server.stop]
        for stop in programs:
            assert await asyncio.to_thread(stop) == 0
        assert not (short_tmp / "server.ready").exists()
        assert not (running_mesh.server.data_dir / "admin.sock").exists()
