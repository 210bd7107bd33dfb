"""The server's hub: one push to everybody, and evidence that never exceeds the truth."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from meshca.authority.evidence import BundleFact, Channel
from meshca.compile.bundles import BUNDLE_TYPE, RENEWAL_TYPE, RenewalWindow
from meshca.errors import ErrorKind, MeshcaError, unavailable
from meshca.proto.meshca.v1 import certificates_pb2, discovery_pb2
from meshca.services.distribution import REMEMBERED, StreamLimits
from meshca.spiffe.bans import Ban, BanKind, BanList
from meshca.xds.snapshot import SECRET_TYPE
from tests.agent.discovery import roots, unpacked, until
from tests.services.hubs import (
    AFTERTHOUGHT,
    DOMAIN_ID,
    NOW,
    ROOTS,
    Client,
    Hub,
    bundle,
    holder,
    running,
    token_bearer,
)
from tests.svids import bundle_of
from tests.xds.envoys import DeltaWire, SotwWire, Wire

in_both = pytest.mark.parametrize("new_wire", [SotwWire, DeltaWire])


def names(response: object) -> set[str]:
    return set(unpacked(getattr(item, "resource", item) for item in response.resources))  # type: ignore[attr-defined]


def asking(*names: str) -> DiscoveryRequest:
    return DiscoveryRequest(resource_names=names)


# --- serving


@in_both
async def test_every_form_of_the_bundle_is_served_and_pushed_anew(new_wire: type[Wire]) -> None:
    async with running() as hub:
        client = hub.connect(new_wire())
        client.subscribe("ROOTCA", DOMAIN_ID, "ALL")
        assert names(await client.ack()) == {"ROOTCA", DOMAIN_ID, "ALL"}
        hub.distribution.publish(bundle(2))
        updated = set()
        for _ in range(3):
            updated |= names(await client.ack())
        assert updated == {"ROOTCA", DOMAIN_ID, "ALL"}


async def test_agents_get_bundle_and_renewal_directive_on_the_same_stream_as_secrets() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire(BUNDLE_TYPE))
        client.subscribe(DOMAIN_ID)
        (resource,) = (await client.ack()).resources
        message = certificates_pb2.TrustBundle.FromString(resource.resource.value)
        assert (message.trust_domain, message.sequence) == ("example.org", 1)
        renewal, secret = DeltaWire(RENEWAL_TYPE), DeltaWire(SECRET_TYPE)
        client.send(renewal.subscribe("renewal"))
        (resource,) = (await client.read()).resources
        assert resource.resource.value == b"", "nothing is to be replaced"
        client.send(secret.subscribe("ROOTCA"))
        assert names(await client.read()) == {"ROOTCA"}
        hub.distribution.publish(bundle(1), RenewalWindow(("ab",), NOW, 60))
        (resource,) = (await client.read()).resources
        directive = discovery_pb2.RenewalDirective.FromString(resource.resource.value)
        assert list(directive.issuer_ids) == ["ab"]


async def test_open_streams_of_who_is_banned_end_at_once_and_no_others_are_opened() -> None:
    async with running(sweep_seconds=3600) as hub:
        banned, exposed, other = holder("banned"), holder("exposed"), holder("other")
        clients = [hub.connect(caller=caller) for caller in (banned, exposed, other)]
        for client in clients:
            client.subscribe("ROOTCA")
            await client.ack()
        bans = BanList(
            1,
            (
                Ban(BanKind.IDENTITY, str(banned.id), str(banned.id), "x", "operator", NOW),
                Ban(BanKind.SERIAL, exposed.serial, str(exposed.id), "x", "operator", NOW),
            ),
        )
        hub.distribution.publish(bundle(2), bans=bans)
        for client in clients[:2]:
            ended = await client.failure()
            assert (ended.kind, ended.message) == (ErrorKind.DENIED, "the request is denied")
            assert client.unread == 0, "it gets nothing that is new"
            with pytest.raises(MeshcaError, match="the request is denied"):
                hub.connect(caller=client.stream.caller)
            with pytest.raises(MeshcaError, match="the request is denied"):
                hub.distribution.check(client.stream.caller)
        await clients[2].ack()
        hub.distribution.publish(bundle(3), bans=BanList(2))
        await clients[2].ack()
        again = hub.connect(caller=banned)
        again.subscribe("ROOTCA")
        await again.ack()


async def test_who_is_banned_before_the_first_publication_gets_none_of_it() -> None:
    async with running(first=False) as hub:
        caller = holder("banned")
        client = hub.connect(caller=caller)
        client.subscribe("ROOTCA")
        bans = BanList(1, (Ban(BanKind.IDENTITY, str(caller.id), str(caller.id), "x", "operator", NOW),))
        hub.distribution.publish(bundle(1), bans=bans)
        assert (await client.failure()).kind is ErrorKind.DENIED
        assert client.unread == 0


async def test_who_comes_before_the_first_publication_waits() -> None:
    async with running(first=False) as hub:
        client = hub.connect()
        client.subscribe("ROOTCA")
        with pytest.raises(MeshcaError) as refused:
            hub.distribution.fetchable()
        assert refused.value.kind is ErrorKind.UNAVAILABLE
        hub.distribution.publish(bundle(1))
        assert names(await client.ack()) == {"ROOTCA"}


async def test_a_publication_from_another_thread_reaches_open_streams() -> None:
    async with running(sweep_seconds=3600) as hub:  # nothing else wakes the loop
        client = hub.connect()
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.counts.acks == 1)
        await hub.recorded()
        asyncio.get_running_loop().set_debug(True)  # then it refuses what is not safe from another thread
        thread = threading.Thread(target=hub.distribution.publish, args=(bundle(2, *ROOTS[:2]),))
        thread.start()
        (secret,) = unpacked((await client.ack()).resources).values()
        assert roots(secret) == 2
        thread.join()
        assert (await hub.recorded())[-1] == ("web", 2, "")


async def test_a_change_reaches_five_hundred_streams_in_one_push_each() -> None:
    async with running() as hub:
        clients = [hub.connect(caller=holder(f"w{n}")) for n in range(500)]
        for client in clients:
            client.subscribe("ROOTCA")
        for client in clients:
            await client.ack()
        await until(lambda: hub.counts.acks == 500)
        assert len(await hub.recorded()) == 500
        hub.record.batches.clear()
        hub.distribution.publish(bundle(2))
        for client in clients:
            await client.ack()
        await until(lambda: hub.counts.acks == 1000)
        assert sorted(await hub.recorded()) == sorted((f"w{n}", 2, "") for n in range(500))
        assert hub.counts.pushes == 1000
        assert len(hub.record.batches) < 50, "written together, not one by one"


async def test_one_that_does_not_read_skips_versions_and_slows_nobody() -> None:
    async with running() as hub:
        slow, quick = hub.connect(caller=holder("slow"), room=1), hub.connect(caller=holder("quick"))
        slow.subscribe("ROOTCA")
        quick.subscribe("ROOTCA")
        await quick.ack()
        await until(lambda: slow.unread == 1)
        for n in range(2, 40):
            hub.distribution.publish(bundle(n, ROOTS[n % 2]))
            await quick.ack()
        assert hub.counts.pushes == 2 + 38 + 1, "one is stuck on its way, and nothing piles up behind it"
        got = [await slow.read() for _ in range(2)]
        got.append(await slow.read())
        last = unpacked(got[-1].resources)["ROOTCA"]
        assert last.validation_context.trusted_ca.inline_bytes == bundle(39, ROOTS[1]).pem.encode()
        assert slow.unread == 0


# --- evidence


@in_both
async def test_what_was_acknowledged_is_evidence_of_the_certificate(new_wire: type[Wire]) -> None:
    async with running() as hub:
        client = hub.connect(new_wire(), holder("web", "0a", NOW + timedelta(hours=2)))
        client.subscribe("ROOTCA")
        response = await client.read()
        assert await hub.recorded() == [], "sent is not acknowledged"
        client.send(client.wire.ack(response))
        await until(lambda: hub.counts.acks == 1)
        await hub.recorded()
        end = NOW + timedelta(hours=2)
        assert hub.record.facts == [BundleFact("0a", f"{DOMAIN_ID}/web", 1, Channel.STREAM, end, NOW)]


async def test_a_bundle_that_is_fetched_is_evidence_of_the_certificate() -> None:
    async with running() as hub:
        end = NOW + timedelta(hours=2)
        answer = hub.distribution.fetch(holder("web", "0a", end), asking("ROOTCA"))
        assert names(answer) == {"ROOTCA"}
        await hub.recorded()
        assert hub.record.facts == [BundleFact("0a", f"{DOMAIN_ID}/web", 1, Channel.FETCH, end, NOW)]
        for serial, name in (("1", "ROOTCA"), ("2", DOMAIN_ID), ("3", "ALL")):
            hub.distribution.fetch(holder("web", "0a", end), asking(name))
            hub.distribution.fetch(holder("web", serial), asking(name))
        assert await hub.recorded() == [("0a", 1, ""), ("1", 1, ""), ("2", 1, ""), ("3", 1, "")]
        hub.distribution.publish(bundle(2))
        await until(lambda: hub.distribution.fetchable().named(SECRET_TYPE)["ROOTCA"].version != answer.version_info)
        hub.distribution.fetch(holder("web", "0a", end), asking("ROOTCA"))
        assert (await hub.recorded())[4:] == [("0a", 2, "")]


async def test_what_is_fetched_again_is_told_again_after_a_while() -> None:
    async with running(fetch_repeat=0.0) as hub:
        for _ in range(2):
            hub.distribution.fetch(holder(), asking("ROOTCA"))
            await hub.recorded()
        assert await hub.recorded() == [("web", 1, "")] * 2


async def test_who_has_a_stream_open_speaks_there_and_not_by_what_it_fetches() -> None:
    async with running() as hub:
        client = hub.connect()
        client.subscribe("ROOTCA")
        hub.distribution.fetch(holder(), asking("ROOTCA"))
        assert await hub.recorded() == []
        client.leave()
        await client.task
        hub.distribution.fetch(holder(), asking("ROOTCA"))
        assert await hub.recorded() == [("web", 1, "")]


async def test_a_fetch_by_nobodys_certificate_or_of_something_else_or_that_refuses_is_no_evidence() -> None:
    async with running(first=False) as hub:
        other = bundle_of("elsewhere.test", ROOTS[2])
        hub.distribution.publish(bundle(1), federated={other.trust_domain: other})
        await until(lambda: hub.distribution._current is not None)
        hub.distribution.fetch(token_bearer(), asking("ROOTCA"))
        hub.distribution.fetch(holder(), asking("spiffe://elsewhere.test"))
        refusing = asking("ROOTCA")
        refusing.error_detail.message = "no"
        hub.distribution.fetch(holder(), refusing)
        with pytest.raises(MeshcaError, match="none of the named"):
            hub.distribution.fetch(holder(), asking("nothing"))
        assert await hub.recorded() == []


async def test_a_fetch_is_answered_though_it_cannot_be_taken_down() -> None:
    async with running(waiting=1) as hub:
        hub.record.failure = unavailable("out")
        for name in "abc":
            assert names(hub.distribution.fetch(holder(name), asking("ROOTCA"))) == {"ROOTCA"}
        hub.record.failure = None
        await hub.recorded()
        hub.distribution.fetch(holder("c"), asking("ROOTCA"))
        assert ("c", 1, "") in await hub.recorded()


async def test_an_acknowledgement_counts_for_no_more_than_what_the_peer_may_hold() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire())
        client.subscribe("ROOTCA")
        first = await client.read()
        hub.distribution.publish(bundle(2))
        second = await client.read()
        client.send(client.wire.ack(first))
        await until(lambda: hub.counts.acks == 1)
        assert await hub.recorded() == [("web", 1, "")]
        client.send(client.wire.ack(second))
        await until(lambda: hub.counts.acks == 2)
        assert await hub.recorded() == [("web", 1, ""), ("web", 2, "")]


async def test_a_bundle_that_came_back_does_not_count_while_another_is_on_its_way() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire())
        client.subscribe("ROOTCA")
        first = await client.read()
        hub.distribution.publish(bundle(2))
        second = await client.read()
        hub.distribution.publish(bundle(3, ROOTS[1]))  # as after an abort: what 1 was
        third = await client.read()
        client.send(client.wire.ack(first))
        await until(lambda: hub.counts.acks == 1)
        assert await hub.recorded() == [("web", 2, "")], "it may hold the second by now"
        client.send(client.wire.ack(second))
        client.send(client.wire.ack(third))
        await until(lambda: hub.counts.acks == 3)
        assert (await hub.recorded())[-1] == ("web", 3, "")


async def test_who_holds_the_content_of_a_newer_bundle_already_counts_without_a_push() -> None:
    async with running() as hub:
        client = hub.connect()
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.counts.acks == 1)
        hub.distribution.publish(bundle(2, ROOTS[1]))
        await until(lambda: ("web", 2, "") in hub.record.known)
        assert hub.counts.pushes == 1


async def test_every_form_that_is_wanted_has_to_be_acknowledged() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire())
        client.subscribe("ROOTCA", "ALL")
        await client.ack()
        await until(lambda: hub.counts.acks == 1)
        hub.distribution.publish(bundle(2))
        await client.ack()
        await until(lambda: hub.counts.acks == 2)
        assert await hub.recorded() == [("web", 1, "")]
        await client.ack()
        await until(lambda: hub.counts.acks == 3)
        assert await hub.recorded() == [("web", 1, ""), ("web", 2, "")]


async def two_forms(hub: Hub) -> tuple[Client, Client]:
    """A certificate's two streams, as an Envoy opens them: each was sent a form of the bundle."""
    one, other = hub.connect(aggregated=False), hub.connect(aggregated=False)
    one.subscribe("ROOTCA")
    other.subscribe("ALL")
    await until(lambda: hub.counts.pushes == 2)
    return one, other


