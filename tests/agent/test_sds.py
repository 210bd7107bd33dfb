"""The agent's socket, as a plain gRPC client sees it: SDS and ADS, state of the world and delta, Fetch."""

from __future__ import annotations

import asyncio
import grp
import os
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from meshca.agent.hub import SecretHub
from meshca.agent.identity import AgentIdentity
from meshca.agent.sds import SdsServer
from meshca.agent.sockets import SocketPlace
from meshca.xds.snapshot import SECRET_TYPE
from tests.agent.discovery import SECONDS, Delta, Sotw, roots, serial, unpacked, until
from tests.agent.identities import identity
from tests.agent.rigs import Rig
from tests.fakes.certificate_authority import SPIFFE_ID, fresh_root
from tests.fakes.clock import OffsetClock

ROOT = fresh_root("first")
NEXT_ROOT = fresh_root("next")


@pytest.fixture
async def rig(short_tmp: Path) -> AsyncIterator[Rig]:
    async with Rig(short_tmp) as running:
        yield running


@pytest.fixture
async def held(rig: Rig) -> AgentIdentity:
    mine = identity(ROOT)
    await rig.hub.publish(mine.publication)
    return mine


VARIANTS = [("sotw", "sds"), ("delta", "sds"), ("sotw", "ads"), ("delta", "ads")]


@pytest.mark.parametrize(("variant", "service"), VARIANTS)
async def test_every_variant_serves_updates_and_hears_acknowledgements(
    rig: Rig, held: AgentIdentity, variant: str, service: str
) -> None:
    stream: Sotw | Delta = getattr(rig, variant)(service)
    await stream.subscribe("default", "ROOTCA")
    first = await stream.receive()
    assert set(first) == {"default", "ROOTCA"}
    assert serial(first["default"]) == held.serial
    assert roots(first["ROOTCA"]) == 1
    await stream.ack()
    renewed = identity(ROOT)
    await rig.hub.publish(renewed.publication)
    second = await stream.receive()
    assert set(second) == {"default"}, "only what changed"
    assert serial(second["default"]) == renewed.serial
    await stream.ack()
    newest = {r.name: r.version for r in renewed.publication.identity}["default"]
    await until(lambda: accepted(rig).get("default") == newest)


def accepted(rig: Rig, node: str = "sidecar-1") -> dict[str, str]:
    status = rig.hub.proxies.get(node)
    return {} if status is None else dict(status.accepted)


async def test_the_spiffe_ids_are_names_too_and_nothing_else_is_sent(rig: Rig, held: AgentIdentity) -> None:
    stream = rig.sotw()
    await stream.subscribe(SPIFFE_ID, "spiffe://example.org", "unknown")
    secrets = await stream.receive()
    assert set(secrets) == {SPIFFE_ID, "spiffe://example.org"}
    assert secrets[SPIFFE_ID].HasField("tls_certificate")
    assert secrets["spiffe://example.org"].HasField("validation_context")


