"""The whole agent against a real certificate authority on loopback: issue, serve, renew, outlast, restart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from structlog.testing import capture_logs

from meshca.errors import ErrorKind, MeshcaError
from tests.agent.discovery import Sotw, serial, until
from tests.agent.sites import BEARER, JOIN, Site
from tests.fakes.certificate_authority import SPIFFE_ID, Behaviour, FakeAuthority
from tests.fakes.clock import OffsetClock
from tests.svids import new_key

SHORT = timedelta(seconds=3)


@pytest.fixture
async def ca() -> AsyncIterator[FakeAuthority]:
    async with FakeAuthority(join_tokens=(JOIN,), bearer_tokens=(BEARER,)) as authority:
        yield authority


@pytest.fixture
def site(short_tmp: Path, ca: FakeAuthority) -> Site:
    return Site(short_tmp, ca)


async def test_it_gets_an_identity_once_by_token_and_renews_it_over_mtls_while_serving(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=SHORT)
    with capture_logs() as logs:
        async with site.running(), site.channel() as channel:
            await site.is_ready()
            stream = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())
            await stream.subscribe("default")
            seen = []
            for _ in range(3):
                seen.append(serial((await stream.receive())["default"]))
                await stream.ack()
    assert len(set(seen)) == 3
    assert [call.listener for call in ca.calls][:3] == ["token", "mtls", "mtls"]
    obtained = [event for event in logs if event["event"] == "identity_obtained"]
    assert [event["serial"] for event in obtained if event["serial"] in seen] == seen
    assert {event["spiffe_id"] for event in obtained} == {SPIFFE_ID}
    assert JOIN not in str(logs)
    assert "PRIVATE KEY" not in str(logs)


async def test_ready_file_and_certificate_files_are_whole_and_the_ready_file_goes_with_the_agent(site: Site) -> None:
    async with site.running() as agent:
        await site.is_ready()
        facts = json.loads(site.ready.read_text())
        assert facts == {"socket": str(site.socket), "pid": os.getpid(), "spiffe_id": SPIFFE_ID}
        key = load_pem_private_key((site.output / "key.pem").read_bytes(), None)
        leaf = x509.load_pem_x509_certificates((site.output / "cert-chain.pem").read_bytes())[0]
        assert key.public_key() == leaf.public_key()
        assert (site.output / "root-cert.pem").read_bytes() == site.ca.trust_pem
        assert stat.S_IMODE((site.output / "key.pem").stat().st_mode) == 0o600
        assert agent.identity is not None
        assert f"{leaf.serial_number:x}" == agent.identity.serial
    assert not site.ready.exists()
    assert not site.socket.exists()


async def test_through_an_outage_it_serves_what_it_holds_and_renews_when_the_server_is_back(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=4))
    with capture_logs() as logs:
        async with site.running() as agent:
            await site.is_ready()
            assert agent.identity is not None
            first = agent.identity.serial
            await ca.down()
            await until(lambda: any(event["event"] == "renewal_failed" for event in logs))
            assert serial((await site.fetch())["default"]) == first
            await ca.up()
            await until(lambda: agent.identity is not None and agent.identity.serial != first)
            assert serial((await site.fetch())["default"]) == agent.identity.serial
    (failure, *_more) = [event for event in logs if event["event"] == "renewal_failed"]
    assert failure["next_try_seconds"] > 0
    assert failure["code"]
    assert not any(event["event"] == "identity_expired" for event in logs)


async def test_past_expiry_new_streams_get_trust_alone_and_the_token_brings_it_back(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=2))
    with capture_logs() as logs:
        async with site.running(token_file=site.token_file), site.channel() as channel:
            await site.is_ready()
            old = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())
            await old.subscribe("default")
            await old.receive()
            await old.ack()
            await ca.down()
            await until(lambda: any(event["event"] == "identity_expired" for event in logs), 10)
            assert set(await site.fetch()) == {"ROOTCA"}
            ca.behaviour = Behaviour()
            calls = len(ca.calls)
            await ca.up()
            renewed = await asyncio.wait_for(old.receive(), 10)
            assert set(await site.fetch()) == {"default", "ROOTCA"}
            assert serial((await site.fetch())["default"]) == serial(renewed["default"])
    assert ca.calls[calls].listener == "token", "an expired certificate is not even shown"
    assert BEARER not in str(logs)


async def test_a_restarted_agent_goes_on_without_its_spent_token_and_without_the_server(
    site: Site, ca: FakeAuthority
) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=6))
    async with site.running() as agent:
        await site.is_ready()
        assert agent.identity is not None
        first = agent.identity.serial
    assert ca.join_tokens == set()
    await ca.down()
    async with site.running() as agent:
        await site.is_ready()
        assert serial((await site.fetch())["default"]) == first
        await ca.up()
        await until(lambda: agent.identity is not None and agent.identity.serial != first, 10)
    assert ca.calls[-1].listener == "mtls"
    assert f"{ca.calls[-1].peer_serial:x}" == first


async def test_the_renewed_identity_is_saved_not_only_the_first(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour = Behaviour(ttl=SHORT)
    async with site.running() as agent:
        await until(lambda: len(ca.calls) >= 2)
        await until(lambda: agent.identity is not None and int(agent.identity.serial, 16) != ca.calls[1].peer_serial)
        ca.behaviour = Behaviour()
        await until(lambda: agent.identity is not None and agent.identity.life.length > SHORT)
    assert agent.identity is not None
    last = agent.identity.serial
    await ca.down()
    async with site.running() as restarted:
        await site.is_ready()
        assert restarted.identity is not None
        assert restarted.identity.serial == last


async def test_a_hostile_answer_changes_nothing_that_is_served(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=4))
    with capture_logs() as logs:
        async with site.running() as agent:
            await site.is_ready()
            assert agent.identity is not None
            first = agent.identity.serial
            files = (site.output / "cert-chain.pem").read_bytes()
            ca.behaviour = Behaviour(public_key=new_key().public_key())
            await until(lambda: any(event["event"] == "renewal_failed" for event in logs))
            assert serial((await site.fetch())["default"]) == first
            assert (site.output / "cert-chain.pem").read_bytes() == files
            ca.behaviour = Behaviour()
            await until(lambda: agent.identity is not None and agent.identity.serial != first)
    (failure, *_more) = [event for event in logs if event["event"] == "renewal_failed"]
    assert "another key" in failure["reason"]


async def test_root_rotation_reaches_proxies_as_trust_first(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour = Behaviour(ttl=SHORT)
    async with site.running(), site.channel() as channel:
        await site.is_ready()
        stream = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())
        await stream.subscribe("default", "ROOTCA")
        await stream.receive()
        await stream.ack()
        await ca.rotate()
        names: list[str] = []
        while "ROOTCA" not in names:
            names += sorted(await stream.receive())
            await stream.ack()
        (after,) = await stream.receive()
        assert after == "default"


async def test_without_an_identity_it_is_not_ready_and_keeps_trying(site: Site, ca: FakeAuthority) -> None:
    ca.join_tokens.clear()
    with capture_logs() as logs:
        async with site.running() as agent:
            await until(lambda: len(ca.calls) >= 2)
            assert not site.ready.exists()
            assert agent.identity is None
            ca.join_tokens.add(JOIN)
            await site.is_ready()
    assert next(event["code"] for event in logs if event["event"] == "issuance_failed") == "unauthenticated"
    assert JOIN not in str(logs)


async def test_a_retry_hint_of_the_server_is_heeded(site: Site, ca: FakeAuthority) -> None:
    hint = (("grpc-retry-pushback-ms", "3600000"),)
    ca.behaviour = Behaviour(refuse=grpc.StatusCode.RESOURCE_EXHAUSTED, trailing=hint)
    with capture_logs() as logs:
        async with site.running():
            await until(lambda: any(event["event"] == "issuance_failed" for event in logs))
    (event,) = [event for event in logs if event["event"] == "issuance_failed"]
    assert 300 <= event["next_try_seconds"] <= 330, "heeded, but no server can silence an agent for an hour"


async def test_it_serves_and_stops_at_once_while_a_call_hangs(site: Site, ca: FakeAuthority) -> None:
    async with site.running():
        await site.is_ready()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody speaks
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with site.running(server=address, state_dir=site.directory / "none"):
            await until(site.socket.exists)
            caller = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
            with pytest.raises(grpc.aio.AioRpcError) as answer:
                await site.fetch()
            assert answer.value.code() is grpc.StatusCode.UNAVAILABLE
            began = datetime.now(UTC)
        assert datetime.now(UTC) - began < timedelta(seconds=3)
        caller[0].close()


async def test_a_second_agent_on_the_socket_is_refused_and_harms_nothing(site: Site) -> None:
    async with site.running():
        await site.is_ready()
        with pytest.raises(MeshcaError, match="another agent serves it") as refusal:
            await site.agent().run(asyncio.Event())
        assert refusal.value.kind is ErrorKind.CONFLICT
        assert site.ready.exists()
        assert set(await site.fetch()) == {"default", "ROOTCA"}


async def test_the_socket_of_a_killed_agent_is_taken_over(site: Site) -> None:
    site.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.socket))
    async with site.running():
        await site.is_ready()
        assert await site.fetch()


async def test_outputs_that_cannot_be_written_do_not_stop_the_serving(site: Site) -> None:
    site.socket.parent.mkdir(mode=0o700)
    (site.socket.parent / "state").write_text("in the way")
    (site.output / "...data.tmp").mkdir(parents=True)
    with capture_logs() as logs:
        async with site.running():
            await site.is_ready()
            assert set(await site.fetch()) == {"default", "ROOTCA"}
    assert [event["event"] for event in logs if event["log_level"] == "error"] == [
        "state_not_saved",
        "files_not_written",
    ]


# Clocks that are set


def seen(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_a_clock_that_was_days_ahead_and_is_set_right_delays_the_first_identity_by_seconds(
    site: Site, ca: FakeAuthority
) -> None:
    clock = OffsetClock()
    clock.offset = timedelta(days=3)
    with capture_logs() as logs:
        async with site.running(clock, token_file=site.token_file) as agent:
            await until(lambda: len(seen(logs, "issuance_failed")) >= 2)
            assert agent.identity is None
            clock.offset = timedelta(0)
            await site.is_ready()
    assert "expired" in seen(logs, "issuance_failed")[0]["reason"]


async def test_a_clock_that_is_set_back_does_not_put_off_the_renewal(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour, clock = Behaviour(ttl=timedelta(seconds=4)), OffsetClock()
    async with site.running(clock) as agent:
        await site.is_ready()
        assert agent.identity is not None
        first = agent.identity.serial
        clock.offset = -timedelta(minutes=50)
        await until(lambda: agent.identity is not None and agent.identity.serial != first)


async def test_a_clock_that_is_set_beyond_the_expiry_is_noticed_and_the_token_helps(
    site: Site, ca: FakeAuthority
) -> None:
    clock = OffsetClock()
    async with site.running(clock, token_file=site.token_file) as agent:
        await site.is_ready()
        assert agent.identity is not None
        first = agent.identity.serial
        ca.behaviour = Behaviour(ttl=timedelta(hours=5))
        clock.offset = timedelta(hours=3)
        assert set(await site.fetch()) == {"ROOTCA"}, "nobody is given an expired certificate as new"
        await until(lambda: agent.identity is not None and agent.identity.serial != first)
        assert set(await site.fetch()) == {"default", "ROOTCA"}
    assert [call.listener for call in ca.calls] == ["token", "token"]


async def test_a_clock_that_was_ahead_for_a_while_costs_no_identity_even_without_a_token(
    site: Site, ca: FakeAuthority
) -> None:
    clock = OffsetClock()
    with capture_logs() as logs:
        async with site.running(clock) as agent:
            await site.is_ready()
            assert agent.identity is not None
            first = agent.identity.serial
            clock.offset = timedelta(days=3)
            await until(lambda: bool(seen(logs, "identity_expired")))
            clock.offset = timedelta(0)
            assert set(await site.fetch()) == {"default", "ROOTCA"}
            await until(lambda: agent.identity is not None and agent.identity.serial != first, 10)
    assert ca.calls[-1].listener == "mtls"


# What is taken away while it runs


async def test_what_could_not_be_written_is_written_as_soon_as_it_can_be(site: Site) -> None:
    site.socket.parent.mkdir(mode=0o700)
    (site.socket.parent / "state").write_text("in the way")
    (site.output / "...data.tmp").mkdir(parents=True)
    with capture_logs() as logs:
        async with site.running() as agent:
            await site.is_ready()
            assert not (site.output / "key.pem").exists()
            (site.socket.parent / "state").unlink()
            (site.output / "...data.tmp").rmdir()
            await until(lambda: all((site.output / n).exists() for n in ("key.pem", "cert-chain.pem", "root-cert.pem")))
            await until((site.socket.parent / "state" / "identity.json").exists)
            assert agent.identity is not None
            leaf = x509.load_pem_x509_certificates((site.output / "cert-chain.pem").read_bytes())[0]
            assert f"{leaf.serial_number:x}" == agent.identity.serial
    assert len(seen(logs, "identity_obtained")) == 1, "not by a renewal, which is half an hour away"


async def test_a_socket_directory_that_is_removed_comes_back_with_all_that_was_in_it(site: Site) -> None:
    with capture_logs() as logs:
        async with site.running() as agent, site.channel() as channel:
            await site.is_ready()
            stream = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())
            await stream.subscribe("default")
            await stream.receive()
            shutil.rmtree(site.socket.parent)
            await until(site.socket.exists)
            assert agent.identity is not None
            assert serial((await site.fetch())["default"]) == agent.identity.serial
            assert stat.S_IMODE(site.socket.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
            await until((site.socket.parent / "state" / "identity.json").exists)
            again = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())  # the old connection's channel
            await again.subscribe("default")
            assert serial((await again.receive())["default"]) == agent.identity.serial
    assert len(seen(logs, "socket_was_gone")) == 1
    assert not site.socket.exists()


async def test_an_agent_whose_place_another_took_keeps_its_proxies_and_the_other_survives_its_end(site: Site) -> None:
    with capture_logs() as logs:
        async with site.running(token_file=site.token_file), site.channel() as channel:
            await site.is_ready()
            stream = Sotw(SecretDiscoveryServiceStub(channel).StreamSecrets())
            await stream.subscribe("default")
            await stream.receive()
            site.socket.unlink()
            site.ready.unlink()
            other, stop = site.agent(token_file=site.token_file, state_dir=site.directory / "other"), asyncio.Event()
            running = asyncio.create_task(other.run(stop))
            await site.is_ready()
            await until(lambda: bool(seen(logs, "socket_lost")))
            assert "another agent serves it" in seen(logs, "socket_lost")[0]["reason"]
            await stream.ack()
            await stream.subscribe("default", "ROOTCA")
            assert await stream.receive()
        await until(site.socket.exists)  # gRPC removes what has the first one's name; the other notices
        assert other.identity is not None
        assert serial((await site.fetch())["default"]) == other.identity.serial
        stop.set()
        await running


async def test_an_output_directory_that_is_removed_is_made_anew(site: Site, ca: FakeAuthority) -> None:
    ca.behaviour = Behaviour(ttl=timedelta(seconds=4))
    async with site.running():
        await site.is_ready()
        shutil.rmtree(site.output)
        await until((site.output / "root-cert.pem").exists)
        load_pem_private_key((site.output / "key.pem").read_bytes(), None)


async def test_a_ready_file_that_cannot_be_is_one_clear_error(site: Site) -> None:
    site.ready.mkdir()
    with pytest.raises(MeshcaError, match=r"--ready-file .*ready\.json: cannot be removed: Is a directory") as refusal:
        await site.agent().run(asyncio.Event())
    assert refusal.value.kind is ErrorKind.INVALID
    assert not site.socket.exists()