async def test_every_stream_of_a_certificate_has_to_acknowledge() -> None:
    async with running() as hub:
        one, other = await two_forms(hub)
        await one.ack()
        await until(lambda: hub.counts.acks == 1)
        assert await hub.recorded() == []
        await other.ack()
        await until(lambda: hub.counts.acks == 2)
        assert await hub.recorded() == [("web", 1, "")]


async def test_a_stream_that_ended_is_waited_for_no_longer_after_a_while() -> None:
    async with running() as hub:
        one, other = await two_forms(hub)
        await one.ack()
        await until(lambda: hub.counts.acks == 1)
        other.leave()
        await other.task
        assert await hub.recorded() == [], "perhaps the connection is lost, and it is the next to end"
        await until(lambda: hub.record.known == [("web", 1, "")])


async def test_a_lost_connection_proves_nothing_whichever_of_its_streams_ends_first() -> None:
    async with running() as hub:
        one, other = await two_forms(hub)
        await one.ack()
        await until(lambda: hub.counts.acks == 1)
        other.leave()
        await other.task
        one.leave()
        await one.task
        witness = hub.connect(caller=holder("witness"))
        witness.subscribe("ROOTCA")
        await witness.ack()
        await asyncio.sleep(3 * AFTERTHOUGHT)  # for something not to happen, there is no condition
        assert await hub.recorded() == [("witness", 1, "")]


