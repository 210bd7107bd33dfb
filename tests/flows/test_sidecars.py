"""The main job, end to end: two real Envoys, a new handshake for each request, certificates of a few seconds.

Whatever happens to the server or an agent meanwhile, not one request fails.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.demo.intruders import foreign_credentials, is_admitted
from meshca.demo.traffic import Service
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.envoys import Envoy, admin_pipe, running
from tests.load import Load, get
from tests.programs import TRUST_DOMAIN, Agent, Server

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

CLIENT = SpiffeId(TrustDomain(TRUST_DOMAIN), "/ns/flow/sa/client")
SERVICE = SpiffeId(TrustDomain(TRUST_DOMAIN), "/ns/flow/sa/service")


def config(ttl_seconds: int) -> str:
    """A server's configuration with short certificates."""
    return f'tick = "1s"\n[leaf]\ndefault_ttl = "{ttl_seconds}s"\nmax_ttl = "1h"\nbackdate = "1s"\n'


@dataclass
class Mesh:
    """Everything that runs in a test."""

    directory: Path
    server: Server
    agents: dict[str, Agent]
    envoys: dict[str, Envoy]
    outbound: PipeAddress
    inbound: PipeAddress

    async def renewals(self, count: int, seconds: float = 60.0) -> None:
        """Waits until both Envoys have served `count` further leaves, each seen by its serial."""
        seen: dict[str, set[str]] = {name: set(envoy.leaf_serials()) for name, envoy in self.envoys.items()}
        async with asyncio.timeout(seconds):
            while any(len(serials) <= count for serials in seen.values()):
                await asyncio.sleep(0.05)
                for name, envoy in self.envoys.items():
                    seen[name] |= envoy.leaf_serials()


@asynccontextmanager
async def mesh(directory: Path, *, ttl_seconds: int, delta: bool = False) -> AsyncIterator[Mesh]:
    """A server, two agents, two Envoys and a service behind the second, all serving."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory, config(ttl_seconds)))
        agents = {
            identity.path.rpartition("/")[2]: await stack.enter_async_context(Agent(server, directory, str(identity)))
            for identity in (CLIENT, SERVICE)
        }
        app, inbound, outbound = (PipeAddress(str(directory / f"{name}.sock")) for name in ("app", "in", "out"))
        service = Service(Path(app.path))
        await service.start()
        stack.push_async_callback(service.stop)
        sides = {
            "service": {"inbound": Inbound(inbound, app, (CLIENT,))},
            "client": {"outbound": (Outbound(outbound, inbound, SERVICE),)},
        }
        envoys = {}
        for name, side in sides.items():
            bootstrap = EnvoyBootstrap(
                agent_socket=PipeAddress(str(agents[name].socket)),
                trust_domain=TrustDomain(TRUST_DOMAIN),
                node_id=name,
                admin=admin_pipe(directory, name),
                delta=delta,
                max_requests_per_connection=1,
                **side,  # type: ignore[arg-type]  # either side of a sidecar
            )
            envoys[name] = await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
        for envoy in envoys.values():
            await envoy.live()
        yield Mesh(directory, server, agents, envoys, outbound, inbound)


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
