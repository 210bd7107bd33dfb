"""A rotation of the root moves on evidence: it waits for whoever is not known to trust the next root, and names him."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from meshca.errors import MeshcaError
from meshca.spiffe.bundles import TrustBundle
from meshca.spiffe.ids import TrustDomain
from meshca.spiffe.verification import verify_x509_svid
from tests.agent.discovery import Sotw
from tests.agent.discovery import roots as roots_in
from tests.flows.meshes import CLIENT, SERVICE, mesh
from tests.flows.rotations import (
    command,
    laggards,
    paused,
    resume,
    roots,
    rotating,
    rotation,
    rotation_status,
    serve_under,
    standing,
    successor,
    until,
    until_named,
)
from tests.load import Load
from tests.programs import TRUST_DOMAIN, Agent, Server, meshca

pytestmark = pytest.mark.slow

WORKLOAD = str(SERVICE)


@asynccontextmanager
async def proxy(agent: Agent) -> AsyncIterator[tuple[Sotw, Sotw]]:
    """The trust and the identity of a proxy behind the agent, each on a stream of its own as Envoys have it; subscribed
    and accepted."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{agent.socket}", options=options) as channel:
        stub = SecretDiscoveryServiceStub(channel)
        trust, identity = (Sotw(stub.StreamSecrets(), node="scripted") for _ in range(2))
        for stream, name in ((trust, "ROOTCA"), (identity, "default")):
            await stream.subscribe(name)
            await stream.receive()
            await stream.ack()
        yield trust, identity


async def receives_a_certificate_under(root: bytes, identity: Sotw) -> None:
    """Accepts certificates until one is under that root."""
    bundle = TrustBundle(TrustDomain(TRUST_DOMAIN), (root,), 1)
    is_under = False
    while not is_under:
        secret = (await identity.receive(30))["default"]
        await identity.ack()
        is_under = _leads_to(bundle, secret.tls_certificate.certificate_chain.inline_bytes)


def _leads_to(bundle: TrustBundle, chain_pem: bytes) -> bool:
    chain = [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(chain_pem)]
    try:
        verify_x509_svid(chain, {bundle.trust_domain: bundle}, now=datetime.now(UTC))
    except MeshcaError:
        return False
    return True


async def test_a_proxy_that_holds_back_its_ack_is_waited_for_and_named(short_tmp: Path) -> None:
    async with (
        Server(short_tmp, rotating(20)) as server,
        Agent(server, short_tmp, WORKLOAD) as agent,
        proxy(agent) as (trust, identity),
        rotation(server, "--linger", "0s") as watched,
    ):
        assert roots_in((await trust.receive(20))["ROOTCA"]) == 2
        reply = await until_named(server, WORKLOAD)
        assert not watched.is_over
        assert reply.rotation.phase == "distributing"
        (laggard,) = (await rotation_status(server))["coverage"]["laggards"]
        assert (laggard["spiffe_id"], laggard["channel"], laggard["bundle_sequence"]) == (WORKLOAD, "stream", 1)

        await trust.ack()
        new = successor(reply)
        await receives_a_certificate_under(new.certificate, identity)
        assert "every certificate that is in use is under root" in await watched.ends()
        assert roots(await standing(server), "active") == [new.id]


async def test_a_proxy_that_refuses_the_next_root_is_named_with_its_reason_until_it_is_well(short_tmp: Path) -> None:
    async with (
        Server(short_tmp, rotating(20)) as server,
        Agent(server, short_tmp, WORKLOAD) as agent,
        proxy(agent) as (trust, identity),
        rotation(server, "--linger", "0s") as watched,
    ):
        await trust.receive(20)
        await trust.nack("no room for a bundle\nPRIVATE KEY: MHcCAQEE")
        reply = await until_named(server, WORKLOAD)
        assert not watched.is_over
        (laggard,) = (await rotation_status(server))["coverage"]["laggards"]
        assert laggard["refusal"] == "proxy scripted refused it: no room for a bundle [redacted]"
        assert "refuses: proxy scripted" in await command(server, "rotate", "status")

        async with proxy(agent):  # it is back with streams that accept it
            trust.call.cancel()
            await receives_a_certificate_under(successor(reply).certificate, identity)
            assert "every certificate that is in use is under root" in await watched.ends()
        assert roots(await standing(server), "active") == [successor(reply).id]


@pytest.mark.envoy
async def test_agents_that_are_away_for_the_whole_rotation_are_waited_for(short_tmp: Path) -> None:
    async with (
        mesh(short_tmp, ttl_seconds=30, server_config=rotating(30)) as running_mesh,
        Load(running_mesh.outbound) as load,
    ):
        server, agents = running_mesh.server, running_mesh.agents
        agents["client"].kill()
        with paused(agents["service"]):
            async with rotation(server, "--linger", "0s") as watched:
                reply = await until_named(server, str(CLIENT), str(SERVICE))
                assert not watched.is_over
                await agents["client"].start()
                await until(server, lambda reply: laggards(reply) == {str(SERVICE)}, "the one to be back")
                resume(agents["service"])
                assert "every certificate that is in use is under root" in await watched.ends()
        await serve_under(server, running_mesh.envoys.values(), successor(reply).id)
        await load.reach(50)
    assert load.failed == []


@pytest.mark.envoy
async def test_a_root_that_is_forced_upon_a_mesh_without_evidence_loses_requests(short_tmp: Path) -> None:
    """What the gate is for: the control of all tests in which no request fails."""
    async with mesh(short_tmp, ttl_seconds=60, server_config=rotating(60)) as running_mesh:
        server = running_mesh.server
        with paused(running_mesh.agents["service"]):
            async with Load(running_mesh.outbound) as load:
                await command(server, "authority", "prepare", "root", "--reason", "control")
                (new,) = roots(await standing(server), "prepared")
                await asyncio.to_thread(meshca, "authority", "activate", new, "--data-dir", server.data_dir, status=5)
                assert load.failed == []
                await command(server, "authority", "activate", new, "--force", "--reason", "control")
                async with asyncio.timeout(30):
                    while not load.failed:
                        await load.reach(1)
        assert "503" in load.failed[0]
        await serve_under(server, running_mesh.envoys.values(), new)
        async with Load(running_mesh.outbound) as load:
            await load.reach(50)
        assert load.failed == []
