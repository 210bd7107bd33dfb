"""Peers that keep to the letter of TLS and HTTP/2, or not even to that: whatever they do, others are served."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshca.proto.istio.v1.auth import ca_pb2
from meshca.proto.meshca.v1 import certificates_pb2 as pb
from meshca.settings.server import LimitSettings
from tests.doors import LIMITS, RunningDoor, csr_pem, listening, open_door
from tests.http2 import (
    END_HEADERS,
    INITIAL_WINDOW_SIZE,
    Http2,
    Kind,
    call_headers,
    connect_tcp,
    connect_tls,
    frame,
    headers,
    literal,
    message,
    ping,
    reset,
)

CHECK = "/grpc.health.v1.Health/Check"
CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WELL_SERVED = 2.0  # seconds; a quiet machine takes a hundredth of it


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDoor]:
    """A door with room for few calls at once, so that whoever takes others' places is noticed."""
    limits = LimitSettings(max_concurrent_calls=20)
    with open_door(tmp_path_factory.mktemp("door"), limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def credentials(door: RunningDoor) -> tuple[bytes, bytes]:
    return door.svid()


@pytest.fixture
def others_are_served(door: RunningDoor, credentials: tuple[bytes, bytes]) -> Iterator[None]:
    """At the end of the test, with everything that its peers have left behind."""
    yield
    check_others(door, credentials)


def check_others(door: RunningDoor, credentials: tuple[bytes, bytes]) -> None:
    """A caller with a token and one with a certificate, each on a new connection, are served without delay."""
    began = time.monotonic()
    door.svid()
    answer = door.sign(pb.SigningRequest(csr=csr_pem().encode()), credentials=credentials)
    assert answer.results[0].HasField("certificate")
    assert time.monotonic() - began < WELL_SERVED


def check_health(door: RunningDoor, address: str) -> None:
    with door.channel(to=address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WELL_SERVED)


def streams(count: int) -> range:
    """The first stream numbers of a client."""
    return range(1, 2 * count, 2)


@contextlib.contextmanager
def silent_calls(door: RunningDoor, count: int, address: str | None = None) -> Iterator[Http2]:
    """A connection with calls whose headers the server has and whose message never comes."""
    with Http2(door, address) as peer:
        peer.send(*(headers(stream, call_headers(CREATE)) for stream in streams(count)))
        peer.settle()
        yield peer


# --- requests that do not come ----------------------------------------------------------------------------------------


def test_calls_whose_message_never_comes_take_nobodys_place(
    door: RunningDoor, credentials: tuple[bytes, bytes]
) -> None:
    with silent_calls(door, 100), silent_calls(door, 100):
        check_others(door, credentials)


def test_a_call_whose_message_never_comes_is_ended_and_so_is_one_that_stops_halfway(door: RunningDoor) -> None:
    limits = replace(LIMITS, patience=timedelta(seconds=0.2))
    with listening(door, limits=limits) as address, Http2(door, address) as peer:
        peer.send(headers(1, call_headers(CHECK)), headers(3, call_headers(CHECK)))
        peer.send(frame(Kind.DATA, 0, 3, b"\0\0\0\0\x0ahalf"))
        assert peer.read_ended(2) == {1, 3}


def test_a_message_that_no_one_can_read_ends_its_call_only(door: RunningDoor) -> None:
    with Http2(door) as peer:
        peer.send(headers(1, call_headers(CHECK)), message(1, b"\xff\xff\xff"))
        peer.read_until(lambda got: got.ends(1))
        peer.send(headers(3, call_headers(CHECK)), message(3, b""))
        assert peer.read_until(lambda got: got.stream == 3 and got.kind is Kind.DATA).payload


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_header_block_that_comes_byte_by_byte_holds_up_nobody(
    door: RunningDoor, credentials: tuple[bytes, bytes]
) -> None:
    whole = headers(1, call_headers(CHECK))
    with Http2(door) as peer:
        for number, byte in enumerate(whole):
            if number == len(whole) // 2:
                check_others(door, credentials)
            peer.send(bytes((byte,)))
        peer.send(message(1, b""))
        assert peer.read_until(lambda got: got.stream == 1 and got.kind is Kind.DATA).payload


def test_one_header_repeated_by_the_thousand_is_refused(door: RunningDoor, others_are_served: None) -> None:
    """Five kilobytes on the wire, by the table that HPACK keeps, are four megabytes of headers: gRPC takes them."""
    with Http2(door) as peer:
        block = call_headers(CHECK, literal("x", "y" * 4000, remember=True)) + b"\xbe" * 1000
        peer.send(headers(1, block), message(1, b""))
        assert peer.read_until(lambda got: got.stream == 1).ends(1), "it was answered"


def test_a_header_block_without_end_ends_at_its_connection(door: RunningDoor, others_are_served: None) -> None:
    block = literal("x", "y" * 4000) * 4
    with Http2(door) as peer, contextlib.suppress(ConnectionError):
        peer.send(frame(Kind.HEADERS, 0, 1, call_headers(CREATE)))
        for _ in range(500):
            peer.send(frame(Kind.CONTINUATION, 0, 1, block))
        peer.send(frame(Kind.CONTINUATION, END_HEADERS, 1))
        peer.read_until(lambda got: got.ends(1) or got.kind is Kind.GOAWAY)


def test_more_streams_than_a_connection_may_have_are_refused(door: RunningDoor) -> None:
    limits = replace(LIMITS, patience=timedelta(minutes=10))
    with listening(door, limits=limits) as address, Http2(door, address) as peer:
        peer.send(*(headers(stream, call_headers(CHECK)) for stream in streams(300)))
        peer.read_until(lambda got: got.kind is Kind.GOAWAY or got.ends(got.stream))
        check_health(door, address)


# --- floods -----------------------------------------------------------------------------------------------------------


def test_a_flood_of_pings_ends_at_its_connection(door: RunningDoor, others_are_served: None) -> None:
    with Http2(door) as peer:
        with contextlib.suppress(ConnectionError):
            peer.send(*map(ping, range(2000)))
        assert peer.hung_up()


@pytest.mark.parametrize("with_message", [False, True], ids=["headers only", "whole calls"])
def test_a_flood_of_calls_that_are_reset_at_once(
    door: RunningDoor, credentials: tuple[bytes, bytes], with_message: bool
) -> None:
    """CVE-2023-44487, rapid reset: a stream that is reset counts no more among those that a connection may have."""
    request = ca_pb2.IstioCertificateRequest(csr=csr_pem()).SerializeToString()
    with Http2(door) as first, Http2(door) as second:
        for stream in streams(3000):
            frames = (message(stream, request),) if with_message else ()
            with contextlib.suppress(ConnectionError):
                peer = first if stream % 4 == 1 else second
                peer.send(headers(stream, call_headers(CREATE)), *frames, reset(stream))
        check_others(door, credentials)
    check_others(door, credentials)


# --- connections that do not go on -----------------------------------------------------------------------------------


def test_connections_that_never_finish_their_handshake_hold_up_nobody(
    door: RunningDoor, credentials: tuple[bytes, bytes]
) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(100):
            raw = stack.enter_context(connect_tcp(door.addresses.token if number % 2 else door.addresses.mtls))
            if number % 3:
                raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: number % 11])
        check_others(door, credentials)


