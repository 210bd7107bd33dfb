"""A new root that the old one has signed: real Envoys that know only one of the two meet certificates under the new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap
from meshca.pki.certificates import der_to_pem
from tests.application import application
from tests.envoys import Envoy, admin_pipe, running
from tests.flows.meshes import CLIENT, SERVICE, sidecars
from tests.flows.rotations import command, roots, rotating, serve_under, standing, trusted, until
from tests.load import get
from tests.programs import Agent, Server

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

TTL = 20


@asynccontextmanager
async def site(directory: Path, *, cross_sign: bool) -> AsyncIterator[tuple[Server, dict[str, EnvoyBootstrap]]]:
    """A server, two agents and the service, without Envoys yet."""
    settings = f"{rotating(TTL)}[root]\ncross_sign = {str(cross_sign).lower()}\n"
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory, settings))
        for identity in (CLIENT, SERVICE):
            await stack.enter_async_context(Agent(server, directory, str(identity)))
        await stack.enter_async_context(application(directory / "app.sock"))
        yield server, sidecars(directory)


def trusting(bootstrap: EnvoyBootstrap, pem: str) -> dict[str, Any]:
    """Its configuration with these roots for good, instead of those that its agent serves."""
    config = bootstrap.as_dict()
    upstream = next(each for each in config["static_resources"]["clusters"] if each["name"] == "upstream")
    tls = upstream["transport_socket"]["typed_config"]["common_tls_context"]
    names = tls.pop("combined_validation_context")["default_validation_context"]
    tls["validation_context"] = {**names, "trusted_ca": {"inline_string": pem}}
    return config


async def answers(envoy: Envoy, outbound: PipeAddress, status: int) -> None:
    """Waits until a call through it is answered so."""
    async with asyncio.timeout(30):
        while (await get(outbound)).status != status:
            assert envoy.process.poll() is None
            await asyncio.sleep(0.05)


async def forced_root(server: Server) -> tuple[str, str]:
    """A new root, in use though somebody is not known to trust it; its id, and its certificate as PEM."""
    await command(server, "rotate", "root", "--yes")
    reply = await until(server, lambda reply: bool(reply.rotation.successor), "a successor")
    new = next(a for a in reply.authorities if a.id == reply.rotation.successor)
    await command(server, "authority", "activate", new.id, "--force", "--reason", "test")
    return new.id, der_to_pem(new.certificate)


@pytest.mark.parametrize("cross_sign", [True, False])
async def test_an_envoy_that_knows_only_the_old_root_takes_a_crossed_chain(short_tmp: Path, cross_sign: bool) -> None:
    async with site(short_tmp, cross_sign=cross_sign) as (server, configs), AsyncExitStack() as stack:
        old = await asyncio.to_thread(server.bundle)
        service = await stack.enter_async_context(running(configs["service"].as_dict(), short_tmp, name="service"))
        client = await stack.enter_async_context(running(trusting(configs["client"], old), short_tmp, name="client"))
        for envoy in (service, client):
            await envoy.live()
        outbound = PipeAddress(str(short_tmp / "out.sock"))
        await answers(client, outbound, 200)

        new, pem = await forced_root(server)
        await serve_under(server, (service, client), new)
        await answers(client, outbound, 200 if cross_sign else 503)

        other = PipeAddress(str(short_tmp / "other.sock"))
        ahead = replace(
            configs["client"],
            node_id="ahead",
            admin=admin_pipe(short_tmp, "ahead"),
            outbound=tuple(replace(each, listen=other) for each in configs["client"].outbound),
        )
        newcomer = await stack.enter_async_context(running(trusting(ahead, pem), short_tmp, name="ahead"))
        await newcomer.live()
        await answers(newcomer, other, 200)

        await until(server, lambda reply: trusted(reply) == [new], "the old root to leave", 90)
        assert roots(await standing(server)) == [new]
        await answers(newcomer, other, 200)
        await answers(client, outbound, 503)  # no chain leads to the old root any more