async def test_certificates_of_one_identity_are_holders_of_their_own() -> None:
    async with running() as hub:
        one, other = hub.connect(caller=holder("web", "01")), hub.connect(caller=holder("web", "02"))
        one.subscribe("ROOTCA")
        other.subscribe("ROOTCA")
        await one.ack()
        await until(lambda: hub.counts.acks == 1)
        assert await hub.recorded() == [("01", 1, "")]


async def test_a_caller_without_a_certificate_proves_nothing() -> None:
    async with running() as hub:
        client = hub.connect(caller=token_bearer())
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.counts.acks == 1)
        hub.distribution.publish(bundle(2))
        await client.nack()
        await until(lambda: hub.counts.nacks == 1)
        assert await hub.recorded() == []


async def test_other_resources_prove_nothing() -> None:
    foreign = bundle_of("other.test", ROOTS[3])
    async with running() as hub:
        hub.distribution.publish(bundle(1), federated={foreign.trust_domain: foreign})
        client = hub.connect(DeltaWire())
        client.subscribe("spiffe://other.test")
        assert names(await client.ack()) == {"spiffe://other.test"}
        client.send(DeltaWire(RENEWAL_TYPE).subscribe("renewal"))
        client.send(DeltaWire(RENEWAL_TYPE).ack(await client.read()))
        await until(lambda: hub.counts.acks == 2)
        assert await hub.recorded() == []
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.counts.acks == 3)
        assert await hub.recorded() == [("web", 1, "")], "nor do they stand in the way of what does"


