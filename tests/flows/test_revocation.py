"""Who is revoked is refused by every connected proxy within a second, and nobody else notices: real Envoys, a new
handshake for each request."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound, Outbound
from meshca.spiffe.ids import SpiffeId, TrustDomain
from tests.application import application
from tests.envoys import Envoy, admin_pipe, running
from tests.load import Load, get
from tests.programs import MESHCA, TRUST_DOMAIN, Agent, Server, meshca

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

ID = TrustDomain(TRUST_DOMAIN)
BAD, GOOD, SERVICE = (SpiffeId(ID, f"/ns/flow/sa/{name}") for name in ("bad", "good", "service"))
SECONDS = 60.0

CONFIG = """\
tick = "1s"
[leaf]
default_ttl = "8s"
max_ttl = "1h"
backdate = "1s"
[rotation]
soak = "1s"
confirm_within = "2s"
[revocation]
crl_url = "http://ca.flow.test/crl"
"""


@dataclass
class Mesh:
    """A service with a sidecar, and two callers with one each."""

    server: Server
    agents: dict[str, Agent]
    envoys: dict[str, Envoy]
    directory: Path

    def outbound(self, name: str) -> PipeAddress:
        return PipeAddress(str(self.directory / f"{name}-out.sock"))

    def run(self, *words: object) -> str:
        return meshca(*words, "--data-dir", self.server.data_dir)

    async def status_of(self, name: str) -> int:
        """What the caller of that name gets now."""
        return (await get(self.outbound(name))).status

    async def until_status(self, name: str, status: int, seconds: float = SECONDS) -> float:
        """Waits until the caller gets that; how long that took."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while await self.status_of(name) != status:
                await asyncio.sleep(0.005)
        return time.monotonic() - began

    def no_refused_update(self) -> None:
        for envoy in self.envoys.values():
            assert {name: n for name, n in envoy.stats("update_rejected").items() if n} == {}


@asynccontextmanager
async def mesh(directory: Path, config: str = CONFIG, *, delta: bool = False) -> AsyncIterator[Mesh]:
    app, inbound = (PipeAddress(str(directory / f"{name}.sock")) for name in ("app", "in"))
    sides = {
        "service": {"inbound": Inbound(inbound, app, (BAD, GOOD))},
        "bad": {"outbound": (Outbound(PipeAddress(str(directory / "bad-out.sock")), inbound, SERVICE),)},
        "good": {"outbound": (Outbound(PipeAddress(str(directory / "good-out.sock")), inbound, SERVICE),)},
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory, config))
        agents = {
            identity.path.rpartition("/")[2]: await stack.enter_async_context(
                Agent(server, directory, str(identity), "--output-dir", str(directory / f"{identity.path[-3:]}-files"))
            )
            for identity in (BAD, GOOD, SERVICE)
        }
        await stack.enter_async_context(application(directory / "app.sock"))
        envoys = {}
        for name, side in sides.items():
            bootstrap = EnvoyBootstrap(
                agent_socket=PipeAddress(str(directory / f"{name}-run" / "agent.sock")),
                trust_domain=ID,
                node_id=name,
                admin=admin_pipe(directory, name),
                delta=delta,
                max_requests_per_connection=1,
                **side,  # type: ignore[arg-type]  # either side of a sidecar
            )
            envoys[name] = await stack.enter_async_context(running(bootstrap.as_dict(), directory, name=name))
        for envoy in envoys.values():
            await envoy.live()
        yield Mesh(server, agents, envoys, directory)


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_who_is_revoked_is_refused_within_a_second_and_its_neighbour_sees_nothing(
    short_tmp: Path, delta: bool
) -> None:
    async with mesh(short_tmp, CONFIG.replace('"8s"', '"120s"'), delta=delta) as flow:
        assert await flow.status_of("bad") == 200
        async with Load(flow.outbound("good")) as load:
            await load.reach(20)
            revoke = ("revoke", "--spiffe-id", str(BAD), "--reason", "stolen", "--yes")
            await asyncio.to_thread(flow.run, *revoke)
            assert await flow.until_status("bad", 503, seconds=5) < 1.0
            await load.reach(50)
            assert "fail_verify_error" in str(flow.envoys["service"].stats("ssl.fail_verify_error"))
            assert max(flow.envoys["service"].stats("ssl.fail_verify_error").values()) > 0
            await asyncio.to_thread(flow.run, "unban", "--spiffe-id", str(BAD))
            assert await flow.until_status("bad", 200, seconds=5) < 1.0
            await load.reach(20)
        assert load.failed == []
        flow.no_refused_update()


