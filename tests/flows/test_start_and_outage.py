"""Whatever starts first, and however long the server is away: it comes together by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meshca.compile.envoy_addresses import PipeAddress
from tests.application import application
from tests.envoys import Envoy, running
from tests.flows.meshes import CLIENT, SERVICE, config, mesh, sidecars
from tests.load import Load, get
from tests.programs import Agent, Server

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


def reaches(envoy: Envoy, stat: str, least: int) -> Callable[[], bool]:
    return lambda: envoy.stat(stat) >= least


async def test_envoys_before_their_agents_and_agents_before_the_server(short_tmp: Path) -> None:
    entry = PipeAddress(str(short_tmp / "out.sock"))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(short_tmp, config(60)))
        agents = [Agent(server, short_tmp, str(identity)) for identity in (CLIENT, SERVICE)]
        await asyncio.to_thread(server.stop)
        await stack.enter_async_context(application(short_tmp / "app.sock"))

        envoys = [
            await stack.enter_async_context(running(bootstrap.as_dict(), short_tmp, name=name))
            for name, bootstrap in sidecars(short_tmp).items()
        ]
        for envoy in envoys:
            await envoy.until(reaches(envoy, "cluster.agent.upstream_cx_connect_fail", 3), "to look for its agent")
            assert "INITIALIZING" in envoy.state()

        ready = [asyncio.create_task(stack.enter_async_context(agent)) for agent in agents]
        for envoy in envoys:
            await envoy.until(reaches(envoy, "cluster.agent.upstream_rq_active", 2), "to ask its agent")
            assert "INITIALIZING" in envoy.state()
        for agent in agents:
            assert agent.process is not None
            assert agent.process.poll() is None, agent.log_tail()
            assert agent.events("issuance_failed")
            assert not agent.facts
        with pytest.raises(ConnectionError):
            await get(entry)

        await server.start()
        await asyncio.gather(*ready)
        for envoy in envoys:
            await envoy.live()
        assert (await get(entry)).status == 200


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_an_outage_beyond_the_expiry_is_healed_by_fresh_tokens(short_tmp: Path, delta: bool) -> None:
    async with mesh(short_tmp, ttl_seconds=4, delta=delta) as running_mesh:
        assert (await get(running_mesh.outbound)).status == 200
        running_mesh.server.kill()
        async with asyncio.timeout(20):
            while not all(agent.events("identity_expired") for agent in running_mesh.agents.values()):
                await asyncio.sleep(0.05)
        expired = {name: envoy.leaf_serials() for name, envoy in running_mesh.envoys.items()}
        assert (await get(running_mesh.outbound)).status == 503, "who shows an expired certificate is refused"

        # the agents restart meanwhile: what they saved is of no use, and their Envoys come back to them
        for agent in running_mesh.agents.values():
            agent.kill()
        await running_mesh.server.start()
        for name, agent in running_mesh.agents.items():
            token = running_mesh.server.token(agent.spiffe_id)
            (short_tmp / f"{name}.token").write_text(token)
            assert {name: envoy.leaf_serials() for name, envoy in running_mesh.envoys.items()} == expired
        for agent in running_mesh.agents.values():
            await agent.start()
        await running_mesh.renewals(1)
        async with Load(running_mesh.outbound) as load:
            await load.reach(50)
        assert load.failed == []
        for envoy in running_mesh.envoys.values():
            assert not any(envoy.stats("update_rejected").values())


async def test_an_agent_that_outlives_the_outage_is_healed_by_its_token_file(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=4) as running_mesh:
        running_mesh.server.kill()
        agents = running_mesh.agents.values()
        async with asyncio.timeout(20):
            while not all(agent.events("identity_expired") for agent in agents):
                await asyncio.sleep(0.05)
        before = {name: envoy.leaf_serials() for name, envoy in running_mesh.envoys.items()}
        assert all(before.values()), "Envoys keep what they hold"
        await running_mesh.server.start()
        async with asyncio.timeout(20):  # with a token that was redeemed before, it cannot get on
            while not all(any(e["code"] == "unauthenticated" for e in a.events("renewal_failed")) for a in agents):
                await asyncio.sleep(0.05)
        assert {name: envoy.leaf_serials() for name, envoy in running_mesh.envoys.items()} == before
        for name, agent in running_mesh.agents.items():
            (short_tmp / f"{name}.token").write_text(running_mesh.server.token(agent.spiffe_id))
        await running_mesh.renewals(1)
        async with Load(running_mesh.outbound) as load:
            await load.reach(50)
        assert load.failed == []
        assert all(agent.process is not None and agent.process.poll() is None for agent in agents)