async def test_who_comes_back_with_what_would_be_sent_counts_and_is_told_once() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire())
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.counts.acks == 1)
        client.leave()
        await client.task
    async with running() as restarted:
        for _ in range(2):
            again = restarted.connect(client.wire)
            again.send(client.wire.reconnect())
            await until(lambda: restarted.counts.acks > 0)
            again.leave()
            await again.task
            restarted.counts.acks = 0
        assert restarted.counts.pushes == 0
        assert await restarted.recorded() == [("web", 1, "")], "no fact where there is nothing new"


async def test_who_comes_back_with_something_unknown_counts_for_nothing() -> None:
    async with running() as hub:
        wire = DeltaWire()
        wire.names, wire.versions = {"ROOTCA"}, {"ROOTCA": "of another server"}
        client = hub.connect(wire)
        client.send(wire.reconnect())
        await client.read()
        assert await hub.recorded() == []


async def test_a_content_of_too_long_ago_proves_nothing() -> None:
    async with running() as hub:
        client = hub.connect(DeltaWire(BUNDLE_TYPE), room=1)
        client.subscribe(DOMAIN_ID)
        await until(lambda: client.unread == 1)
        hub.distribution.publish(bundle(2))
        await until(lambda: hub.counts.pushes == 2)  # it is stuck on its way
        latest = REMEMBERED + 3
        for n in range(3, latest + 1):
            hub.distribution.publish(bundle(n, ROOTS[0]))
            await asyncio.sleep(0)  # each is taken
        await client.ack()
        await client.ack()
        await until(lambda: hub.counts.acks == 2)
        assert await hub.recorded() == []
        await client.ack()
        await until(lambda: hub.counts.acks == 3)
        assert await hub.recorded() == [("web", latest, "")]