async def test_fetch_answers_at_once(rig: Rig, held: AgentIdentity) -> None:
    stub = SecretDiscoveryServiceStub(rig.client)
    answer = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default", "ROOTCA"], type_url=SECRET_TYPE))
    assert set(unpacked(answer.resources)) == {"default", "ROOTCA"}
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.FetchSecrets(DiscoveryRequest(resource_names=["nothing"]))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_fetch_before_there_is_an_identity_is_unavailable_never_empty(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await SecretDiscoveryServiceStub(rig.client).FetchSecrets(DiscoveryRequest(resource_names=["default"]))
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_comes_before_the_first_identity_waits_and_is_told_nothing_is_gone(rig: Rig) -> None:
    stream = rig.delta()
    await stream.call.write(
        DeltaDiscoveryRequest(
            type_url=SECRET_TYPE,
            resource_names_subscribe=["default", "ROOTCA"],
            initial_resource_versions={"default": "of an earlier agent", "ROOTCA": "likewise"},
        )
    )
    await until(lambda: len(rig.hub._streams) == 1)
    await rig.hub.publish(identity(ROOT).publication)
    assert set(await stream.receive()) == {"default", "ROOTCA"}  # receive() asserts that nothing is removed


async def test_ads_serves_no_other_type(rig: Rig, held: AgentIdentity) -> None:
    call = AggregatedDiscoveryServiceStub(rig.client).StreamAggregatedResources()
    await call.write(DiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: not rig.hub._streams)


async def test_a_slow_proxy_skips_versions(rig: Rig, held: AgentIdentity) -> None:
    stream = rig.sotw()
    await stream.subscribe("default")
    await stream.receive()
    await stream.ack()
    await until(lambda: "default" in accepted(rig))
    renewed = [identity(ROOT) for _ in range(5)]
    for each in renewed:  # no turn of the loop between them
        await rig.hub.publish(each.publication)
    assert serial((await stream.receive())["default"]) == renewed[-1].serial


# Order: trust before use


async def trusting(rig: Rig, *names: str) -> Sotw:
    stream = rig.sotw("ads")
    await stream.subscribe(*names)
    await stream.receive()
    await stream.ack()
    await until(lambda: all(name in accepted(rig) for name in names))
    return stream


async def test_new_trust_is_accepted_everywhere_before_the_new_certificate_is_served(
    rig: Rig, held: AgentIdentity
) -> None:
    trusts = await trusting(rig, "ROOTCA")
    uses = await trusting(rig, "default")
    renewed = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
    publishing = asyncio.create_task(rig.hub.publish(renewed.publication))
    assert roots((await trusts.receive())["ROOTCA"]) == 2
    nothing = asyncio.create_task(uses.call.read())
    await asyncio.sleep(0)
    answer = await SecretDiscoveryServiceStub(rig.client).FetchSecrets(
        DiscoveryRequest(resource_names=["default", "ROOTCA"])
    )
    secrets = unpacked(answer.resources)
    assert (serial(secrets["default"]), roots(secrets["ROOTCA"])) == (held.serial, 2)
    assert not nothing.done()
    assert not publishing.done()
    await trusts.ack()
    pushed = await asyncio.wait_for(nothing, SECONDS)
    assert serial(unpacked(pushed.resources)["default"]) == renewed.serial
    await publishing


async def test_a_proxy_that_never_answers_delays_the_certificate_only_so_long(short_tmp: Path) -> None:
    async with Rig(short_tmp, trust_wait=timedelta(milliseconds=100)) as rig:
        await rig.hub.publish(identity(ROOT).publication)
        await trusting(rig, "ROOTCA")
        uses = await trusting(rig, "default")
        renewed = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
        with capture_logs() as logs:
            await rig.hub.publish(renewed.publication)
        assert serial((await uses.receive())["default"]) == renewed.serial
        assert [(e["event"], e["nodes"]) for e in logs] == [("trust_not_taken_in_time", ["sidecar-1"])]


async def test_a_proxy_that_leaves_delays_nothing(rig: Rig, held: AgentIdentity) -> None:
    trusts = await trusting(rig, "ROOTCA")
    renewed = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
    publishing = asyncio.create_task(rig.hub.publish(renewed.publication))
    await trusts.receive()
    trusts.call.cancel()
    async with asyncio.timeout(2):
        await publishing


# A certificate that proves trust


async def test_a_certificate_that_proves_trust_is_served_to_nobody_who_has_not_taken_the_trust(
    short_tmp: Path,
) -> None:
    """However long that takes: the server counts on it. Others do not wait."""
    async with Rig(short_tmp, trust_wait=timedelta(0)) as rig:
        held = identity(ROOT)
        await rig.hub.publish(held.publication)
        slow, quick = rig.sotw(), rig.delta()
        quick.node = "quick"
        for stream in (slow, quick):
            await stream.subscribe("default", "ROOTCA")
            await stream.receive()
            await stream.ack()
        await until(lambda: not rig.hub.debts() and len(accepted(rig)) == len(accepted(rig, "quick")) == 2)
        first = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
        await rig.hub.publish(first.publication, trust_first=True)
        for stream in (slow, quick):
            assert set(await stream.receive()) == {"ROOTCA"}
        await quick.ack()
        assert serial((await quick.receive())["default"]) == first.serial
        await quick.ack()
        nothing = asyncio.create_task(slow.call.read())
        again = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
        await rig.hub.publish(again.publication)  # an ordinary renewal is of the same lineage
        assert serial((await quick.receive())["default"]) == again.serial
        assert not nothing.done()
        await slow.ack()
        pushed = await asyncio.wait_for(nothing, SECONDS)
        assert serial(unpacked(pushed.resources)["default"]) == again.serial


async def test_it_is_not_served_to_who_refuses_the_trust_nor_when_that_comes_back(rig: Rig) -> None:
    await rig.hub.publish(identity(ROOT).publication)
    stream = rig.delta()
    await stream.subscribe("default", "ROOTCA")
    await stream.receive()
    await stream.ack()
    await until(lambda: not rig.hub.debts() and len(accepted(rig)) == 2)
    first = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
    await rig.hub.publish(first.publication, trust_first=True)
    assert set(await stream.receive()) == {"ROOTCA"}
    await stream.nack("no")
    repaired = await stream.receive()
    while "default" in repaired:  # partners of what was refused are sent again: the good ones from before
        assert serial(repaired["default"]) != first.serial
        await stream.ack()
        repaired = await stream.receive()
    stream.call.cancel()
    await until(lambda: not rig.hub._streams)
    uses = rig.sotw()
    await uses.subscribe("default")
    assert serial((await uses.receive())["default"]) != first.serial
    trusts = rig.sotw()
    await trusts.subscribe("ROOTCA")
    await trusts.receive()
    await trusts.ack()
    assert serial((await uses.receive())["default"]) == first.serial


async def test_it_is_served_at_once_to_who_takes_its_trust_from_elsewhere_or_is_new(rig: Rig) -> None:
    await rig.hub.publish(identity(ROOT).publication)
    uses = await trusting(rig, "default")
    first = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2)
    await rig.hub.publish(first.publication, trust_first=True)
    assert serial((await uses.receive())["default"]) == first.serial
    new = rig.sotw()
    new.node = "new"
    await new.subscribe("default", "ROOTCA")
    secrets = await new.receive()
    assert (serial(secrets["default"]), roots(secrets["ROOTCA"])) == (first.serial, 2)