async def test_one_certificate_is_revoked_and_its_workload_comes_back_with_another(short_tmp: Path) -> None:
    async with mesh(short_tmp, CONFIG.replace('"8s"', '"120s"')) as flow:
        (record,) = flow.server.ledger("--spiffe-id", str(GOOD))
        await asyncio.to_thread(flow.run, "revoke", "--serial", record["serial"], "--reason", "exposed", "--yes")
        await flow.until_status("good", 503, seconds=5)
        assert await flow.status_of("bad") == 200
        lists = (short_tmp / "ice-files" / "crl.pem").read_bytes()
        crl = x509.load_pem_x509_crl(lists)
        assert [f"{entry.serial_number:x}" for entry in crl] == [record["serial"]]
        address = f"http://{flow.server.facts['http']}/crl/{record['issuer_id']}"
        with await asyncio.to_thread(urlopen, address) as answer:
            assert answer.headers["content-type"] == "application/pkix-crl"
            assert x509.load_der_x509_crl(answer.read()) == crl
            tag = answer.headers["etag"]
        leaf = x509.load_pem_x509_certificates((short_tmp / "ice-files" / "cert-chain.pem").read_bytes())[0]
        (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert point.full_name is not None
        assert point.full_name[0].value.startswith("http://ca.flow.test/crl/")
        await asyncio.to_thread(flow.run, "unban", "--serial", record["serial"][:10])
        await flow.until_status("good", 200, seconds=5)
        async with asyncio.timeout(SECONDS):
            while (short_tmp / "ice-files" / "crl.pem").exists():
                await asyncio.sleep(0.02)
        with await asyncio.to_thread(urlopen, address) as answer:
            assert list(x509.load_der_x509_crl(answer.read())) == [], "there is one as long as leaves name the place"
            assert answer.headers["etag"] != tag


async def test_the_root_and_the_issuing_ca_change_while_lists_are_in_use_and_no_request_fails(short_tmp: Path) -> None:
    async with mesh(short_tmp) as flow:
        await asyncio.to_thread(flow.run, "revoke", "--spiffe-id", str(BAD), "--reason", "stolen", "--yes")
        await flow.until_status("bad", 503, seconds=5)
        async with Load(flow.outbound("good")) as load:
            await load.reach(20)
            rotate = ("rotate", "root", "--wait", "--yes", "-o", "json")
            await asyncio.to_thread(flow.run, *rotate)
            await load.reach(50)
        assert load.failed == []
        assert load.sent > 100
        assert await flow.status_of("bad") == 503
        issuers = {record["issuer_id"] for record in flow.server.ledger("--spiffe-id", str(GOOD))}
        assert len(issuers) == 2, "the new root brings an issuing CA of its own"
        flow.no_refused_update()


async def test_another_issuing_ca_is_used_only_once_its_list_is_everywhere_and_no_request_fails(
    short_tmp: Path,
) -> None:
    async with mesh(short_tmp, CONFIG.replace('"8s"', '"6s"')) as flow:
        await asyncio.to_thread(flow.run, "revoke", "--spiffe-id", str(BAD), "--reason", "stolen", "--yes")
        await flow.until_status("bad", 503, seconds=5)
        async with Load(flow.outbound("good")) as load:
            made = await asyncio.to_thread(
                flow.run, "authority", "prepare", "issuer", "--reason", "spare", "-o", "json"
            )
            issuer_id = json.loads(made)["id"]
            activate = ("authority", "activate", issuer_id, "--data-dir", flow.server.data_dir)
            assert "revocation list" in await asyncio.to_thread(meshca, *activate, status=5)
            # who is revoked keeps its streams closed, and is not waited for
            async with asyncio.timeout(SECONDS):
                while not await asyncio.to_thread(is_done, *activate):
                    pass
                while not any(
                    record["issuer_id"] == issuer_id
                    for record in await asyncio.to_thread(flow.server.ledger, "--spiffe-id", str(SERVICE))
                ):
                    pass
            await load.reach(100)
        assert load.failed == []
        assert await flow.status_of("bad") == 503
        flow.no_refused_update()


def is_done(*words: object) -> bool:
    """Whether the command ends well; refused as a conflict, it is to be tried again."""
    done = subprocess.run([*MESHCA, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 5), done.stderr
    return done.returncode == 0
