"""HTTP/2 by hand (RFC 9113), for peers that no client library would be: frames, and header blocks of literals."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from tests.doors import RunningDoor

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE = 0x4


class Kind(IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: Kind
    flags: int
    stream: int
    payload: bytes

    def ends(self, stream: int) -> bool:
        """Whether the stream is over with it."""
        if self.stream != stream:
            return False
        return self.kind is Kind.RST_STREAM or (
            self.kind in (Kind.DATA, Kind.HEADERS) and bool(self.flags & END_STREAM)
        )


def frame(kind: Kind, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame on the wire (section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str, *, remember: bool = False) -> bytes:
    """A header as a literal with a new name (RFC 7541 section 6.2), put into the dynamic table where `remember`."""
    return (b"\x40" if remember else b"\x00") + _string(name) + _string(value)


def _string(text: str) -> bytes:
    data, size = text.encode(), len(text)
    if size < 127:
        return bytes((size,)) + data
    rest, length = size - 127, bytearray(b"\x7f")
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + data


def call_headers(method: str, *more: bytes) -> bytes:
    """The header block of a gRPC call, such as `/grpc.health.v1.Health/Check`."""
    head = {":method": "POST", ":scheme": "https", ":path": method, ":authority": "localhost"}
    rest = {"content-type": "application/grpc", "te": "trailers"}
    return b"".join((*(literal(*pair) for pair in {**head, **rest}.items()), *more))


def headers(stream: int, block: bytes) -> bytes:
    """A whole header block on a stream, whose data is still to come."""
    return frame(Kind.HEADERS, END_HEADERS, stream, block)


def message(stream: int, data: bytes) -> bytes:
    """A gRPC message, the last of its stream."""
    return frame(Kind.DATA, END_STREAM, stream, b"\0" + len(data).to_bytes(4, "big") + data)


def reset(stream: int) -> bytes:
    """CANCEL."""
    return frame(Kind.RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


def ping(number: int) -> bytes:
    """A ping that its number tells apart."""
    return frame(Kind.PING, 0, 0, number.to_bytes(8, "big"))


def connect_tls(
    door: RunningDoor, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, address: str | None = None
) -> ssl.SSLSocket:
    """A connection to the token listener, or to `address`."""
    context = ssl.create_default_context(cadata=door.root.decode())
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    return context.wrap_socket(connect_tcp(address or door.addresses.token), server_hostname="localhost")


def connect_tcp(address: str) -> socket.socket:
    """A bare connection; what takes longer than ten seconds fails."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


class Http2:
    """A connection of ours to the token listener of a door, or to `address`."""

    def __init__(self, door: RunningDoor, address: str | None = None, settings: Sequence[tuple[int, int]] = ()) -> None:
        self._socket = connect_tls(door, address=address)
        payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings)
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(Kind.SETTINGS, payload=payload))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        """Sends all of it. Raises ConnectionError where the server has hung up."""
        try:
            self._socket.sendall(b"".join(frames))
        except ssl.SSLEOFError as error:
            raise ConnectionResetError("the server hung up") from error

    def read(self) -> Frame:
        """The next frame. Raises ConnectionError where the server hung up, TimeoutError where none comes in time."""
        head = self._read_exactly(9)
        size, stream = int.from_bytes(head[:3], "big"), int.from_bytes(head[5:], "big")
        return Frame(Kind(head[3]), head[4], stream, self._read_exactly(size))

    def settle(self) -> None:
        """Returns when the server has taken what was sent before."""
        self.send(ping(2**60))
        self.read_until(lambda got: got.kind is Kind.PING and got.payload == (2**60).to_bytes(8, "big"))

    def read_until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that is wanted."""
        while not wanted(got := self.read()):
            pass
        return got

    def read_ended(self, count: int) -> set[int]:
        """The first `count` streams that the server ends."""
        ended: set[int] = set()
        while len(ended) < count:
            got = self.read()
            if got.ends(got.stream):
                ended.add(got.stream)
        return ended

    def hung_up(self) -> bool:
        """Whether the server ends the connection; what else it sends is passed over."""
        try:
            while self.read().kind is not Kind.GOAWAY:
                pass
        except ConnectionError:
            pass
        return True

    def _read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self._socket.recv(count - len(data))
            except ssl.SSLEOFError:
                more = b""
            if not more:
                raise ConnectionResetError("the server hung up")
            data += more
        return data