@pytest.mark.slow
def test_a_connection_that_never_finishes_its_handshake_is_closed(door: RunningDoor) -> None:
    with connect_tcp(door.addresses.token) as raw:
        raw.settimeout(20)
        raw.sendall(b"\x16\x03\x01")
        assert raw.recv(1) == b""


def test_connections_that_say_nothing_after_their_handshake_hold_up_nobody(
    door: RunningDoor, credentials: tuple[bytes, bytes]
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect_tls(door))
        check_others(door, credentials)


def test_peers_that_let_no_answer_through_take_nobodys_place(
    door: RunningDoor, credentials: tuple[bytes, bytes]
) -> None:
    """Their flow control window is zero, for good."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            peer = stack.enter_context(Http2(door, settings=[(INITIAL_WINDOW_SIZE, 0)]))
            for stream in streams(100):
                peer.send(headers(stream, call_headers(CHECK)), message(stream, b""))
            peer.settle()
        check_others(door, credentials)


def test_peers_that_never_read_take_nobodys_place(door: RunningDoor, credentials: tuple[bytes, bytes]) -> None:
    with Http2(door) as first, Http2(door) as second:
        for peer in (first, second):
            for stream in streams(1000):
                peer.send(headers(stream, call_headers(CREATE)), message(stream, b""))
        check_others(door, credentials)


def test_reflection_that_nobody_reads_is_over_after_a_while(door: RunningDoor) -> None:
    question = b"\x3a\x01*"  # list_services
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(Http2(door, settings=[(INITIAL_WINDOW_SIZE, 0)]))
        for stream in streams(100):
            peer.send(headers(stream, call_headers(REFLECTION)), frame(Kind.DATA, 0, stream, b"\0\0\0\0\3" + question))
        peer.read_ended(36)  # there is room for 64 at once
        deadline = time.monotonic() + 15
        while not reflects(door):
            assert time.monotonic() < deadline, "who does not read holds the others' places for good"


def reflects(door: RunningDoor) -> bool:
    """Whether there is room for one more reflection stream."""
    with Http2(door) as peer:
        peer.send(headers(1, call_headers(REFLECTION)), message(1, b"\x3a\x01*"))
        return peer.read_until(lambda got: got.stream == 1 and (got.ends(1) or got.kind is Kind.DATA)).kind is Kind.DATA


def test_a_door_with_hostile_peers_closes_in_time(door: RunningDoor) -> None:
    with contextlib.ExitStack() as stack:
        with listening(door) as address:
            stack.enter_context(connect_tcp(address))
            stack.enter_context(silent_calls(door, 20, address))
            peer = stack.enter_context(Http2(door, address, [(INITIAL_WINDOW_SIZE, 0)]))
            for stream in streams(20):
                peer.send(headers(stream, call_headers(CHECK)), message(stream, b""))
            peer.settle()
            began = time.monotonic()
        assert time.monotonic() - began < WELL_SERVED
