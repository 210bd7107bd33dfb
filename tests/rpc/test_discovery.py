"""The server's discovery services as real clients on real listeners see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from structlog.testing import capture_logs

from meshca.authority.evidence import Channel
from meshca.compile.bundles import BUNDLE_TYPE, RENEWAL_TYPE
from meshca.errors import unavailable
from meshca.proto.meshca.v1 import certificates_pb2
from meshca.rpc.limits import STREAM_RATE
from meshca.services.distribution import StreamLimits
from meshca.xds.snapshot import SECRET_TYPE
from tests.agent.discovery import SECONDS, Delta, Sotw, roots, unpacked, until
from tests.rpc.discovering import NEXT, ROOT, TOKEN, Rig, bearer, identity

WEB = identity()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as running:
        running.publish(1, ROOT)
        yield running


VARIANTS = [("sotw", "sds"), ("delta", "sds"), ("sotw", "ads"), ("delta", "ads")]


@pytest.mark.parametrize(("variant", "service"), VARIANTS)
async def test_every_variant_serves_updates_and_takes_down_acknowledgements(
    rig: Rig, variant: str, service: str
) -> None:
    stream: Sotw | Delta = getattr(rig, variant)(rig.channel(WEB), service)
    await stream.subscribe("ROOTCA")
    assert roots((await stream.receive())["ROOTCA"]) == 1
    await stream.ack()
    await until(lambda: rig.counts.acks == 1)
    assert await rig.recorded() == [(WEB.serial, 1, "")]
    rig.publish(2, ROOT, NEXT)
    assert roots((await stream.receive())["ROOTCA"]) == 2
    await stream.ack()
    await until(lambda: rig.counts.acks == 2)
    assert await rig.recorded() == [(WEB.serial, 1, ""), (WEB.serial, 2, "")]
    (fact,) = [fact for fact in rig.record.facts if fact.bundle_sequence == 2]
    assert (fact.spiffe_id, fact.until > fact.at) == ("spiffe://example.org/web", True)


@pytest.mark.parametrize("service", ["sds", "ads"])
async def test_a_token_serves_too_and_proves_nothing(rig: Rig, service: str) -> None:
    stream = rig.sotw(rig.channel(None), service, metadata=bearer(TOKEN))
    await stream.subscribe("ROOTCA")
    assert roots((await stream.receive())["ROOTCA"]) == 1
    await stream.ack()
    await until(lambda: rig.counts.acks == 1)
    assert await rig.recorded() == []


async def test_agents_get_bundle_and_directive_on_ads(rig: Rig) -> None:
    call = AggregatedDiscoveryServiceStub(rig.channel(WEB)).DeltaAggregatedResources()
    for type_url, name in ((BUNDLE_TYPE, "spiffe://example.org"), (RENEWAL_TYPE, "renewal")):
        await call.write(DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=[name]))
        response = await call.read()
        assert (response.type_url, [resource.name for resource in response.resources]) == (type_url, [name])
        if type_url == BUNDLE_TYPE:
            bundle = certificates_pb2.TrustBundle.FromString(response.resources[0].resource.value)
            assert bundle.x509_authorities == [ROOT.der]
            await call.write(DeltaDiscoveryRequest(type_url=type_url, response_nonce=response.nonce))
    await until(lambda: rig.counts.acks == 1)
    assert await rig.recorded() == [(WEB.serial, 1, "")]


async def test_other_types_are_refused(rig: Rig) -> None:
    call = AggregatedDiscoveryServiceStub(rig.channel(WEB)).StreamAggregatedResources()
    await call.write(DiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    call = SecretDiscoveryServiceStub(rig.channel(WEB)).StreamSecrets()
    await call.write(DiscoveryRequest(type_url=BUNDLE_TYPE))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: rig.counts.open == 0)


async def test_fetch_answers_at_once(rig: Rig) -> None:
    stub = SecretDiscoveryServiceStub(rig.channel(WEB))
    answer = await stub.FetchSecrets(DiscoveryRequest(resource_names=["ROOTCA", "ALL"], type_url=SECRET_TYPE))
    assert set(unpacked(answer.resources)) == {"ROOTCA", "ALL"}
    assert await rig.recorded() == [(WEB.serial, 1, "")]
    assert rig.record.facts[0].channel is Channel.FETCH
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.FetchSecrets(DiscoveryRequest(resource_names=["nothing"]))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(await rig.recorded()) == 1


async def test_what_is_fetched_with_a_token_is_nobodys_evidence(rig: Rig) -> None:
    stub = SecretDiscoveryServiceStub(rig.channel(None))
    answer = await stub.FetchSecrets(DiscoveryRequest(resource_names=["ROOTCA"]), metadata=bearer(TOKEN))
    assert set(unpacked(answer.resources)) == {"ROOTCA"}
    assert await rig.recorded() == []


async def test_what_is_no_request_is_invalid(rig: Rig) -> None:
    channel = rig.channel(WEB)
    for method in ("StreamSecrets", "DeltaSecrets"):
        call: Any = channel.stream_stream(f"/envoy.service.secret.v3.SecretDiscoveryService/{method}")()
        await call.write(b"\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    fetch: Any = channel.unary_unary("/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fetch(b"\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- who may ask


@pytest.mark.parametrize("metadata", [(), bearer("bad")])
async def test_who_cannot_prove_an_identity_is_told_nothing_and_holds_no_place(rig: Rig, metadata: object) -> None:
    channel = rig.channel(None)
    with capture_logs() as logs:
        for service in ("sds", "ads"):
            stream = rig.sotw(channel, service, metadata=metadata)
            assert await stream.call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert await stream.call.details() == "request authenticate failure"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SecretDiscoveryServiceStub(channel).FetchSecrets(DiscoveryRequest(), metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [log["event"] for log in logs] == ["authentication_failed"] * 3
    assert rig.counts.open == 0


async def test_a_dependency_that_is_out_is_not_the_callers_fault(rig: Rig) -> None:
    rig.tokens.failure = unavailable("the key set cannot be fetched", retry_after=2.0)
    stream = rig.sotw(rig.channel(None), metadata=bearer(TOKEN))
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE
    assert await stream.call.details() == "request authenticate failure"
    assert dict(await stream.call.trailing_metadata())["grpc-retry-pushback-ms"] == "2000"


async def test_a_certificate_that_ended_since_the_handshake_opens_no_stream(rig: Rig) -> None:
    channel = rig.channel(WEB)
    stream = rig.sotw(channel)
    await stream.subscribe("ROOTCA")
    await stream.receive()
    rig.clock.offset = timedelta(hours=2)
    assert await rig.sotw(channel).call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await stream.call.code() is grpc.StatusCode.UNAUTHENTICATED, "and those that are open end"
    assert "certificate" in await stream.call.details()


async def test_streams_that_are_opened_too_fast_are_refused_by_peer() -> None:
    async with Rig(burst=2) as rig:
        rig.publish(1, ROOT)
        channel = rig.channel(WEB)
        kept = [rig.sotw(channel) for _ in range(2)]
        for stream in kept:
            await stream.subscribe("ROOTCA")
            await stream.receive()
        refused = rig.sotw(channel)
        assert await refused.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = rig.sotw(rig.channel(identity("other")))
        await other.subscribe("ROOTCA")
        await other.receive()


@pytest.mark.parametrize("variant", ["sotw", "delta"])
async def test_requests_that_come_too_fast_end_their_stream_and_no_other(variant: str) -> None:
    async with Rig(requests=5) as rig:
        rig.publish(1, ROOT)
        channel = rig.channel(WEB)
        flood, other = (getattr(rig, variant)(channel) for _ in range(2))
        await other.subscribe("ROOTCA")
        await other.receive()
        for _ in range(6):
            await flood.subscribe("ROOTCA")
        with pytest.raises(grpc.aio.AioRpcError):
            await read_to_the_end(flood)
        assert await flood.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await flood.call.details() == "too many requests on this stream: slow down"
        wait = dict(await flood.call.trailing_metadata())["grpc-retry-pushback-ms"]
        assert int(wait) == 1000 * 5 / STREAM_RATE
        await other.ack()
        rig.publish(2, ROOT, NEXT)
        assert roots((await other.receive())["ROOTCA"]) == 2
        again = getattr(rig, variant)(channel)
        await again.subscribe("ROOTCA")
        await again.receive()
        await until(lambda: rig.counts.open == 2)


async def test_streams_are_bounded_and_the_client_is_told() -> None:
    async with Rig(limits=StreamLimits(total=1)) as rig:
        rig.publish(1, ROOT)
        stream = rig.sotw(rig.channel(WEB))
        await stream.subscribe("ROOTCA")
        await stream.receive()
        refused = rig.sotw(rig.channel(WEB))
        assert await refused.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream.call.cancel()
        await until(lambda: rig.counts.open == 0)
        again = rig.sotw(rig.channel(WEB))
        await again.subscribe("ROOTCA")
        await again.receive()


# --- many, slow, rude


async def read_to_the_end(stream: Sotw | Delta) -> None:
    while await stream.call.read() is not grpc.aio.EOF:
        pass


async def test_a_change_reaches_five_hundred_streams_and_is_counted_for_each(rig: Rig) -> None:
    people = [identity(f"w{n}") for n in range(20)]
    streams = []
    for person in people:
        channel = rig.channel(person)
        streams += [(person, rig.delta(channel)) for _ in range(25)]

    async def hold(stream: Delta, expected: int) -> None:
        assert roots((await stream.receive())["ROOTCA"]) == expected
        await stream.ack()

    await asyncio.gather(*(stream.subscribe("ROOTCA") for _, stream in streams))
    await asyncio.gather(*(hold(stream, 1) for _, stream in streams))
    await until(lambda: rig.counts.acks == 500)
    assert sorted(await rig.recorded()) == sorted((person.serial, 1, "") for person in people)
    rig.publish(2, ROOT, NEXT)
    await asyncio.gather(*(hold(stream, 2) for _, stream in streams))
    await until(lambda: rig.counts.acks == 1000)
    assert rig.counts.pushes == 1000
    assert sorted((await rig.recorded())[20:]) == sorted((person.serial, 2, "") for person in people)


async def test_clients_that_never_read_slow_nobody_and_are_let_go_with_their_certificate(rig: Rig) -> None:
    rude = identity("rude", lasts=timedelta(minutes=5))
    channel = rig.channel(rude, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096))  # no room for much
    deaf = [rig.delta(channel) for _ in range(5)]
    for stream in deaf:
        await stream.subscribe("ROOTCA")
    stream = rig.delta(rig.channel(WEB))
    await stream.subscribe("ROOTCA")
    await stream.receive()
    await stream.ack()
    for n in range(2, 100):
        rig.publish(n, *(ROOT, NEXT) if n % 2 == 0 else (ROOT,))
        await stream.receive()
        await stream.ack()
    assert rig.counts.pushes < 99 + 5 * 20, "what they do not read is not piled up for them"
    rig.clock.offset = timedelta(minutes=6)
    await until(lambda: rig.counts.open == 1)
    rig.publish(100, ROOT, NEXT)
    assert roots((await stream.receive())["ROOTCA"]) == 2


async def test_a_refusal_is_recorded_redacted_with_the_peers_name(rig: Rig) -> None:
    stream = rig.delta(rig.channel(WEB))
    await stream.subscribe("ROOTCA")
    await stream.receive()
    with capture_logs() as logs:
        await stream.nack("Failed to load trusted CA certificates from <inline> -----BEGIN PRIVATE KEY-----")
        await until(lambda: rig.counts.nacks == 1)
    reason = "Failed to load trusted CA certificates from <inline> [redacted]"
    assert await rig.recorded() == [(WEB.serial, 1, reason)]
    (log,) = [log for log in logs if log["event"] == "bundle_refused"]
    assert (log["caller"], log["names"], log["reason"]) == ("spiffe://example.org/web", ["ROOTCA"], reason)


async def test_a_stopping_server_sends_its_clients_away(rig: Rig) -> None:
    stream = rig.sotw(rig.channel(WEB))
    await stream.subscribe("ROOTCA")
    await stream.receive()
    rig.hub.close()
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE
    late = rig.sotw(rig.channel(WEB))
    assert await late.call.code() is grpc.StatusCode.UNAVAILABLE


async def test_clients_that_vanish_leave_nothing_behind(rig: Rig) -> None:
    channels = [rig.channel(identity(f"w{n}")) for n in range(10)]
    for number, channel in enumerate(channels):
        stream = rig.delta(channel)
        await stream.subscribe("ROOTCA")
        if number % 2:
            await stream.receive()
            await stream.ack()
    await until(lambda: rig.counts.open == 10)
    rig.publish(2, ROOT, NEXT)
    for channel in channels:
        await channel.close()
    await until(lambda: rig.counts.open == 0)
    assert not rig.hub._holders
    async with asyncio.timeout(SECONDS):
        while any("DiscoveryStream" in repr(task.get_coro()) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.002)
