"""Relying parties without an agent in a rotation of the root: clients that only renew, Envoys that ask the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshca.compile.envoy_addresses import PipeAddress, TcpAddress
from meshca.compile.envoy_bootstrap import AGENT_CLUSTER, UPSTREAM, EnvoyBootstrap, Outbound
from meshca.spiffe.ids import TrustDomain
from tests.envoys import admin_pipe, running
from tests.flows.foreign import Cluster, enrol, renew
from tests.flows.meshes import CLIENT, SERVICE, mesh
from tests.flows.rotations import (
    laggards,
    roots,
    rotating,
    rotation,
    rotation_status,
    serve_under,
    standing,
    until,
    until_phase,
)
from tests.load import Load
from tests.programs import TRUST_DOMAIN, Server

pytestmark = pytest.mark.slow

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


async def test_a_client_that_only_renews_is_waited_for_until_its_old_certificate_ends(short_tmp: Path) -> None:
    cluster = Cluster(short_tmp)
    async with Server(short_tmp, rotating(60) + cluster.config) as server:
        first = await enrol(server, cluster.token(CLIENT), 8)
        async with rotation(server, "--linger", "0s") as watched:
            await until(server, lambda reply: laggards(reply) == {str(CLIENT)}, "the client to be named")
            (laggard,) = (await rotation_status(server))["coverage"]["laggards"]
            assert (laggard["channel"], laggard["bundle_sequence"]) == ("certificate", 1)
            assert laggard["serial"] == f"{first.leaf.serial_number:x}"

            second = await renew(server, first, 18)
            assert len(x509.load_pem_x509_certificates(second.roots)) == 2
            # the answer may have been lost on its way: what counts is that the one from before has ended
            reply = await until(server, lambda reply: not laggards(reply), "the client to be covered")
            assert reply.now >= int(first.leaf.not_valid_after_utc.timestamp())

            await until_phase(server, "renewing", "retiring", "idle")
            third = await enrol(server, cluster.token(CLIENT), 60)
            assert "every certificate that is in use is under" in await watched.ends()
        (old,) = [a for a in reply.authorities if a.kind == "root" and a.state == "active"]
        (new,) = [a for a in (await standing(server)).authorities if a.kind == "root" and a.state == "active"]
        assert new.id != old.id
        third.verify(new.certificate)


@pytest.mark.envoy
async def test_an_envoy_that_has_its_trust_from_the_server_itself_follows(short_tmp: Path) -> None:
    cluster = Cluster(short_tmp)
    async with mesh(short_tmp, ttl_seconds=60, server_config=rotating(60) + cluster.config) as running_mesh:
        server = running_mesh.server
        held = await enrol(server, cluster.token(CLIENT), 300)
        entry = PipeAddress(str(short_tmp / "direct-out.sock"))
        config = direct(
            short_tmp, server, held.write(short_tmp / "held"), Outbound(entry, running_mesh.inbound, SERVICE)
        )
        async with running(config, short_tmp, name="direct") as envoy:
            await envoy.live()
            async with Load(entry) as load, rotation(server):
                # its static certificate stays under the old root, so the rotation cannot end
                reply = await until_phase(server, "renewing")
                (new,) = roots(reply, "active")
                await serve_under(server, running_mesh.envoys.values(), new)
                await load.reach(50)
        assert load.failed == []


def direct(directory: Path, server: Server, held: Path, outbound: Outbound) -> dict[str, Any]:
    """A sidecar without an agent: its certificate is in files, its trust comes by SDS from the server."""
    config = EnvoyBootstrap(
        agent_socket=PipeAddress("/unused"),
        trust_domain=TrustDomain(TRUST_DOMAIN),
        node_id="direct",
        outbound=(outbound,),
        admin=admin_pipe(directory, "direct"),
        max_requests_per_connection=1,
    ).as_dict()
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    certificate = {
        "certificate_chain": {"filename": str(held / "chain.pem")},
        "private_key": {"filename": str(held / "key.pem")},
    }
    tls = clusters[UPSTREAM]["transport_socket"]["typed_config"]["common_tls_context"]
    del tls["tls_certificate_sds_secret_configs"]
    tls["tls_certificates"] = [certificate]
    host, _, port = server.facts["mtls"].rpartition(":")
    (endpoint,) = clusters[AGENT_CLUSTER]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"] = TcpAddress(host, int(port)).as_envoy()
    clusters[AGENT_CLUSTER]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS,
            "common_tls_context": {
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["h2"],
                "tls_certificates": [certificate],
                "validation_context": {"trusted_ca": {"filename": str(held / "roots.pem")}},
            },
        },
    }
    return config
