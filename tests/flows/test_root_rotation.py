"""The root is replaced under load: each request has a new handshake, some connections never end, and none fails."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.application import DRIP
from tests.flows.meshes import crowd, mesh
from tests.flows.rotations import (
    roots,
    rotating,
    rotation,
    rotation_status,
    serve_under,
    shows_a_trusted_chain,
    standing,
    trust_only,
)
from tests.load import Load, LongLived

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_a_root_is_replaced_under_load_and_no_request_fails(short_tmp: Path, delta: bool) -> None:
    async with mesh(short_tmp, ttl_seconds=6, delta=delta, server_config=rotating(6)) as running_mesh:
        server = running_mesh.server
        (old,) = roots(await standing(server))
        async with (
            LongLived(running_mesh.outbound, DRIP) as lasting,
            Load(running_mesh.outbound) as load,
            rotation(server) as watched,
        ):
            assert "the old root has left the bundle" in await watched.ends()
            (new,) = roots(await standing(server))
            assert new != old
            await trust_only(server, running_mesh.envoys.values(), new)
            await serve_under(server, running_mesh.envoys.values(), new)
            await shows_a_trusted_chain(running_mesh.inbound, server)
            await load.reach(20)
            await lasting.reach(5)
        assert load.failed == []
        assert lasting.failed == []
        handshakes = running_mesh.envoys["client"].stats("ssl.handshake")
        assert max(handshakes.values()) >= load.sent > 100
        for envoy in running_mesh.envoys.values():
            assert {name: n for name, n in envoy.stats("update_rejected").items() if n} == {}
        status = await rotation_status(server)
        assert (status["phase"], status["origin"], status["bundle_sequence"]) == ("idle", "", 3)
        assert (status["holders"], status["renewed"], status["coverage"]["laggards"]) == (2, 2, [])


async def test_a_root_is_replaced_in_a_mesh_of_ten_envoys_and_no_request_fails(short_tmp: Path) -> None:
    async with crowd(short_tmp, rotating(12), services=3, replicas=3) as many, AsyncExitStack() as stack:
        (old,) = roots(await standing(many.server))
        loads = [await stack.enter_async_context(Load(entry, clients=1, pause=0.02)) for entry in many.entries]
        lasting = [await stack.enter_async_context(LongLived(entry, DRIP, clients=1)) for entry in many.entries]
        async with rotation(many.server) as watched:
            assert "the old root has left the bundle" in await watched.ends(120)
        (new,) = roots(await standing(many.server))
        assert new != old
        await serve_under(many.server, many.envoys, new)
        await trust_only(many.server, many.envoys, new)
        for load in loads:
            await load.reach(5)
        for each in lasting:
            await each.reach(5)
        await stack.aclose()
        assert len(many.envoys) == 10
        assert [load.failed for load in loads] == [[]] * 9
        assert [each.failed for each in lasting] == [[]] * 9