async def test_after_the_end_of_the_certificate_from_before_nothing_is_served_in_its_place(rig: Rig) -> None:
    await rig.hub.publish(identity(ROOT).publication)
    stream = rig.delta()
    await stream.subscribe("default", "ROOTCA")
    await stream.receive()
    await stream.ack()
    await until(lambda: not rig.hub.debts() and len(accepted(rig)) == 2)
    rig.clock.offset = timedelta(hours=2)
    first = identity(NEXT_ROOT, ROOT, NEXT_ROOT, sequence=2, ttl=timedelta(hours=5))
    await rig.hub.publish(first.publication, trust_first=True)
    assert set(await stream.receive()) == {"ROOTCA"}  # receive() asserts that nothing is removed
    await stream.ack()
    assert serial((await stream.receive())["default"]) == first.serial


# Refusals


@pytest.mark.parametrize(("variant", "service"), VARIANTS)
async def test_a_refused_version_is_parked_and_its_refuser_named(
    rig: Rig, held: AgentIdentity, variant: str, service: str
) -> None:
    stream: Sotw | Delta = getattr(rig, variant)(service)
    await stream.subscribe("default")
    await stream.receive()
    await stream.ack()
    good = {r.name: r.version for r in held.publication.identity}["default"]
    await until(lambda: accepted(rig).get("default") == good)
    bad = identity(ROOT)
    await rig.hub.publish(bad.publication)
    await stream.receive()
    with capture_logs() as logs:
        await stream.nack("Failed to load certificate -----BEGIN PRIVATE KEY-----MIGHAgEAMBMGByqGSM49")
        again = await stream.receive()
        await stream.ack()
        await rig.hub.publish(bad.publication)  # the parked version is not sent again …
        best = identity(ROOT)
        await rig.hub.publish(best.publication)
        newest = await stream.receive()
    assert serial(again["default"]) == held.serial, "the last good one is repeated: Envoy keeps the bad half"
    assert serial(newest["default"]) == best.serial, "… but a newer one is"
    status = rig.hub.proxies.get("sidecar-1")
    assert status is not None
    refusal = status.refusals["default"]
    assert refusal.version == {r.name: r.version for r in bad.publication.identity}["default"]
    assert refusal.kept == good
    assert "PRIVATE KEY" not in refusal.reason
    assert "Failed to load certificate" in refusal.reason
    (event,) = [e for e in logs if e["event"] == "proxy_refused_secret"]
    assert event["node"] == "sidecar-1"
    assert "PRIVATE KEY" not in str(logs)
    await stream.ack()
    await until(lambda: not rig.hub.proxies.get("sidecar-1").refusals)  # type: ignore[union-attr]  # it is there


# The end of a certificate


