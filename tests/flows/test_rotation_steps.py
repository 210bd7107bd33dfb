"""Rotations that are aborted, killed or begun by a taint, under load: no request fails, whatever the step."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshca.cli.rotation_watch import active_root
from tests.application import DRIP
from tests.flows.meshes import mesh
from tests.flows.rotations import (
    command,
    laggards,
    paused,
    roots,
    rotating,
    rotation,
    serve_under,
    standing,
    trust_only,
    trusted,
    until,
    until_phase,
)
from tests.load import Load, LongLived
from tests.programs import Server

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def abort(server: Server, old: str) -> None:
    """Aborts the rotation, and waits until the mesh has that root alone again."""
    await command(server, "rotate", "abort", "--yes", "--reason", "changed our minds")
    reply = await until_phase(server, "idle")
    assert roots(reply) == [old] == [active_root(reply)]


async def test_a_rotation_aborted_in_any_phase_leads_back_and_the_next_one_succeeds(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=8, server_config=rotating(8)) as running_mesh:
        server, begin = running_mesh.server, ("rotate", "root", "--yes")
        old = active_root(await standing(server))
        async with LongLived(running_mesh.outbound, DRIP) as lasting, Load(running_mesh.outbound) as load:
            with paused(running_mesh.agents["service"]):
                await command(server, *begin)
                reply = await until(server, lambda reply: len(laggards(reply)) == 1, "the paused agent to lag")
                assert reply.rotation.phase == "distributing"
                await abort(server, old)

            await command(server, *begin)
            await until_phase(server, "soaking")
            await abort(server, old)

            await command(server, *begin)
            reply = await until_phase(server, "renewing")
            assert active_root(reply) != old
            await abort(server, old)
            await trust_only(server, running_mesh.envoys.values(), old)
            await serve_under(server, running_mesh.envoys.values(), old)

            async with rotation(server, "--linger", "0s") as watched:
                await watched.ends()
            new = active_root(await standing(server))
            assert new != old
            await serve_under(server, running_mesh.envoys.values(), new)
            await load.reach(20)
            await lasting.reach(5)
        assert load.failed == []
        assert lasting.failed == []


def steps(server: Server) -> list[str]:
    """The steps that the schedule has taken, as far as they are logged."""
    lines = server.log.read_text("utf-8").split("\n")[:-1]
    return [line for line in lines if '"event": "authority_step"' in line]


async def test_a_server_killed_after_every_step_of_a_rotation_completes_it(short_tmp: Path) -> None:
    async with mesh(short_tmp, ttl_seconds=20, server_config=rotating(20)) as running_mesh:
        server = running_mesh.server
        old = active_root(await standing(server))
        async with LongLived(running_mesh.outbound, DRIP) as lasting, Load(running_mesh.outbound) as load:
            async with rotation(server) as watched:
                kills = await kill_after_every_step(server)
                assert "the old root has left the bundle" in await watched.ends()
            (new,) = roots(await standing(server))
            assert new != old
            await trust_only(server, running_mesh.envoys.values(), new)
            await serve_under(server, running_mesh.envoys.values(), new)
            await load.reach(20)
            await lasting.reach(5)
        assert load.failed == []
        assert lasting.failed == []
        assert kills >= 4
        taken = [entry.step for entry in reversed((await standing(server)).journal)]
        assert taken[-8:] == [
            "begin rotation",
            "prepare root",
            "activate",
            "prepare issuer",
            "activate",
            "prune",
            "prune",
            "finish rotation",
        ]


async def kill_after_every_step(server: Server, seconds: float = 90.0) -> int:
    """Kills the server as soon as it has taken a step, and starts it again, until the rotation is finished; how often.

    More than one step may be taken before it dies, or while it starts.
    """
    kills, known = 0, 0
    async with asyncio.timeout(seconds):
        while True:
            taken = steps(server)
            if len(taken) > known:
                server.kill()
                kills += 1
                known = len(steps(server))
                await server.start()
            elif taken and '"finish rotation"' in taken[-1]:
                return kills
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("is_prepared", [True, False], ids=["with_a_successor", "without_one"])
async def test_a_tainted_root_leaves_the_bundle_and_no_request_fails(short_tmp: Path, is_prepared: bool) -> None:
    async with mesh(short_tmp, ttl_seconds=30, server_config=rotating(30)) as running_mesh:
        server = running_mesh.server
        old = active_root(await standing(server))
        async with LongLived(running_mesh.outbound, DRIP) as lasting, Load(running_mesh.outbound) as load:
            if is_prepared:
                await command(server, "authority", "prepare", "root", "--reason", "to be safe")
            prepared = roots(await standing(server), "prepared")
            await command(server, "authority", "taint", old, "--yes", "--reason", "its key was in a backup")
            reply = await until(server, lambda reply: old not in trusted(reply), "the tainted root to be gone", 120)
            new = active_root(reply)
            assert new in prepared or not prepared
            await trust_only(server, running_mesh.envoys.values(), new)
            await serve_under(server, running_mesh.envoys.values(), new)
            await load.reach(20)
            await lasting.reach(5)
        assert load.failed == []
        assert lasting.failed == []
