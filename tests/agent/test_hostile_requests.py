"""Malformed and hostile discovery requests over the real socket: the exact answer to each, or exact silence.

After each of them the agent serves a good client as if nothing had happened, holds no stream that is over, has logged
nothing that it did not mean to log, and no key.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    ResourceLocator,
)
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from meshca.agent.identity import AgentIdentity
from meshca.xds.snapshot import SECRET_TYPE
from tests.agent.discovery import SECONDS, unpacked, until
from tests.agent.identities import identity
from tests.agent.rigs import Rig
from tests.fakes.certificate_authority import SPIFFE_ID, fresh_root

ROOT = fresh_root("hostile")
HELD = identity(ROOT)
VERSIONS = {resource.name: resource.version for resource in (*HELD.publication.trust, *HELD.publication.identity)}
KEY = HELD.svid.private_key_pem.decode()

SOTW = {
    "sds": "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "ads": "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
}
DELTA = {
    "sds": "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    "ads": "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
}
FETCH = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


@dataclass(frozen=True)
class Refused:
    """The stream ends with exactly this."""

    code: grpc.StatusCode
    message: str


@dataclass(frozen=True)
class Removed:
    """A delta answer with nothing but these removals."""

    names: tuple[str, ...]


class Read:
    """A step of a case: the next response, which later steps may answer."""


READ = Read()
SILENCE: tuple[str, ...] = ()
Message: TypeAlias = Any  # bytes, or a request of either variant; the messages ship no types
Step: TypeAlias = Any  # a message, READ, or what makes a message of the responses read so far
Outcome: TypeAlias = Refused | Removed | tuple[str, ...]  # the names of the next response; SILENCE: there is none
Cases: TypeAlias = dict[str, tuple[tuple[Step, ...], Outcome]]


def invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def exhausted(message: str) -> Refused:
    return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def sotw(*names: str, type_url: str = SECRET_TYPE, **fields: Any) -> DiscoveryRequest:
    return DiscoveryRequest(type_url=type_url, resource_names=names, **fields)


def delta(*names: str, type_url: str = SECRET_TYPE, **fields: Any) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields)


def node_of(size: int) -> Node:
    metadata = Struct()
    metadata["x"] = "y" * size
    return Node(id="huge", metadata=metadata)


def refusal(text: str = "refused") -> Status:
    return Status(code=13, message=text)


def many(count: int) -> list[str]:
    return [f"unknown-{number}" for number in range(count)]


def unserved(type_url: str) -> Refused:
    return invalid(f"type_url {type_url[:200]!r} is not served on this stream: ask for {SECRET_TYPE}")


def too_many(field: str) -> Refused:
    return exhausted(f"{field} has more than 100 names, the most that one stream may have")


def unfit(field: str, problem: str) -> Refused:
    return invalid(f"{field}: a name has {problem}")


# What both variants have in common: `ask` makes their request, `field` is where their names stand.


def cases_of_both(ask: Callable[..., Any], field: str) -> Cases:
    message = ask().DESCRIPTOR.name
    no_message = invalid(f"the request is no {message}")
    unprintable = unfit(field, "a character that cannot be printed")
    return {
        "garbage instead of protobuf": ((b"\xff\xff\xff\xff garbage",), no_message),
        "a field cut short": ((ask("default").SerializeToString()[:-1],), no_message),
        "text that is not UTF-8": ((b"\x1a\x03\xff\xfe\xfd",), no_message),
        "metadata nested without end": ((deep_bytes(ask),), no_message),
        "garbage after a good request": ((ask("default"), READ, b"\xff\xff\xff\xff"), no_message),
        "another type": ((ask("default", type_url=CLUSTER),), unserved(CLUSTER)),
        "another type mid-stream": ((ask("default"), READ, ask(type_url=CLUSTER)), unserved(CLUSTER)),
        "the type in other letters": ((ask("default", type_url=SECRET_TYPE.lower()),), unserved(SECRET_TYPE.lower())),
        "the type with a blank": ((ask("default", type_url=SECRET_TYPE + " "),), unserved(SECRET_TYPE + " ")),
        "the type without its host": ((ask(type_url=SECRET_TYPE[20:]),), unserved(SECRET_TYPE[20:])),
        "a type of 500,000 letters": ((ask(type_url="x" * 500_000),), unserved("x" * 200)),
        "a type that would break a log line": ((ask(type_url="a\nb"),), unserved("a\nb")),
        "101 names": ((ask(*many(101)),), too_many(field)),
        "thousands of names": ((ask(*many(30_000)),), too_many(field)),
        "one name 101 times": ((ask(*["default"] * 101),), too_many(field)),
        "one name 100 times": ((ask(*["default"] * 100),), ("default",)),
        "99 names that nobody knows": ((ask(*many(99)),), SILENCE),
        "an empty name": ((ask("default", ""),), unfit(field, "0 characters: 1 to 2048 are allowed")),
        "a name of 2049 letters": ((ask("x" * 2049),), unfit(field, "2049 characters: 1 to 2048 are allowed")),
        "a name of 2048 letters": ((ask("x" * 2048),), SILENCE),
        "a name with a line break": ((ask("default\n"),), unprintable),
        "a name with a NUL": ((ask("default\0"),), unprintable),
        "a name that turns the text around": ((ask("\u202edefault"),), unprintable),
        "a wildcard": ((ask("*"),), SILENCE),
        "a wildcard beside a name": ((ask("*", "default"),), ("default",)),
        "no name": ((ask(),), SILENCE),
        "names that only look like ours": (
            (ask("Default", "default ", "../default", "rootca", "spiffe://example.org/", SPIFFE_ID + "/"),),
            SILENCE,
        ),
        "the id of another workload": ((ask("spiffe://example.org/ns/shop/sa/admin"),), SILENCE),
        "a refusal of nothing": ((ask(error_detail=refusal()),), SILENCE),
        "a refusal without a nonce that asks, too": ((ask("default", error_detail=refusal()),), ("default",)),
        "a refusal under a foreign nonce": (
            (ask("default"), READ, ask("default", response_nonce="foreign", error_detail=refusal())),
            SILENCE if ask is sotw else ("default",),  # delta asks again by naming it
        ),
        "a nonce of 500,000 letters": ((ask("default", response_nonce="n" * 500_000),), ("default",)),
        "a node of 900,000 bytes": ((ask("default", node=node_of(900_000)),), ("default",)),
        "a node id of 1025 letters": (
            (ask("default", node=Node(id="x" * 1025)),),
            invalid("node.id is 1025 characters long: at most 1024 are allowed"),
        ),
        "a node id that would break a log line": (
            (ask("default", node=Node(id="a\nb")),),
            invalid("node.id has a character that cannot be printed"),
        ),
        "a node id out of bounds after good requests": (
            (ask("default", node=Node(id="a")), READ, ask(node=Node(id="b" * 1025))),
            invalid("node.id is 1025 characters long: at most 1024 are allowed"),
        ),
        "no node at all": ((ask("default"),), ("default",)),
        "a node that changes its name": (
            (ask("default", node=Node(id="a")), READ, ask("default", "ROOTCA", node=Node(id="b"))),
            ("ROOTCA",) if ask is sotw else ("ROOTCA", "default"),
        ),
        "fields of a future version": ((ask("default").SerializeToString() + b"\xba\x3e\x03abc",), ("default",)),
        "a message above the size bound": (
            (sized(ask, 1024 * 1024 + 1),),
            exhausted("SERVER: Received message larger than max (1048577 vs. 1048576)"),
        ),
        "a message of the size bound": ((sized(ask, 1024 * 1024),), ("default",)),
    }


def deep_bytes(ask: Callable[..., Any]) -> bytes:
    """100 levels are what protobuf reads: the message is put together by hand, for it would not be written either."""
    metadata = b""
    for _ in range(200):
        value = b"\x2a" + _varint(len(metadata)) + metadata  # Value.struct_value
        entry = b"\x0a\x01x\x12" + _varint(len(value)) + value
        metadata = b"\x0a" + _varint(len(entry)) + entry  # Struct.fields
    node = b"\x1a" + _varint(len(metadata)) + metadata  # Node.metadata
    number = b"\x12" if ask is sotw else b"\x0a"  # DiscoveryRequest.node, DeltaDiscoveryRequest.node
    return number + _varint(len(node)) + node


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + _varint(rest) if rest else bytes((low,))


def sized(ask: Callable[..., Any], size: int) -> bytes:
    """A good request of exactly that many bytes."""
    empty = ask("default", node=Node(user_agent_name="x" * (size - 1000)))
    missing = size - len(empty.SerializeToString())
    request: bytes = ask("default", node=Node(user_agent_name="x" * (size - 1000 + missing))).SerializeToString()
    assert len(request) == size
    return request


SOTW_CASES: Cases = {
    **cases_of_both(sotw, "resource_names"),
    "a delta request": (
        (delta("default", resource_names_unsubscribe=["x"]),),
        invalid("the request is no DiscoveryRequest"),
    ),
    "an answer that is out of date": (
        (
            sotw("default"),
            READ,
            sotw("default", "ROOTCA"),
            READ,
            lambda seen: sotw("default", version_info=seen[0].version_info, response_nonce=seen[0].nonce),
        ),
        SILENCE,
    ),
    "one answer twice": (
        (
            sotw("default"),
            READ,
            lambda seen: sotw("default", version_info=seen[0].version_info, response_nonce=seen[0].nonce),
            lambda seen: sotw("default", version_info=seen[0].version_info, response_nonce=seen[0].nonce),
        ),
        SILENCE,
    ),
    "an answer under a nonce of an earlier stream": ((sotw("default", response_nonce="earlier"),), ("default",)),
    "an answer that names no version": (
        (sotw("default"), READ, lambda seen: sotw("default", response_nonce=seen[0].nonce)),
        SILENCE,
    ),
    "a version that never was": ((sotw("default", version_info="lie"),), ("default",)),
    "a version of 500,000 letters": ((sotw("default", version_info="v" * 500_000),), ("default",)),
    "the current version of another name": ((sotw("default", version_info=VERSIONS["ROOTCA"]),), ("default",)),
    "names by locator": ((sotw(resource_locators=[ResourceLocator(name="default")]),), SILENCE),
    "all names withdrawn": (
        (
            sotw("default"),
            READ,
            lambda seen: sotw(version_info=seen[0].version_info, response_nonce=seen[0].nonce),
        ),
        SILENCE,
    ),
    "a refusal with a key in it": (
        (
            sotw("default"),
            READ,
            lambda seen: sotw("default", response_nonce=seen[0].nonce, error_detail=refusal(f"bad: {KEY}")),
        ),
        SILENCE,
    ),
    "one refusal twice": (
        (
            sotw("default"),
            READ,
            lambda seen: sotw("default", response_nonce=seen[0].nonce, error_detail=refusal()),
            lambda seen: sotw("default", response_nonce=seen[0].nonce, error_detail=refusal()),
        ),
        SILENCE,
    ),
}

DELTA_CASES: Cases = {
    **cases_of_both(delta, "resource_names_subscribe"),
    "a state-of-the-world request": (
        (sotw("default", version_info="x", response_nonce="y"),),
        invalid("the request is no DeltaDiscoveryRequest"),
    ),
    "an answer to a response that never was": ((delta(response_nonce="never"),), SILENCE),
    "one answer twice": (
        (
            delta("default"),
            READ,
            lambda seen: delta(response_nonce=seen[0].nonce),
            lambda seen: delta(response_nonce=seen[0].nonce, error_detail=refusal()),
        ),
        SILENCE,
    ),
    "an end of what was never begun": ((delta(resource_names_unsubscribe=["default", "ROOTCA", "unknown"]),), SILENCE),
    "an end of thousands of names": ((delta(resource_names_unsubscribe=many(30_000)),), SILENCE),
    "an end of everything by wildcard": (
        (delta("default"), READ, delta(resource_names_unsubscribe=["*"])),
        SILENCE,
    ),
    "a name begun and ended at once": ((delta("default", resource_names_unsubscribe=["default"]),), ("default",)),
    "a version that never was": ((delta("default", initial_resource_versions={"default": "lie"}),), ("default",)),
    "a version of 500,000 letters": (
        (delta("default", initial_resource_versions={"default": "v" * 500_000}),),
        ("default",),
    ),
    "the current version under another name": (
        (delta("default", initial_resource_versions={"default": VERSIONS["ROOTCA"]}),),
        ("default",),
    ),
    "versions of what it does not want": ((delta(initial_resource_versions={"default": "1", "x": "2"}),), SILENCE),
    "thousands of versions": (
        (delta("default", initial_resource_versions=dict.fromkeys(many(20_000), "1")),),
        ("default",),
    ),
    "initial versions when nothing is initial": (
        (delta("ROOTCA"), READ, delta("default", initial_resource_versions={"default": VERSIONS["default"]})),
        ("default",),
    ),
    "a version of what does not exist": (
        (delta("gone", initial_resource_versions={"gone": "1"}),),
        Removed(("gone",)),
    ),
    "names by locator": ((delta(resource_locators_subscribe=[ResourceLocator(name="default")]),), SILENCE),
    "a refusal with a key in it": (
        (delta("default"), READ, lambda seen: delta(response_nonce=seen[0].nonce, error_detail=refusal(KEY))),
        SILENCE,
    ),
}

# Where a stream of its own and an aggregated one part ways.
BY_SERVICE: dict[str, tuple[str, str, tuple[Step, ...], Outcome]] = {
    "nothing at all, alone": ("sotw", "sds", (b"",), SILENCE),
    "nothing at all, on ADS": ("sotw", "ads", (b"",), unserved("")),
    "no type, alone": ("sotw", "sds", (sotw("default", type_url=""),), ("default",)),
    "no type, on ADS": ("sotw", "ads", (sotw("default", type_url=""),), unserved("")),
    "no type, delta, alone": ("delta", "sds", (delta("default", type_url=""),), ("default",)),
    "no type, delta, on ADS": ("delta", "ads", (delta("default", type_url=""),), unserved("")),
    "a version that is current, alone": (
        "sotw",
        "sds",
        (sotw("default", version_info=VERSIONS["default"]),),
        SILENCE,
    ),
    # there Envoy keeps the version of a type although it dropped a resource, and would wait for it in vain
    "a version that is current, on ADS": (
        "sotw",
        "ads",
        (sotw("default", version_info=VERSIONS["default"]),),
        ("default",),
    ),
}

FETCHES: dict[str, tuple[Message, Refused | tuple[str, ...]]] = {
    "garbage": (b"\xff\xff\xff\xff", invalid("the request is no DiscoveryRequest")),
    "nothing": (b"", Refused(grpc.StatusCode.NOT_FOUND, "none of the named resources exists")),
    "a wildcard": (sotw("*"), Refused(grpc.StatusCode.NOT_FOUND, "none of the named resources exists")),
    "unknown names": (sotw(*many(100)), Refused(grpc.StatusCode.NOT_FOUND, "none of the named resources exists")),
    "101 names": (sotw(*many(101)), too_many("resource_names")),
    "a name of 2049 letters": (
        sotw("x" * 2049),
        unfit("resource_names", "2049 characters: 1 to 2048 are allowed"),
    ),
    "a name with a line break": (sotw("a\nb"), unfit("resource_names", "a character that cannot be printed")),
    "another type": (
        sotw("default", type_url=CLUSTER),
        invalid(f"type_url {CLUSTER!r} is not served here: ask for {SECRET_TYPE}"),
    ),
    "lies about versions and nonces": (
        sotw("default", version_info=VERSIONS["default"], response_nonce="x", error_detail=refusal(KEY)),
        ("default",),
    ),
    "a message above the size bound": (
        sized(sotw, 1024 * 1024 + 1),
        exhausted("SERVER: Received message larger than max (1048577 vs. 1048576)"),
    ),
}


def wire(message: Message) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def fetching(rig: Rig, method: str = FETCH) -> Any:
    return rig.client.unary_unary(method)


class Peer:
    """A client of one stream that sends whatever it is told, bytes or messages."""

    def __init__(self, rig: Rig, method: str) -> None:
        self.is_delta = method in DELTA.values()
        self.call: Any = rig.client.stream_stream(method)()
        self.seen: list[Any] = []

    async def do(self, step: Step) -> None:
        if isinstance(step, Read):
            await self.read()
        elif callable(step):
            await self.send(step(self.seen))
        else:
            await self.send(step)

    async def send(self, message: Message) -> None:
        await self.call.write(wire(message))

    async def read(self) -> Any:
        raw = await asyncio.wait_for(self.call.read(), SECONDS)
        assert raw is not grpc.aio.EOF, f"{await self.call.code()}: {await self.call.details()}"
        self.seen.append((DeltaDiscoveryResponse if self.is_delta else DiscoveryResponse).FromString(raw))
        return self.seen[-1]

    async def names(self) -> tuple[str, ...]:
        response = await self.read()
        resources = [item.resource for item in response.resources] if self.is_delta else response.resources
        return tuple(sorted(unpacked(resources)))

    async def is_quiet(self) -> bool:
        """Whether nothing was sent that was not read: the answer to one more good request is the next to come."""
        nonce = self.seen[-1].nonce if self.seen else ""
        ask = delta if self.is_delta else sotw
        await self.send(ask("spiffe://example.org", response_nonce=nonce))
        return await self.names() == ("spiffe://example.org",)

    async def end(self) -> Refused:
        return Refused(await asyncio.wait_for(self.call.code(), SECONDS), await self.call.details())


@asynccontextmanager
async def attacked(directory: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[tuple[Rig, list[Any]]]:
    """An agent under attack, and our log; when the attack is over all must be as before."""
    with caplog.at_level(logging.INFO), capture_logs() as logs:
        async with Rig(directory, max_streams=20) as rig:
            await rig.hub.publish(HELD.publication)
            yield rig, logs
            await until(lambda: not rig.hub._streams)
            await serves_a_good_client(rig)
    assert [record for record in caplog.records if record.name.startswith("grpc")] == []
    assert KEY[100:150] not in str(logs) + caplog.text
    assert "PRIVATE KEY" not in str(logs) + caplog.text


async def serves_a_good_client(rig: Rig, held: AgentIdentity = HELD) -> None:
    stream = rig.sotw()
    await stream.subscribe("default", "ROOTCA")
    secrets = await stream.receive()
    assert set(secrets) == {"default", "ROOTCA"}
    assert secrets["default"].tls_certificate.private_key.inline_bytes == held.svid.private_key_pem
    stream.call.cancel()


async def suffer(rig: Rig, method: str, steps: Sequence[Step], outcome: Outcome) -> None:
    peer = Peer(rig, method)
    for step in steps:
        await peer.do(step)
    if isinstance(outcome, Refused):
        assert await peer.end() == outcome
    elif isinstance(outcome, Removed):
        response = await peer.read()
        assert (tuple(response.removed_resources), list(response.resources)) == (outcome.names, [])
    elif outcome:
        assert await peer.names() == outcome
    if not isinstance(outcome, Refused):
        assert await peer.is_quiet()
        peer.call.cancel()


@pytest.mark.parametrize("service", ["sds", "ads"])
@pytest.mark.parametrize("case", SOTW_CASES)
async def test_a_hostile_sotw_request_gets_exactly_this(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, case: str, service: str
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        await suffer(rig, SOTW[service], *SOTW_CASES[case])


@pytest.mark.parametrize("service", ["sds", "ads"])
@pytest.mark.parametrize("case", DELTA_CASES)
async def test_a_hostile_delta_request_gets_exactly_this(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, case: str, service: str
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        await suffer(rig, DELTA[service], *DELTA_CASES[case])


@pytest.mark.parametrize("case", BY_SERVICE)
async def test_a_stream_of_its_own_and_an_aggregated_one_differ_in_this(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    variant, service, steps, outcome = BY_SERVICE[case]
    async with attacked(short_tmp, caplog) as (rig, _logs):
        await suffer(rig, (SOTW if variant == "sotw" else DELTA)[service], steps, outcome)


@pytest.mark.parametrize("case", FETCHES)
async def test_a_hostile_fetch_gets_exactly_this(short_tmp: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    request, outcome = FETCHES[case]
    async with attacked(short_tmp, caplog) as (rig, _logs):
        call: Any = fetching(rig)(wire(request))
        if isinstance(outcome, Refused):
            assert Refused(await call.code(), await call.details()) == outcome
        else:
            assert tuple(unpacked(DiscoveryResponse.FromString(await call).resources)) == outcome


# Not one request but many, or none


async def test_a_key_in_a_refusal_reaches_neither_log_nor_registry(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(short_tmp, caplog) as (rig, logs):
        await suffer(rig, SOTW["sds"], *SOTW_CASES["a refusal with a key in it"])
        (event,) = [event for event in logs if event["event"] == "proxy_refused_secret"]
        assert event["reason"] == "bad: [redacted]"
        (status,) = rig.hub.proxies.all()
        assert status.refusals["default"].reason == "bad: [redacted]"


async def test_a_refusal_that_is_repeated_is_logged_once(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, logs):
        await suffer(rig, SOTW["ads"], *SOTW_CASES["one refusal twice"])
        assert len([event for event in logs if event["event"] == "proxy_refused_secret"]) == 1


@pytest.mark.parametrize("variant", ["sotw", "delta"])
async def test_a_storm_of_subscriptions_is_answered_and_harms_nobody(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, variant: str
) -> None:
    async with attacked(short_tmp, caplog) as (rig, logs):
        peer = Peer(rig, SOTW["sds"] if variant == "sotw" else DELTA["sds"])
        ask = sotw if variant == "sotw" else delta
        async with asyncio.timeout(SECONDS):
            for number in range(1000):
                await peer.send(ask("default", *many(number % 99)))
                if number % 100 == 50:
                    await serves_a_good_client(rig)
        # sotw: a response is in flight, so the others say nothing new; delta: who asks again is answered again
        for _ in range(1 if variant == "sotw" else 1000):
            assert await peer.names() == ("default",)
        peer.call.cancel()
        assert logs == []


async def test_a_storm_of_refusals_ends_by_itself(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, logs):
        peer = Peer(rig, DELTA["ads"])
        for _ in range(30):
            await peer.send(delta("default"))
        for _ in range(30):
            nonce = (await peer.read()).nonce
            await peer.send(delta("default", response_nonce=nonce, error_detail=refusal()))
        assert await peer.is_quiet(), "a version that was refused is not sent again, however often it is asked for"
        peer.call.cancel()
        assert len(logs) == 30


async def test_two_streams_of_the_same_node_are_two_streams(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        first, second = rig.sotw(), rig.delta()
        for stream in (first, second):
            await stream.subscribe("default")
            assert set(await stream.receive()) == {"default"}
        assert [(proxy.node_id, proxy.streams) for proxy in rig.hub.proxies.all()] == [("sidecar-1", 2)]
        await first.nack("no")
        first.call.cancel()
        await until(lambda: len(rig.hub._streams) == 1)
        renewed = identity(ROOT)
        await rig.hub.publish(renewed.publication)
        assert set(await second.receive()) == {"default"}, "what one refused, and that it went, is not the other's"
        second.call.cancel()
        await until(lambda: not rig.hub._streams)
        await serves_a_good_client(rig, renewed)
        await until(lambda: not rig.hub._streams)
        await rig.hub.publish(HELD.publication)


async def test_beyond_the_bound_a_stream_is_refused_and_those_within_are_served(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        within = [Peer(rig, SOTW["sds"]) for _ in range(20)]
        for peer in within:
            await peer.send(sotw("default"))
            assert await peer.names() == ("default",)
        for _ in range(30):
            assert await Peer(rig, DELTA["ads"]).end() == exhausted("20 streams are open: no more are taken")
        for peer in within:
            assert await peer.is_quiet()
            peer.call.cancel()


async def test_streams_that_never_ask_hold_a_place_and_nothing_else(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        silent = [Peer(rig, SOTW["ads"]) for _ in range(19)]
        await until(lambda: len(rig.hub._streams) == 19)
        await serves_a_good_client(rig)
        assert [proxy.node_id for proxy in rig.hub.proxies.all()] == ["sidecar-1"]
        for peer in silent:
            peer.call.cancel()


@pytest.mark.parametrize("method", [*SOTW.values(), *DELTA.values()])
async def test_a_half_closed_stream_gets_its_answer_and_a_good_end(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        peer = Peer(rig, method)
        await peer.send(delta("default") if peer.is_delta else sotw("default"))
        await peer.call.done_writing()
        assert await peer.names() == ("default",)
        assert await peer.end() == Refused(grpc.StatusCode.OK, "")
        empty = Peer(rig, method)
        await empty.call.done_writing()
        assert await empty.end() == Refused(grpc.StatusCode.OK, "")


async def test_streams_cancelled_at_any_moment_leave_nothing_behind(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        for number in range(100):
            peer = Peer(rig, [*SOTW.values(), *DELTA.values()][number % 4])
            if number % 3:
                await peer.send(delta("default") if peer.is_delta else sotw("default"))
            if number % 5 == 0:
                await rig.hub.publish(identity(ROOT).publication)
            if number % 7 == 0:
                await asyncio.sleep(0)
            peer.call.cancel()
        await until(lambda: not rig.hub._streams)
        assert all(proxy.streams == 0 for proxy in rig.hub.proxies.all())
        await rig.hub.publish(HELD.publication)


async def test_a_peer_that_reads_nothing_slows_nobody(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        stuck = Peer(rig, DELTA["sds"])
        for _ in range(300):  # the answers to these fill every window
            await stuck.send(delta("default"))
        good = rig.delta()
        await good.subscribe("default")
        await good.receive()
        for _ in range(20):
            await good.ack()
            await rig.hub.publish(identity(ROOT).publication)
            async with asyncio.timeout(1):
                assert set(await good.receive()) == {"default"}
        good.call.cancel()
        stuck.call.cancel()
        await rig.hub.publish(HELD.publication)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" + b"a" * 600,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        os.urandom(4000),
    ],
    ids=["HTTP/1.1", "TLS", "HTTP/2 with garbage frames", "noise"],
)
async def test_what_does_not_speak_grpc_is_hung_up_on(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, junk: bytes
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        reader, writer = await asyncio.open_unix_connection(str(rig.path))
        writer.write(junk)
        async with asyncio.timeout(SECONDS):
            await reader.read()
        writer.close()


async def test_headers_above_their_bound_are_refused(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        call: Any = rig.client.stream_stream(SOTW["sds"])(metadata=(("x", "y" * 100_000),))
        assert await asyncio.wait_for(call.code(), SECONDS) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(
            f"unix:{rig.path}", compression=grpc.Compression.Gzip, options=options
        ) as channel:
            fetch: Any = channel.unary_unary(FETCH)
            call = fetch(sotw("default", version_info="x" * 50_000_000).SerializeToString())
            end = Refused(await call.code(), await call.details())
        assert end == exhausted("Decompressed message larger than max")


async def test_a_method_that_there_is_not_is_unimplemented(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(short_tmp, caplog) as (rig, _logs):
        call: Any = fetching(rig, FETCH + "s")(b"")
        assert Refused(await call.code(), await call.details()) == Refused(
            grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
        )


@pytest.mark.parametrize("variant", ["sotw", "delta"])
async def test_hostile_requests_before_the_first_identity_wait_like_all_others(short_tmp: Path, variant: str) -> None:
    async with Rig(short_tmp, trust_wait=timedelta(seconds=1)) as rig:
        peer = Peer(rig, SOTW["sds"] if variant == "sotw" else DELTA["sds"])
        good = rig.sotw()
        await peer.send(b"\xff\xff\xff\xff")
        await good.subscribe("default")
        await until(lambda: len(rig.hub._streams) == 2)
        await rig.hub.publish(HELD.publication)
        assert (await peer.end()).code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(await good.receive()) == {"default"}
