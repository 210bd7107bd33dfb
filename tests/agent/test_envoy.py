"""What only a real Envoy shows of an agent: aggregated discovery, secrets by SPIFFE id, a server that lies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshca.compile.envoy_addresses import PipeAddress
from meshca.compile.envoy_bootstrap import EnvoyBootstrap, Inbound
from meshca.demo.traffic import Service
from meshca.spiffe.ids import TrustDomain
from tests.agent.sites import BEARER, JOIN, Site
from tests.agent.test_authority import HOSTILE
from tests.envoys import Envoy, admin_pipe, running
from tests.fakes.certificate_authority import SPIFFE_ID, TRUST_DOMAIN, Behaviour, FakeAuthority
from tests.fakes.clock import OffsetClock
from tests.load import get

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

LIFE = timedelta(minutes=10)


@pytest.fixture
async def ca() -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,)) as authority:
        yield authority


@pytest.fixture
def site(short_tmp: Path, ca: FakeAuthority) -> Site:
    return Site(short_tmp, ca)


def sidecar(site: Site, *, delta: bool = False) -> dict[str, Any]:
    """An Envoy that admits the whole trust domain to the application."""
    inbound = Inbound(PipeAddress(str(site.directory / "in.sock")), PipeAddress(str(site.directory / "app.sock")))
    return EnvoyBootstrap(
        agent_socket=PipeAddress(str(site.socket)),
        trust_domain=TrustDomain(TRUST_DOMAIN),
        inbound=inbound,
        admin=admin_pipe(site.directory),
        delta=delta,
    ).as_dict()


def common_tls(config: dict[str, Any]) -> dict[str, Any]:
    (listener,) = config["static_resources"]["listeners"]
    tls: dict[str, Any] = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    return tls


def over_ads(config: dict[str, Any]) -> dict[str, Any]:
    """The same, but both secrets come over one aggregated stream."""
    tls = common_tls(config)
    references = (
        *tls["tls_certificate_sds_secret_configs"],
        tls["combined_validation_context"]["validation_context_sds_secret_config"],
    )
    source = references[0]["sds_config"]["api_config_source"]
    for reference in references:
        reference["sds_config"] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {**config, "dynamic_resources": {"ads_config": source}}


def by_spiffe_id(config: dict[str, Any]) -> dict[str, Any]:
    """The same, but the secrets are asked for by the ids that they stand for."""
    tls = common_tls(config)
    tls["tls_certificate_sds_secret_configs"][0]["name"] = SPIFFE_ID
    tls["combined_validation_context"]["validation_context_sds_secret_config"]["name"] = f"spiffe://{TRUST_DOMAIN}"
    return config


class Door:
    """An Envoy with the agent's secrets before an application, and a caller at its door."""

    def __init__(self, envoy: Envoy, address: PipeAddress, caller: ssl.SSLContext) -> None:
        self.envoy = envoy
        self._address = address
        self._caller = caller

    async def knock(self) -> None:
        """One request with a handshake of its own, which must not fail."""
        assert (await get(self._address, tls=self._caller)).status == 200

    async def renewed(self) -> None:
        """Knocks until another certificate is in use."""
        before = self.envoy.leaf_serials()
        async with asyncio.timeout(10):
            while self.envoy.leaf_serials() == before:
                await self.knock()
        await self.knock()
        assert not any(self.envoy.stats("update_rejected").values())


@asynccontextmanager
async def door(site: Site, config: dict[str, Any]) -> AsyncIterator[Door]:
    service = Service(site.directory / "app.sock")
    await service.start()
    try:
        async with running(config, site.directory) as envoy:
            await envoy.live()
            yield Door(envoy, PipeAddress(str(site.directory / "in.sock")), caller(site))
    finally:
        await service.stop()


def caller(site: Site) -> ssl.SSLContext:
    """A client that trusts the roots and shows the agent's first certificate, from the files that it wrote."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # SPIFFE ids are no host names
    context.load_verify_locations(site.output / "root-cert.pem")
    context.load_cert_chain(site.output / "cert-chain.pem", site.output / "key.pem")
    return context


def pass_half_a_life(clock: OffsetClock, ca: FakeAuthority) -> None:
    """For the agent alone; what it gets from then on lives for ten minutes of its time."""
    clock.offset += timedelta(minutes=6)
    ca.behaviour = Behaviour(ttl=clock.offset + LIFE)


@pytest.mark.parametrize("change", [over_ads, by_spiffe_id])
@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_secrets_are_renewed_without_a_failed_request(
    site: Site, ca: FakeAuthority, change: Callable[[dict[str, Any]], dict[str, Any]], delta: bool
) -> None:
    ca.behaviour, clock = Behaviour(ttl=LIFE), OffsetClock()
    async with site.running(clock):
        await site.is_ready()
        async with door(site, change(sidecar(site, delta=delta))) as entrance:
            await entrance.knock()
            for _ in range(2):
                pass_half_a_life(clock, ca)
                await entrance.renewed()


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
async def test_an_envoy_on_ads_is_renewed_by_an_agent_that_restarted(
    site: Site, ca: FakeAuthority, delta: bool
) -> None:
    ca.behaviour, clock = Behaviour(ttl=LIFE), OffsetClock()
    async with AsyncExitStack() as stack:
        async with site.running(clock):
            await site.is_ready()
            entrance = await stack.enter_async_context(door(site, over_ads(sidecar(site, delta=delta))))
        await entrance.knock()
        async with site.running(clock):
            await site.is_ready()
            await entrance.knock()
            pass_half_a_life(clock, ca)
            await entrance.renewed()


LIES = (
    "a certificate for another key",
    "another identity",
    "a chain to no root of the bundle",
    "no certificate at all",
    "an empty bundle",
    "other roots under the same sequence",
)


async def test_lies_of_the_server_reach_no_envoy_and_it_goes_on_serving(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour, clock = Behaviour(ttl=LIFE), OffsetClock()
    with capture_logs() as logs:
        async with site.running(clock):
            await site.is_ready()
            async with door(site, sidecar(site)) as entrance:
                envoy = entrance.envoy
                held, attempts = envoy.leaf_serials(), envoy.stats("update_success")
                clock.offset += timedelta(minutes=6)
                for number, lie in enumerate(LIES, start=1):
                    ca.behaviour, _ = HOSTILE[lie]
                    async with asyncio.timeout(10):
                        while sum(event["event"] == "renewal_failed" for event in logs) < number:
                            await entrance.knock()
                assert envoy.leaf_serials() == held
                assert envoy.stats("update_success") == attempts, "nothing was sent"
                ca.behaviour = Behaviour(ttl=clock.offset + LIFE)
                await entrance.renewed()
    reasons = " ".join(event["reason"] for event in logs if event["event"] == "renewal_failed")
    assert all(HOSTILE[lie][1] in reasons for lie in LIES)
