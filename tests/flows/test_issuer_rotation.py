"""Identities and the issuing CA change at the same time, under load: each request has a new handshake, none fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.flows.meshes import mesh
from tests.load import Load
from tests.programs import TRUST_DOMAIN, meshca

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

# Issuing CAs are backdated by a minute: of 160 s, 0.4 end four seconds after they are made.
CONFIG = """\
tick = "1s"
[leaf]
default_ttl = "3s"
max_ttl = "60s"
backdate = "1s"
[issuer]
ttl = "100s"
prepare_at = 0.385
activate_at = 0.4
"""


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_the_issuing_ca_changes_under_load_and_no_request_fails(short_tmp: Path, delta: bool) -> None:
    meshca("init", "--data-dir", short_tmp / "ca", "--trust-domain", TRUST_DOMAIN, "--issuer-ttl", "100s")
    async with mesh(short_tmp, ttl_seconds=3, delta=delta, server_config=CONFIG) as running_mesh:
        served: dict[str, set[str]] = {"client": set(), "service": set()}
        async with Load(running_mesh.outbound) as load, asyncio.timeout(30):
            while any(len(issuers) < 4 for issuers in served.values()):
                seen = await running_mesh.renewals(1)
                issuer_of = {record["serial"]: record["issuer_id"] for record in running_mesh.server.ledger()}
                for name, serials in seen.items():
                    served[name] |= {issuer_of[serial] for serial in serials}
            await load.reach(20)
        assert load.failed == []
        assert load.sent > 100
        handshakes = running_mesh.envoys["client"].stats("ssl.handshake")
        assert max(handshakes.values()) >= load.sent
        for envoy in running_mesh.envoys.values():
            assert {name: n for name, n in envoy.stats("update_rejected").items() if n} == {}