async def test_an_expired_certificate_stays_where_it_is_and_is_given_to_nobody_new(
    rig: Rig, held: AgentIdentity
) -> None:
    old = rig.delta()
    await old.subscribe("default")
    await old.receive()
    await old.ack()
    await until(lambda: "default" in accepted(rig))
    rig.clock.offset = timedelta(hours=2)
    new = rig.sotw()
    await new.subscribe("default", "ROOTCA")
    assert set(await new.receive()) == {"ROOTCA"}
    await new.ack()
    answer = await SecretDiscoveryServiceStub(rig.client).FetchSecrets(
        DiscoveryRequest(resource_names=["default", "ROOTCA"])
    )
    assert set(unpacked(answer.resources)) == {"ROOTCA"}
    await old.subscribe("ROOTCA")
    assert set(await old.receive()) == {"ROOTCA"}  # receive() asserts that nothing is removed
    renewed = identity(ROOT, ttl=timedelta(hours=5))
    await rig.hub.publish(renewed.publication)
    assert serial((await new.receive())["default"]) == renewed.serial


# Bounds and surroundings


async def test_streams_are_bounded_and_a_place_is_free_again_when_one_ends(short_tmp: Path) -> None:
    async with Rig(short_tmp, max_streams=2) as rig:
        await rig.hub.publish(identity(ROOT).publication)
        first, second = rig.sotw(), rig.delta()
        for stream in (first, second):
            await stream.subscribe("default")
            await stream.receive()
        third = rig.sotw()
        assert await third.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.call.cancel()
        await until(lambda: len(rig.hub._streams) == 1)
        fourth = rig.sotw()
        await fourth.subscribe("ROOTCA")
        assert await fourth.receive()


async def test_a_proxy_that_stops_reading_leaves_no_stream_behind(rig: Rig, held: AgentIdentity) -> None:
    stream = rig.sotw()
    await stream.subscribe("default")
    await until(lambda: rig.hub.proxies.get("sidecar-1") is not None)
    for _ in range(50):
        await rig.hub.publish(identity(ROOT).publication)
    await rig.client.close()
    await until(lambda: not rig.hub._streams)
    status = rig.hub.proxies.get("sidecar-1")
    assert status is not None
    assert status.streams == 0


async def test_a_proxy_that_names_itself_late_is_counted_out_under_the_name_it_was_counted_in(
    rig: Rig, held: AgentIdentity
) -> None:
    stream = rig.sotw()
    stream.node = ""
    await stream.subscribe("default")
    await stream.receive()
    stream.node = "late"
    await stream.ack()
    await until(lambda: "default" in accepted(rig, ""))
    stream.call.cancel()
    await until(lambda: not rig.hub._streams)
    assert [(proxy.node_id, proxy.streams) for proxy in rig.hub.proxies.all()] == [("", 0)]


async def test_a_request_of_more_than_a_mebibyte_is_refused(rig: Rig, held: AgentIdentity) -> None:
    call = SecretDiscoveryServiceStub(rig.client).StreamSecrets()
    await call.write(DiscoveryRequest(node=Node(id="x" * 1024 * 1024 + "x"), type_url=SECRET_TYPE))
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: not rig.hub._streams)


async def test_the_socket_is_for_its_owner_alone(rig: Rig) -> None:
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.path.parent.stat().st_mode) == 0o700


async def test_with_a_group_the_socket_is_for_that_too(short_tmp: Path) -> None:
    place = SocketPlace(short_tmp / "run" / "agent.sock", grp.getgrgid(os.getegid()).gr_name)
    server = SdsServer(SecretHub(OffsetClock()), place, max_streams=1)
    await server.start()
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o660
    await server.stop()


async def test_stopping_ends_streams_and_removes_the_socket(short_tmp: Path) -> None:
    async with Rig(short_tmp) as rig:
        waiting = rig.sotw()
        await rig.hub.publish(identity(ROOT).publication)
        await waiting.subscribe("default")
        await waiting.receive()
        early = rig.delta()
        await until(lambda: len(rig.hub._streams) == 2)
        await rig.server.stop()
        assert await waiting.call.read() is grpc.aio.EOF
        assert await early.call.read() is grpc.aio.EOF
        assert not rig.path.exists()


async def test_health_and_reflection_are_there(rig: Rig) -> None:
    health = health_pb2_grpc.HealthStub(rig.client)
    name = "envoy.service.secret.v3.SecretDiscoveryService"
    before = await health.Check(health_pb2.HealthCheckRequest(service=name))
    await rig.server.set_serving(True)
    after = await health.Check(health_pb2.HealthCheckRequest(service=name))
    assert (before.status, after.status) == (
        health_pb2.HealthCheckResponse.NOT_SERVING,
        health_pb2.HealthCheckResponse.SERVING,
    )
    call = reflection_pb2_grpc.ServerReflectionStub(rig.client).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await call.read()
    assert name in {service.name for service in listed.list_services_response.service}
    await call.done_writing()