# --- refusals


@in_both
async def test_a_refusal_is_parked_and_reported_redacted_and_what_was_held_before_stays(new_wire: type[Wire]) -> None:
    async with running() as hub:
        client = hub.connect(new_wire())
        client.subscribe("ROOTCA")
        await client.ack()
        hub.distribution.publish(bundle(2))
        await client.nack("bad CA: -----BEGIN PRIVATE KEY----- MIIE")
        assert names(await client.ack()) == {"ROOTCA"}, "the last good one again, since Envoy keeps the bad half"
        await until(lambda: hub.counts.acks == 2)
        assert (await hub.recorded())[-2:] == [("web", 2, "bad CA: [redacted]"), ("web", 1, "")]
        hub.distribution.publish(bundle(2), RenewalWindow(("ab",), NOW, 60))
        hub.distribution.publish(bundle(3))
        (secret,) = unpacked(getattr(r, "resource", r) for r in (await client.ack()).resources).values()
        assert secret.validation_context.trusted_ca.inline_bytes == bundle(3).pem.encode()
        await until(lambda: hub.counts.acks == 3)
        assert (await hub.recorded())[-1] == ("web", 3, "")


@in_both
async def test_who_refuses_a_bundle_that_another_stream_of_its_accepted_takes_back_what_was_proven(
    new_wire: type[Wire],
) -> None:
    async with running() as hub:
        one = hub.connect(new_wire())
        one.subscribe("ROOTCA")
        await one.ack()
        hub.distribution.publish(bundle(2))
        await one.ack()
        await until(lambda: hub.counts.acks == 2)
        assert (await hub.recorded())[-1] == ("web", 2, "")
        other = hub.connect(new_wire())
        other.subscribe("ROOTCA")
        await other.nack("not here")
        await until(lambda: hub.counts.nacks == 1)
        assert (await hub.recorded())[-1] == ("web", 2, "not here")
        hub.distribution.publish(bundle(3))
        await one.ack()
        await other.ack()
        await until(lambda: hub.counts.acks == 4)
        assert (await hub.recorded())[-1] == ("web", 3, "")


# --- the store


