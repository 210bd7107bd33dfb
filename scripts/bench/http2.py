"""Just enough of an HTTP/2 client (RFC 9113) over mutual TLS to make one gRPC call again and again, cheaply.

Requests are the same prebuilt octets on ever new stream ids. The server is told to keep no table of headers, so that
equal answers are equal octets, and each kind of trailers is decoded once. What is not understood ends the program.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import starmap

from headers import grpc_status, header_block
from tls import PATIENCE, Tls

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME, SETTING, TWO_NUMBERS = struct.Struct(">BHBBI"), struct.Struct(">HI"), struct.Struct(">II")
FIRST_WINDOW, WIDEST_WINDOW = 65_535, 2**31 - 1
LARGEST_PIECE = 16_384  # what every peer takes in one frame
ERROR_NAMES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (section 4.1)."""
    return FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def around_id(kind: int, flags: int, payload: bytes) -> tuple[bytes, bytes]:
    """What comes before the stream id in a frame, and what comes after it."""
    return frame(kind, flags, 0, payload)[:5], payload


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority (sections 6.1 and 6.2)."""
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & PRIORITY else payload


class Request:
    """The frames of one unary gRPC call, all but their stream ids."""

    def __init__(self, authority: str, path: str, message: bytes) -> None:
        fields = {":method": "POST", ":scheme": "https", ":path": path, ":authority": authority}
        fields |= {"te": "trailers", "content-type": "application/grpc", "grpc-timeout": f"{PATIENCE:.0f}S"}
        body = b"\0" + len(message).to_bytes(4, "big") + message
        pieces = [body[start : start + LARGEST_PIECE] for start in range(0, len(body), LARGEST_PIECE)]
        self.size = len(body)
        self.headers = around_id(HEADERS, END_HEADERS, header_block(fields))
        self.pieces = [
            around_id(DATA, END_STREAM if number == len(pieces) else 0, piece) for number, piece in enumerate(pieces, 1)
        ]


@dataclass(slots=True)
class Call:
    """One call under way: when it was sent, and what was answered so far."""

    sent: float = field(default_factory=time.perf_counter)
    answer: bytearray = field(default_factory=bytearray)

    def outcome(self, status: str | None) -> str:
        """`status`; but OK only with one whole message, and UNKNOWN where the server named no status."""
        if status == "OK" and (len(self.answer) < 5 or int.from_bytes(self.answer[1:5], "big") != len(self.answer) - 5):
            return "OK_WITHOUT_MESSAGE"
        return status or "UNKNOWN"


class Connection:
    """One HTTP/2 connection with any number of `request`s under way."""

    def __init__(self, tls: Tls, request: Request) -> None:
        self.calls: dict[int, Call] = {}
        self.leaving = False  # the server wants no more calls here, or is gone
        self.most_calls = WIDEST_WINDOW
        self._tls, self._request = tls, request
        self._next, self._rest, self._settled, self._ended = 1, b"", False, False
        self._window, self._unreported = FIRST_WINDOW, 0
        self._out: list[bytes] = []
        self._waiting: deque[tuple[bytes, tuple[bytes, bytes]]] = deque()
        self._outcomes: list[tuple[float, str | None]] = []
        self._greet()

    @property
    def socket(self) -> socket.socket:
        """For selectors, and to be closed."""
        return self._tls.socket

    def call(self) -> None:
        """Begins a call; `flush` sends it."""
        stream = self._next.to_bytes(4, "big")
        self.calls[self._next] = Call()
        self._next += 2
        head, block = self._request.headers
        self._out += (head, stream, block)
        self._waiting.extend((stream, piece) for piece in self._request.pieces)

    def flush(self) -> None:
        """Sends what is to be sent, as far as the server's window for the connection allows."""
        while self._waiting and len(self._waiting[0][1][1]) <= self._window:
            stream, (head, piece) = self._waiting.popleft()
            self._window -= len(piece)
            self._out += (head, stream, piece)
        if self._out and not self._ended:
            self._tls.write(b"".join(self._out))
        self._out.clear()

    def receive(self) -> list[tuple[float, str | None]]:
        """The calls that ended: when they were sent, and their status; None where the server did not look at one."""
        self._outcomes = []
        data = self._tls.read()
        if data is None:
            self._end()
            return self._outcomes
        data, at = self._rest + data, 0
        while len(data) - at >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            end = at + FRAME.size + (high << 16 | low)
            if len(data) < end:
                break
            self._frame(kind, flags, stream, data[at + FRAME.size : end])
            at = end
        self._rest = data[at:]
        return self._outcomes

    def _greet(self) -> None:
        """The preface, and all of the settings known to both before the first call (section 3.4)."""
        wishes = {HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: WIDEST_WINDOW}
        settings = frame(SETTINGS, 0, 0, b"".join(starmap(SETTING.pack, wishes.items())))
        self._out += (PREFACE, settings, self._window_update(WIDEST_WINDOW - FIRST_WINDOW))
        while not self._settled:
            self.flush()
            self.receive()
            if self.leaving:
                raise SystemExit("the server turned the connection away")
        self.flush()
        self.socket.settimeout(None)  # from here on a selector waits

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._data(flags, stream, payload)
        elif kind == HEADERS:
            self._headers(flags, stream, payload)
        elif kind == WINDOW_UPDATE:
            self._window += 0 if stream else int.from_bytes(payload, "big")  # a request fits into a stream's first one
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == RST_STREAM:
            self._done(stream, f"RST_STREAM {ERROR_NAMES[int.from_bytes(payload, 'big')]}")
        elif kind == GOAWAY:
            self._go_away(*TWO_NUMBERS.unpack_from(payload))
        elif kind in {PUSH_PROMISE, CONTINUATION}:
            raise SystemExit(f"the server sends frames of type {kind}, which are not understood here")

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        self._unreported += len(payload)
        if self._unreported > WIDEST_WINDOW // 2:
            self._out.append(self._window_update(self._unreported))
            self._unreported = 0
        if stream in self.calls:
            self.calls[stream].answer += unpadded(flags & PADDED, payload)
            if flags & END_STREAM:
                self._done(stream, None)

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not flags & END_HEADERS:
            raise SystemExit("the server sends headers in several frames, which are not understood here")
        if flags & END_STREAM:
            self._done(stream, grpc_status(unpadded(flags, payload)))

    def _done(self, stream: int, status: str | None) -> None:
        call = self.calls.pop(stream, None)
        if call:
            self._outcomes.append((call.sent, call.outcome(status)))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._settled = True
            return
        theirs = dict(SETTING.iter_unpack(payload))
        self.most_calls = theirs.get(MAX_CONCURRENT_STREAMS, self.most_calls)
        if theirs.get(INITIAL_WINDOW_SIZE, FIRST_WINDOW) < self._request.size:
            raise SystemExit("the request is larger than the server's window for a stream, which is not handled here")
        self._out.append(frame(SETTINGS, ACK, 0, b""))

    def _go_away(self, last: int, error: int) -> None:
        """The server finishes the calls up to `last` and has not looked at the others (section 6.8)."""
        if error:
            raise SystemExit(f"the server ended a connection: {ERROR_NAMES[error]}")
        self.leaving = True
        for stream in [stream for stream in self.calls if stream > last]:
            self._outcomes.append((self.calls.pop(stream).sent, None))

    def _end(self) -> None:
        """The connection is gone, and with it whatever was under way."""
        self.leaving = self._ended = True
        for stream in list(self.calls):
            self._done(stream, "UNAVAILABLE")

    @staticmethod
    def _window_update(octets: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, octets.to_bytes(4, "big"))
