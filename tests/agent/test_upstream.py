"""The agent's stream to the server: bundles come down, and are acknowledged once everybody behind it has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from structlog.testing import capture_logs

from meshca.agent.agent import Agent
from meshca.agent.memory import ProxyFile
from meshca.agent.upstream import MAX_WAIT, reconnect_delay
from meshca.proto.meshca.v1 import certificates_pb2
from meshca.spiffe.bundles import TrustBundle
from tests.agent.discovery import Delta, Sotw, roots, serial, until
from tests.agent.nursery import Nursery
from tests.agent.sites import BEARER, JOIN, Site
from tests.assets.crls import a_list, with_lists
from tests.fakes.certificate_authority import TRUST_DOMAIN, Behaviour, FakeAuthority, fresh_root
from tests.fakes.clock import OffsetClock
from tests.fakes.hub import DIRECTIVE_TYPE, FakeHub
from tests.svids import bundle_of

TD = f"spiffe://{TRUST_DOMAIN}"
BOTH = ("default", "ROOTCA")


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
async def ca(hub: FakeHub) -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,), hub=hub) as authority:
        hub.offer(bundle_of(TRUST_DOMAIN, authority.root))
        yield authority


@pytest.fixture
def site(short_tmp: Path, ca: FakeAuthority) -> Site:
    return Site(short_tmp, ca)


@asynccontextmanager
async def connected(site: Site, hub: FakeHub, **how: Any) -> AsyncIterator[Agent]:
    """An agent whose stream has brought it the first bundle, and which had nobody to wait for."""
    before = len(hub.acked)
    async with site.running(**how) as agent:
        await site.is_ready()
        await until(lambda: len(hub.acked) > before)
        yield agent


def next_bundle(ca: FakeAuthority, sequence: int = 2, roots: int = 2) -> TrustBundle:
    """What a rotation adds: new roots beside the old one. Certificates come with it, too, from now on."""
    ca.roots = (ca.root, *(fresh_root(f"root {sequence}-{n}") for n in range(1, roots)))
    ca.sequence = sequence
    return bundle_of(TRUST_DOMAIN, *ca.roots, sequence=sequence)


def debtors(agent: Agent) -> set[str]:
    return {debt.node_id for debt in agent._holding._hub.debts()}


class Proxy:
    """A proxy on a connection of its own; `go` ends all of that at once."""

    def __init__(self, site: Site, node: str, variant: str = "sotw", service: str = "sds") -> None:
        self.channel = site.channel()
        if service == "sds":
            sds = SecretDiscoveryServiceStub(self.channel)
            call = sds.StreamSecrets if variant == "sotw" else sds.DeltaSecrets
        else:
            ads = AggregatedDiscoveryServiceStub(self.channel)
            call = ads.StreamAggregatedResources if variant == "sotw" else ads.DeltaAggregatedResources
        self.stream: Sotw | Delta = (Sotw if variant == "sotw" else Delta)(call(), node)

    async def joins(self, agent: Agent, *names: str) -> Proxy:
        await self.stream.subscribe(*(names or BOTH))
        await self.stream.receive()
        await self.stream.ack()
        await until(lambda: self.stream.node not in debtors(agent))
        return self

    async def gets(self, count: int) -> None:
        """Waits for a bundle of so many roots, and takes what comes before."""
        secrets = await self.stream.receive()
        while "ROOTCA" not in secrets:
            await self.ack()
            secrets = await self.stream.receive()
        assert roots(secrets["ROOTCA"]) == count

    async def ack(self) -> None:
        await self.stream.ack()

    async def nack(self, reason: str) -> None:
        await self.stream.nack(reason)

    async def go(self, agent: Agent) -> None:
        streams = agent._holding._hub._streams
        before = len(streams)
        await self.channel.close()
        await until(lambda: len(streams) < before)


def events(logs: list[Any], name: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == name]


# A bundle


async def test_a_bundle_comes_without_a_renewal_and_is_saved_written_and_served(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    with capture_logs() as logs:
        async with connected(site, hub) as agent:
            assert hub.nodes == ["spiffe://example.org/ns/shop/sa/cart"]
            first = agent.identity
            assert first is not None
            hub.offer(next_bundle(ca))
            await until(lambda: hub.acked == ["1", "2"])
            assert agent.identity is not None
            assert (agent.identity.serial, agent.identity.bundle.sequence) == (first.serial, 2)
            assert roots((await site.fetch())["ROOTCA"]) == 2
            assert serial((await site.fetch())["default"]) == first.serial
            written = (site.output / "root-cert.pem").read_bytes()
            assert len(x509.load_pem_x509_certificates(written)) == 2
            state = json.loads((site.socket.parent / "state" / "identity.json").read_text())
            assert (state["bundle"]["sequence"], len(state["bundle"]["x509_authorities"])) == (2, 2)
    assert len(ca.calls) == 1
    (received,) = events(logs, "bundle_received")
    assert received["sequence"] == 2
    last = events(logs, "bundle_acknowledged")[-1]
    assert last["sequence"] == 2
    assert last["waited_seconds"] >= 0


async def test_it_is_not_acknowledged_while_it_is_neither_saved_nor_in_the_files(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub):
        (site.output / "...data.tmp").mkdir(parents=True)
        hub.offer(next_bundle(ca))
        async with asyncio.timeout(5):
            while roots((await site.fetch())["ROOTCA"]) != 2:
                await asyncio.sleep(0.002)
        await hub.heard_all()
        assert hub.acked == ["1"]
        (site.output / "...data.tmp").rmdir()
        await until(lambda: hub.acked == ["1", "2"])
        assert len(x509.load_pem_x509_certificates((site.output / "root-cert.pem").read_bytes())) == 2


MADE_WRONG = {
    "no message": (b"\xff\xff\xff", "is no meshca.v1.TrustBundle"),
    "nothing at all": (b"", "trust domain"),
    "empty": (certificates_pb2.TrustBundle(trust_domain=TRUST_DOMAIN, sequence=2).SerializeToString(), "is empty"),
    "no certificate": (
        certificates_pb2.TrustBundle(
            trust_domain=TRUST_DOMAIN, sequence=2, x509_authorities=[b"junk"]
        ).SerializeToString(),
        "no certificate",
    ),
    "huge": (
        certificates_pb2.TrustBundle(
            trust_domain=TRUST_DOMAIN, sequence=2, x509_authorities=[b"x" * 10_000 for _ in range(250)]
        ).SerializeToString(),
        "at most 200",
    ),
}


def encoded(bundle: TrustBundle) -> bytes:
    return certificates_pb2.TrustBundle(
        trust_domain=bundle.trust_domain.name, x509_authorities=bundle.x509_authorities, sequence=bundle.sequence
    ).SerializeToString()


async def test_revocation_lists_come_with_a_bundle_and_are_served_written_and_kept(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    now = datetime.now(UTC)
    issuer = ca.root.intermediate("issuer")
    async with connected(site, hub) as agent:
        hub.offer(with_lists(bundle_of(TRUST_DOMAIN, ca.root, sequence=2), a_list(issuer, now, 5)))
        await until(lambda: hub.acked[-1] == "2")
        context = (await site.fetch())["ROOTCA"].validation_context
        assert context.only_verify_leaf_cert_crl
        served = x509.load_pem_x509_crl(context.crl.inline_bytes)
        assert [entry.serial_number for entry in served] == [5]
        assert (site.output / "crl.pem").read_bytes() == context.crl.inline_bytes
        state = site.socket.parent / "state" / "identity.json"
        saved = json.loads(state.read_text())["bundle"]["revocation_lists"]
        assert len(saved) == 1
        held = agent.identity

        # one that must not be served is refused with the bundle that it came in: without it, who is revoked would be
        # accepted again
        broken = a_list(issuer, now, signer=ca.root)
        hub.offer(with_lists(bundle_of(TRUST_DOMAIN, ca.root, sequence=3), broken))
        await until(lambda: bool(hub.nacked))
        assert "revocation list 0 of the trust bundle has a signature that does not verify" in hub.nacked[0].reason
        assert agent.identity is held
        assert (await site.fetch())["ROOTCA"].validation_context == context

        hub.offer(bundle_of(TRUST_DOMAIN, ca.root, sequence=4))
        await until(lambda: hub.acked[-1] == "4")
        assert not (await site.fetch())["ROOTCA"].validation_context.HasField("crl")
        assert not (site.output / "crl.pem").exists()


@pytest.mark.parametrize("case", [*MADE_WRONG, "foreign", "other roots", "backward", "does not vouch", "removed"])
async def test_a_bundle_that_must_not_be_believed_is_refused_and_changes_nothing(
    site: Site, ca: FakeAuthority, hub: FakeHub, case: str
) -> None:
    stranger = fresh_root("stranger")
    async with connected(site, hub) as agent:
        hub.offer(next_bundle(ca, 5))
        await until(lambda: hub.acked[-1] == "5")
        held = agent.identity
        files = (site.output / "..data").readlink()
        if case in MADE_WRONG:
            body, problem = MADE_WRONG[case]
        else:
            body, problem = {
                "foreign": (encoded(bundle_of("other.org", ca.root, sequence=6)), "is of other.org"),
                "other roots": (encoded(bundle_of(TRUST_DOMAIN, ca.root, stranger, sequence=5)), "other roots"),
                "backward": (encoded(bundle_of(TRUST_DOMAIN, ca.root, sequence=4)), "went back from sequence 5 to 4"),
                "does not vouch": (encoded(bundle_of(TRUST_DOMAIN, stranger, sequence=6)), "not"),
                "removed": (b"", ""),
            }[case]
        if case == "removed":
            hub.withdraw("type.googleapis.com/meshca.v1.TrustBundle")
            await hub.heard_all()
        else:
            hub.offer_raw(TD, body, f"bad {case}")
            await until(lambda: bool(hub.nacked))
            assert problem in hub.nacked[0].reason
        assert agent.identity is held
        assert (site.output / "..data").readlink() == files
        assert hub.acked[-1] == "5"
        hub.offer(next_bundle(ca, 7))
        await until(lambda: hub.acked[-1] == "7")


# Everybody behind the agent


VARIANTS = [("sotw", "sds"), ("delta", "sds"), ("sotw", "ads"), ("delta", "ads")]


@pytest.mark.parametrize(("variant", "service"), VARIANTS)
async def test_it_is_acknowledged_when_the_last_of_three_proxies_has_accepted_it(
    site: Site, ca: FakeAuthority, hub: FakeHub, variant: str, service: str
) -> None:
    async with connected(site, hub) as agent:
        proxies = [await Proxy(site, f"p{n}", variant, service).joins(agent) for n in range(3)]
        hub.offer(next_bundle(ca))
        for proxy in proxies:
            await proxy.gets(2)
        for proxy in proxies[:2]:
            await proxy.ack()
        await until(lambda: debtors(agent) == {"p2"})
        await hub.heard_all()
        assert hub.acked == ["1"]
        await proxies[2].ack()
        await until(lambda: hub.acked == ["1", "2"])


async def test_who_holds_it_back_is_told_in_the_log(site: Site, ca: FakeAuthority, hub: FakeHub) -> None:
    with capture_logs() as logs:
        async with connected(site, hub) as agent:
            slow = await Proxy(site, "slow").joins(agent)
            hub.offer(next_bundle(ca))
            await slow.gets(2)
            await until(lambda: bool(events(logs, "bundle_waits")))
            await slow.ack()
            await until(lambda: hub.acked == ["1", "2"])
    (waits,) = events(logs, "bundle_waits")
    assert (waits["sequence"], waits["nodes"], waits["count"]) == (2, ["slow"], 1)
    assert events(logs, "bundle_acknowledged")[-1]["waited_seconds"] >= 2


async def test_a_proxy_that_has_its_trust_elsewhere_is_not_waited_for(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        await Proxy(site, "files").joins(agent, "default")
        hub.offer(next_bundle(ca))
        await until(lambda: hub.acked == ["1", "2"])


async def test_while_it_waits_newer_bundles_are_served_and_all_are_acknowledged_in_order(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p").joins(agent)
        hub.offer(next_bundle(ca, 2))
        await proxy.gets(2)
        hub.offer(next_bundle(ca, 3, roots=3))
        await until(lambda: agent.identity is not None and agent.identity.bundle.sequence == 3)
        await proxy.ack()
        await proxy.gets(3)
        await hub.heard_all()
        assert hub.acked == ["1"], "the older one alone is of no use to anybody"
        await proxy.ack()
        await until(lambda: hub.acked == ["1", "2", "3"])


async def test_a_proxy_that_refuses_it_is_named_to_the_server_and_success_is_told_once_it_accepts(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        good = await Proxy(site, "good").joins(agent)
        bad = await Proxy(site, "bad-one").joins(agent)
        hub.offer(next_bundle(ca))
        for proxy in (good, bad):
            await proxy.gets(2)
        await good.ack()
        await bad.nack("Failed to load trusted CA -----BEGIN PRIVATE KEY-----MIGHAgEAMBMGByqGSM49")
        await until(lambda: bool(hub.nacked))
        (heard,) = hub.nacked
        assert heard.versions == {TD: "2"}
        assert "proxy bad-one refused it: Failed to load trusted CA" in heard.reason
        assert "PRIVATE KEY" not in heard.reason
        await hub.heard_all()
        assert "2" not in hub.acked
        await bad.go(agent)
        await until(lambda: debtors(agent) == {"bad-one"})  # away, with a certificate that is good for an hour
        await Proxy(site, "bad-one").joins(agent)
        await until(lambda: hub.acked[-1] == "2")
        assert len(hub.nodes) == 2, "by a new stream that names the version as held"


async def test_success_is_told_too_once_a_proxy_that_refused_it_is_gone_for_good(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock, token_file=site.token_file) as agent:
        proxy = await Proxy(site, "p").joins(agent)
        hub.offer(next_bundle(ca))
        await proxy.gets(2)
        await proxy.nack("no")
        await until(lambda: bool(hub.nacked))
        await proxy.go(agent)
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        clock.offset = timedelta(minutes=61)
        await until(lambda: hub.acked[-1] == "2")


async def test_a_newer_bundle_that_all_accept_ends_a_refusal(site: Site, ca: FakeAuthority, hub: FakeHub) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p", "delta").joins(agent)
        hub.offer(next_bundle(ca))
        await proxy.gets(2)
        await proxy.nack("no")
        await until(lambda: bool(hub.nacked))
        await proxy.gets(1)  # the last good one again
        await proxy.ack()
        hub.offer(next_bundle(ca, 3, roots=3))
        await proxy.gets(3)
        await proxy.ack()
        await until(lambda: hub.acked[-1] == "3")
        assert "2" not in hub.acked
        assert len(hub.nodes) == 1


# Proxies that are away


async def test_a_proxy_that_went_away_is_waited_for_until_it_is_back_and_accepts(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        gone = await Proxy(site, "gone").joins(agent)
        await gone.go(agent)
        hub.offer(next_bundle(ca))
        await until(lambda: debtors(agent) == {"gone"})
        await hub.heard_all()
        assert hub.acked == ["1"]
        await (await Proxy(site, "another").joins(agent)).go(agent)
        await hub.heard_all()
        assert hub.acked == ["1"]
        await Proxy(site, "gone").joins(agent)
        await until(lambda: hub.acked == ["1", "2"])


async def test_a_proxy_that_went_away_is_waited_for_until_its_last_certificate_has_ended(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock, token_file=site.token_file) as agent:
        await (await Proxy(site, "gone").joins(agent)).go(agent)
        hub.offer(next_bundle(ca))
        await until(lambda: debtors(agent) == {"gone"})
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        clock.offset = timedelta(minutes=59)
        await hub.heard_all()
        assert hub.acked == ["1"]
        clock.offset = timedelta(minutes=61)
        await until(lambda: hub.acked == ["1", "2"])


async def test_a_nameless_proxy_that_went_away_is_not_spoken_for_by_another(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock, token_file=site.token_file) as agent:
        await (await Proxy(site, "").joins(agent)).go(agent)
        hub.offer(next_bundle(ca))
        await until(lambda: debtors(agent) == {""})
        other = Proxy(site, "")
        await other.stream.subscribe(*BOTH)
        await other.stream.receive()
        await other.ack()
        await until(lambda: "ROOTCA" in agent._holding._hub.proxies.get("").accepted)  # type: ignore[union-attr]
        await hub.heard_all()
        assert hub.acked == ["1"]
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        clock.offset = timedelta(minutes=61)
        await until(lambda: hub.acked == ["1", "2"])


async def test_a_proxy_without_a_certificate_that_went_away_is_not_waited_for(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        await (await Proxy(site, "gone").joins(agent, "ROOTCA")).go(agent)
        hub.offer(next_bundle(ca))
        await until(lambda: hub.acked == ["1", "2"])


@asynccontextmanager
async def nursery(site: Site) -> AsyncIterator[Nursery]:
    arguments = ["--server", site.ca.token_address, "--trust-bundle", str(site.trust), "--socket", str(site.socket)]
    arguments += ["--token-file", str(site.token_file)]
    async with Nursery(site.directory / "agents.log", site.ready, arguments) as running:
        yield running


@pytest.mark.slow
async def test_an_agent_that_was_killed_still_waits_for_the_proxies_it_had(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with nursery(site) as agents:
        pid = await agents.start()
        await until(lambda: hub.acked == ["1"])
        stays, gone = Proxy(site, "stays"), Proxy(site, "gone")
        for proxy in (stays, gone):
            await proxy.stream.subscribe(*BOTH)
            await proxy.stream.receive()  # killed before it hears whether the proxies took it
        await agents.end(pid)
        for proxy in (stays, gone):
            await proxy.channel.close()
        hub.offer(next_bundle(ca))
        pid = await agents.start()
        await until(lambda: '"bundle_waits"' in agents.log.read_text())
        waits = next(json.loads(line) for line in agents.log.read_text().splitlines() if '"bundle_waits"' in line)
        assert waits["nodes"] == ["gone (away)", "stays (away)"]
        assert "2" not in hub.acked
        for node in ("stays", "gone"):
            assert "2" not in hub.acked
            back = Proxy(site, node)
            await back.stream.subscribe(*BOTH)
            await back.stream.receive()
            await back.ack()
        await until(lambda: hub.acked[-1] == "2")
        await agents.end(pid)
        pid = await agents.start()
        await until(lambda: hub.acked.count("2") == 2)  # what both accepted is known, though both are away


async def test_a_restarted_agent_stops_waiting_when_the_certificate_has_ended(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock, token_file=site.token_file) as agent:
        await (await Proxy(site, "gone").joins(agent)).go(agent)
    hub.offer(next_bundle(ca))
    async with site.running(clock, token_file=site.token_file) as agent:
        await until(lambda: debtors(agent) == {"gone"})
        await hub.heard_all()
        assert hub.acked == ["1"]
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        clock.offset = timedelta(minutes=61)
        await until(lambda: hub.acked[-1] == "2")


async def test_where_the_memory_of_proxies_is_damaged_somebody_is_waited_for_as_long_as_a_certificate_lasts(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock, file = OffsetClock(), ProxyFile(site.socket.parent / "state")
    async with connected(site, hub, clock=clock, token_file=site.token_file):
        pass
    file.path.write_bytes(b'{"format": 1, "proxies": [[')
    with capture_logs() as logs:
        async with site.running(clock, token_file=site.token_file) as agent:
            await until(lambda: debtors(agent) == {""})
            ca.behaviour = Behaviour(ttl=timedelta(hours=5))
            clock.offset = timedelta(minutes=61)
            await until(lambda: hub.acked == ["1", "1"])
    assert len(events(logs, "proxies_forgotten")) == 1


async def test_what_cannot_be_remembered_is_not_acknowledged_but_served(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        obstacle = site.socket.parent / "state" / ".proxies.json.tmp"
        obstacle.mkdir()
        proxy = await Proxy(site, "p").joins(agent)
        hub.offer(next_bundle(ca))
        await proxy.gets(2)
        await proxy.ack()
        await until(lambda: not debtors(agent))
        await hub.heard_all()
        assert hub.acked == ["1"]
        obstacle.rmdir()
        await until(lambda: hub.acked == ["1", "2"])


# Directed renewals


async def test_a_directed_renewal_happens_once_in_its_window_and_only_for_the_issuers_named(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    with capture_logs() as logs:
        async with connected(site, hub, clock=clock) as agent:
            held = agent.identity
            assert held is not None
            hub.direct("ab" * 20, start=clock.now().timestamp() - 60, seconds=30)
            await until(lambda: len(hub.verdicts) == 2)
            assert events(logs, "renewal_directed") == []
            hub.direct("ab" * 20, held.issuer_id, start=clock.now().timestamp() + 600, seconds=60)
            await until(lambda: len(events(logs, "renewal_directed")) == 1)
            assert len(ca.calls) == 1
            clock.offset = timedelta(seconds=661)
            await until(lambda: len(ca.calls) == 2)
            await until(lambda: agent.identity is not None and agent.identity.serial != held.serial)
            hub.end_streams()
            await until(lambda: len(hub.nodes) == 2)
            await hub.heard_all()
            assert len(ca.calls) == 2, "the issuer is the same, but the certificate came after the moment"
    assert events(logs, "renewal_directed")[0]["serial"] == held.serial


async def test_a_directed_renewal_that_fails_is_tried_again_as_any_other(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    with capture_logs() as logs:
        async with connected(site, hub) as agent:
            held = agent.identity
            assert held is not None
            ca.behaviour = Behaviour(refuse=grpc.StatusCode.UNAVAILABLE)
            hub.direct(held.issuer_id, start=0, seconds=0)
            await until(lambda: bool(events(logs, "renewal_failed")))
            ca.behaviour = Behaviour()
            await until(lambda: agent.identity is not None and agent.identity.serial != held.serial)
    assert len(events(logs, "renewal_failed")) <= 3, "with growing waits"


async def test_an_absurd_directive_is_refused_and_a_withdrawn_one_is_void(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock) as agent:
        held = agent.identity
        assert held is not None
        hub.direct(held.issuer_id, start=0, seconds=31 * 86400)
        await until(lambda: bool(hub.nacked))
        assert "30 days" in hub.nacked[0].reason
        hub.offer_raw("renewal", b"\xff\xff", "junk", DIRECTIVE_TYPE)
        await until(lambda: len(hub.nacked) == 2)
        hub.direct(held.issuer_id, start=clock.now().timestamp() + 600, seconds=1)
        await until(lambda: len(hub.verdicts) == 4)
        hub.withdraw(DIRECTIVE_TYPE)
        hub.offer(next_bundle(ca))
        await until(lambda: hub.acked == ["1", "2"])
        clock.offset = timedelta(seconds=700)
        await hub.heard_all()
        assert len(ca.calls) == 1


# Servers


async def test_a_server_without_such_streams_changes_nothing(short_tmp: Path) -> None:
    async with FakeAuthority(join_tokens=(JOIN,)) as old:
        site = Site(short_tmp, old)
        old.behaviour = Behaviour(ttl=timedelta(seconds=3))
        with capture_logs() as logs:
            async with site.running() as agent:
                await until(lambda: any("UNIMPLEMENTED" in each["reason"] for each in events(logs, "upstream_lost")))
                await until(lambda: len(old.calls) >= 3)
                assert agent.identity is not None
                assert set(await site.fetch()) == {"default", "ROOTCA"}
    assert events(logs, "upstream_lost")[-1]["next_try_seconds"] >= 30
    assert {entry["event"] for entry in logs if entry["log_level"] != "debug"} == {
        *("identity_obtained", "stopping", "stopped")
    }


async def test_after_an_outage_it_names_what_it_has_and_gets_what_it_missed(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        hub.offer(next_bundle(ca, 2))
        await until(lambda: hub.acked == ["1", "2"])
        await ca.down("mtls")
        assert set(await site.fetch()) == {"default", "ROOTCA"}
        await ca.up("mtls")
        await until(lambda: hub.acked == ["1", "2", "2"])  # named on the new stream, and not sent again
        assert len(hub.nodes) == 2
        await ca.down("mtls")
        hub.offer(next_bundle(ca, 3))
        await ca.up("mtls")
        await until(lambda: hub.acked == ["1", "2", "2", "3"])
        assert agent.identity is not None
        assert agent.identity.bundle.sequence == 3


async def test_a_stream_that_is_opened_anew_claims_nothing_that_a_proxy_lacks(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p").joins(agent)
        hub.offer(next_bundle(ca))
        await proxy.gets(2)
        await until(lambda: debtors(agent) == {"p"})
        hub.end_streams()
        await until(lambda: len(hub.nodes) == 2)
        await hub.heard_all()
        assert hub.acked == ["1"]
        await proxy.ack()
        await until(lambda: hub.acked == ["1", "2"])


async def test_a_stream_that_ends_with_its_certificate_is_opened_anew_with_the_next(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=3))
    async with connected(site, hub) as agent:
        first = agent.identity
        assert first is not None
        await until(lambda: agent.identity is not None and agent.identity.serial != first.serial)
        hub.end_streams()
        await until(lambda: len(hub.nodes) >= 2)
        assert hub.peers[1] != hub.peers[0] == first.serial


# Which certificate is in use


async def renewed(agent: Agent, hub: FakeHub) -> str:
    """The serial of the next certificate, once the agent has it; until now its stream is that of the one before."""
    held = agent.identity
    assert held is not None
    assert hub.peers[-1] == held.serial
    hub.direct(held.issuer_id, start=0, seconds=0)
    await until(lambda: agent.identity is not None and agent.identity.serial != held.serial)
    assert agent.identity is not None
    return agent.identity.serial


def users(agent: Agent) -> set[str]:
    """Who may still use an older certificate."""
    return {debt.node_id for debt in agent._holding._hub.identity_debts()}


async def test_after_a_renewal_the_stream_is_opened_anew_with_the_new_certificate_and_says_what_is_held(
    site: Site, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        newest = await renewed(agent, hub)
        await until(lambda: hub.peers[-1] == newest)
        await until(lambda: hub.acked == ["1", "1"])


async def test_it_is_opened_anew_only_when_every_proxy_has_accepted_the_new_certificate(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        quick, slow = [await Proxy(site, node).joins(agent) for node in ("quick", "slow")]
        newest = await renewed(agent, hub)
        for proxy in (quick, slow):
            assert "default" in await proxy.stream.receive()
        await quick.ack()
        await until(lambda: users(agent) == {"slow"})
        hub.offer(next_bundle(ca))
        for proxy in (quick, slow):
            assert "ROOTCA" in await proxy.stream.receive()
        await quick.ack()
        await hub.heard_all()
        assert newest not in hub.peers
        await slow.ack()  # of both
        await until(lambda: hub.peers[-1] == newest)
        await until(lambda: hub.acked[-1] == "2")


async def test_what_is_accepted_while_a_proxy_uses_the_certificate_from_before_is_said_on_the_stream_of_that(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p", "delta").joins(agent)
        newest = await renewed(agent, hub)
        assert "default" in await proxy.stream.receive()
        hub.offer(next_bundle(ca))
        renewal, proxy.stream.last = proxy.stream.last, None
        assert "ROOTCA" in await proxy.stream.receive()
        await proxy.ack()
        await until(lambda: hub.acked == ["1", "2"])
        assert newest not in hub.peers
        proxy.stream.last = renewal
        await proxy.ack()
        await until(lambda: hub.peers[-1] == newest)


async def test_a_stream_that_had_to_be_opened_with_the_new_certificate_says_nothing_while_a_proxy_uses_an_older_one(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p", "delta").joins(agent)
        newest = await renewed(agent, hub)
        assert "default" in await proxy.stream.receive()
        hub.end_streams()
        await until(lambda: hub.peers[-1] == newest)
        await hub.heard_all()
        assert hub.acked == ["1"]
        await proxy.ack()
        await until(lambda: hub.acked == ["1", "1"])


async def test_a_proxy_that_went_away_with_an_older_certificate_is_waited_for_until_that_has_ended(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    clock = OffsetClock()
    async with connected(site, hub, clock=clock) as agent:
        await (await Proxy(site, "gone").joins(agent)).go(agent)
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        newest = await renewed(agent, hub)
        await until(lambda: users(agent) == {"gone"})
        await hub.heard_all()
        assert newest not in hub.peers
        clock.offset = timedelta(minutes=61)
        await until(lambda: hub.peers[-1] == newest)


@pytest.mark.parametrize("took", [False, True])
async def test_a_restarted_agent_knows_who_may_use_an_older_certificate(
    site: Site, ca: FakeAuthority, hub: FakeHub, took: bool
) -> None:
    async with connected(site, hub) as agent:
        proxy = await Proxy(site, "p").joins(agent)
        newest = await renewed(agent, hub)
        assert "default" in await proxy.stream.receive()
        if took:
            await proxy.ack()
            await until(lambda: hub.acked == ["1", "1"])
    said = len(hub.acked)
    async with site.running() as agent:
        await until(lambda: len(hub.nodes) == (3 if took else 2))
        assert hub.peers[-1] == newest
        await hub.heard_all()
        if not took:
            assert len(hub.acked) == said
            await Proxy(site, "p").joins(agent)
        await until(lambda: len(hub.acked) == said + 1)


async def test_a_bundle_that_comes_while_a_certificate_is_asked_for_is_not_undone(
    site: Site, ca: FakeAuthority, hub: FakeHub
) -> None:
    async with connected(site, hub) as agent:
        held, newer = agent.identity, bundle_of(TRUST_DOMAIN, ca.root, fresh_root(), sequence=2)
        assert held is not None

        def meanwhile(answer: Any) -> Any:
            hub.offer(newer)
            return answer

        ca.behaviour = Behaviour(twist=meanwhile)
        hub.direct(held.issuer_id, start=0, seconds=0)
        await until(lambda: agent.identity is not None and agent.identity.serial != held.serial)
        assert len(ca.calls) == 2
        await until(lambda: hub.acked[-1] == "2")
        assert agent.identity is not None
        assert agent.identity.bundle.sequence == 2


def test_waits_begin_short_double_and_are_spread() -> None:
    first = [reconnect_delay(1, dice / 10).total_seconds() for dice in range(10)]
    assert min(first) == 0.125
    assert max(first) < 0.25
    assert reconnect_delay(3, 0) == 4 * reconnect_delay(1, 0)
    assert reconnect_delay(10**6, 0.999) <= MAX_WAIT