async def test_an_outage_of_the_store_delays_evidence_and_nothing_else() -> None:
    async with running() as hub:
        hub.record.failure = unavailable("out")
        client = hub.connect()
        client.subscribe("ROOTCA")
        await client.ack()
        await until(lambda: hub.record.failed > 1)
        hub.distribution.publish(bundle(2))
        await client.ack()
        hub.record.failure = None
        await until(lambda: hub.counts.acks == 2)
        assert (await hub.recorded())[-1] == ("web", 2, "")


async def test_whose_acknowledgement_cannot_be_kept_has_to_come_back_and_then_counts() -> None:
    async with running(waiting=1) as hub:
        hub.record.failure = unavailable("out")
        one, other = hub.connect(caller=holder("one")), hub.connect(caller=holder("other"))
        one.subscribe("ROOTCA")
        await one.ack()
        await until(lambda: hub.record.failed > 0)
        await until(lambda: len(hub.queue) == 1)
        other.subscribe("ROOTCA")
        await other.ack()
        assert (await other.failure()).kind is ErrorKind.UNAVAILABLE
        hub.record.failure = None
        await hub.recorded()
        again = hub.connect(caller=holder("other"))
        again.subscribe("ROOTCA")
        await again.ack()
        await until(lambda: ("other", 1, "") in hub.record.known)


# --- bounds


async def test_streams_are_bounded_in_all_and_by_identity_and_a_place_is_free_again() -> None:
    async with running(StreamLimits(total=3, per_identity=2)) as hub:
        mine = [hub.connect(caller=holder("me", serial)) for serial in ("01", "02")]
        with pytest.raises(MeshcaError, match="me has 2 streams open") as refused:
            hub.connect(caller=holder("me", "03"))
        assert refused.value.kind is ErrorKind.EXHAUSTED
        hub.connect(caller=holder("you"))
        with pytest.raises(MeshcaError, match="3 streams are open") as refused:
            hub.connect(caller=holder("she"))
        assert refused.value.kind is ErrorKind.EXHAUSTED
        assert hub.counts.open == 3
        mine[0].leave()
        await mine[0].task
        hub.connect(caller=holder("she"))


@pytest.mark.parametrize("reads", [True, False])
async def test_a_stream_ends_with_the_certificate_of_its_caller(reads: bool) -> None:
    async with running() as hub:
        client = hub.connect(caller=holder("web", until=NOW + timedelta(minutes=5)), room=1)
        client.subscribe("ROOTCA")
        await until(lambda: client.unread == 1)
        if not reads:
            hub.distribution.publish(bundle(2))
            await until(lambda: hub.counts.pushes == 2)
        other = hub.connect(caller=holder("other"))
        hub.clock.move(timedelta(minutes=5))
        assert (await client.failure()).kind is ErrorKind.UNAUTHENTICATED
        assert not other.task.done()
        await until(lambda: hub.counts.open == 1)


async def test_a_stream_by_a_token_ends_at_an_age() -> None:
    async with running(StreamLimits(max_age=timedelta(milliseconds=20))) as hub:
        mine, other = hub.connect(caller=token_bearer()), hub.connect()
        assert (await mine.failure()).kind is ErrorKind.UNAVAILABLE
        assert not other.task.done()


async def test_stopping_ends_all_streams_and_takes_no_more() -> None:
    async with running() as hub:
        client, waiting = hub.connect(), hub.connect()
        client.subscribe("ROOTCA")
        await client.read()
        hub.distribution.close()
        assert (await client.failure()).kind is ErrorKind.UNAVAILABLE
        assert (await waiting.failure()).kind is ErrorKind.UNAVAILABLE
        with pytest.raises(MeshcaError, match="stopping"):
            hub.connect()
        assert hub.counts.open == 0


async def test_a_stream_that_leaves_at_any_moment_leaves_nothing_behind() -> None:
    async with running() as hub:
        for turns in range(1, 9):
            client = hub.connect(room=1)
            client.subscribe("ROOTCA")
            hub.distribution.publish(bundle(turns + 2, ROOTS[turns % 2]))
            for _ in range(turns):
                await asyncio.sleep(0)
            client.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await client.task
        assert not hub.distribution._streams
        assert not hub.distribution._holders
        assert not hub.distribution._of_identity
        assert len(asyncio.all_tasks()) == 5, "this test, the hub and its three parts"
